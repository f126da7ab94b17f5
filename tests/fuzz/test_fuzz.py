"""Test a few generated inputs of every area; `make fuzz` runs 100,000."""

import pytest

from fuzz.areas import AREAS
from fuzz.fuzzing import fuzz


def test_the_shares_add_up():
    assert sum(area.share for area in AREAS.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", list(AREAS))
def test_inputs_are_accepted_or_refused_with_our_error(name):
    outcome = fuzz(name, n_inputs=20)
    assert not outcome.failures and outcome.total == 20
