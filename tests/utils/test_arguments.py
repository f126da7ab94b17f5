"""Test the checks of values that callers pass."""

import numpy as np
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.utils.arguments import as_integer, as_integers, as_list, as_text, as_texts, field_of


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3])])
def test_integers_of_any_library_are_integers(value):
    assert as_integer(value, "layer") == 3 and type(as_integer(value, "layer")) is int


@pytest.mark.parametrize("value", [None, "3", 3.0, torch.tensor(3.0), torch.tensor([1, 2]), [3], 2**63, 10**400])
def test_everything_else_is_not_an_integer(value):
    with pytest.raises(SelfExplainError, match=r"^layer is .{1,90}Expected (an integer|a smaller one)\.$"):
        as_integer(value, "layer")


@pytest.mark.parametrize("values", [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), range(1, 3), iter([1, 2])])
def test_lists_of_integers(values):
    assert as_integers(values, "layers") == [1, 2]


@pytest.mark.parametrize("values", [None, 3, "12", b"12", {1: 2}, torch.tensor(1), np.array(1)])
def test_what_is_not_a_list_is_refused(values):
    with pytest.raises(SelfExplainError, match=r"^layers is .*Expected a list of integers"):
        as_integers(values, "layers")
    with pytest.raises(SelfExplainError, match=r"layers\[1\] is None\. Expected an integer"):
        as_integers([1, None], "layers")
    assert as_list((None, 1), "values", "values") == [None, 1]


def test_text_can_be_encoded():
    assert as_text("é😀\0", "text") == "é😀\0" and as_texts(("a", "b"), "choices") == ["a", "b"]
    for value in (None, 3, b"a", ["a"]):
        with pytest.raises(SelfExplainError, match=r"text is .*Expected text\."):
            as_text(value, "text")
    with pytest.raises(SelfExplainError, match=r"choices\[1\] contains half of a surrogate pair at character 1"):
        as_texts(["a", "b\ud800"], "choices")


def test_fields_of_rows():
    assert field_of({"prompt": None}, "prompt") is None
    with pytest.raises(SelfExplainError, match=r"The row has the fields 'a'\. Expected 'prompt' too"):
        field_of({"a": 1}, "prompt")
    with pytest.raises(SelfExplainError, match=r"The row is 3\. Expected a mapping of fields"):
        field_of(3, "prompt")
