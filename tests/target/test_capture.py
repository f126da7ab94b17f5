"""Read block outputs, and check layer numbers."""

import pytest
import torch

from battery import tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.target.capture import capture, check_layers


def test_layers_count_from_either_end_and_invalid_layers_raise_an_error():
    assert check_layers([0, -1, 2], 4) == [0, 3, 2]
    with pytest.raises(SelfExplainError, match="has layers 0 to 3"):
        check_layers([4], 4)
    with pytest.raises(SelfExplainError, match="has layers 0 to 3"):
        check_layers([], 4)


def test_capture_returns_the_hidden_states_of_transformers():
    model = tiny_model("gemma3_text")
    ids = torch.randint(3, 500, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(capture(model, ids, [0, 2]), torch.stack([hidden[1], hidden[3]]))
