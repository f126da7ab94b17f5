"""Settings of training."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.training.config import TrainingConfig


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(SelfExplainError, match=rf"training.share is {share:g}\. Give a fraction"):
        TrainingConfig(share=share)


def test_a_share_of_1_is_accepted():
    assert TrainingConfig(share=1).share == 1
