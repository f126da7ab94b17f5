"""Read block outputs, and check layer numbers."""

import numpy as np
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


@pytest.mark.parametrize(
    "layers",
    [
        [1, 2],
        (1, -2),
        range(1, 3),
        np.array([1, 2]),
        torch.tensor([1, 2]),
        iter([1, 2]),
        [np.int64(1), torch.tensor(2)],
    ],
)
def test_layers_may_be_any_sequence_of_integers(layers):
    assert check_layers(layers, 4) == [1, 2]


@pytest.mark.parametrize("layer", [2, np.int64(2), np.array(2), torch.tensor(2), -2])
def test_a_single_layer_may_be_given_without_a_list(layer):
    assert check_layers(layer, 4) == [2]


@pytest.mark.parametrize("layers", [None, "1", ["1"], 0.5, [0.5], True, [[1]], np.array([0.5]), {"a": 1}])
def test_layers_that_are_not_integers_raise_an_error(layers):
    with pytest.raises(SelfExplainError, match="Expected an integer, or a list, range or array of integers"):
        check_layers(layers, 4)


def test_capture_reads_each_layer_once_from_an_iterator():
    model, ids = tiny_model("gemma3_text"), torch.arange(3, 13)[None]
    torch.testing.assert_close(capture(model, ids, iter([2, 0])), capture(model, ids, [2, 0]))
    torch.testing.assert_close(capture(model, ids, 2), capture(model, ids, [2]))
