"""Controls: what each of them removes, and what it keeps."""

import copy

import numpy as np
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.controls import shuffled_vector, text_only, zero_vector
from selfexplain.tasks.question import PLACEHOLDER


def donors_of(rows, shuffled):
    """For each shuffled row, the row that its vector came from."""
    by_vector = {row["activations"].tobytes(): row for row in rows}
    return [by_vector[row["activations"].tobytes()] for row in shuffled]


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_vectors_come_from_another_group_and_the_same_layers(patching_rows, seed):
    donors = donors_of(patching_rows, shuffled_vector(patching_rows, seed))
    for row, donor in zip(patching_rows, donors, strict=True):
        assert donor["group"] != row["group"]
        assert donor["activation_layers"] == row["activation_layers"]
    assert len({id(donor) for donor in donors}) == len(patching_rows)


def test_a_group_with_most_of_the_rows_gets_vectors_from_other_layers(patching_rows):
    rows = [{**row, "group": "large"} if row["activation_layers"] == [1] else row for row in patching_rows]
    for row, donor in zip(rows, donors_of(rows, shuffled_vector(rows, 0)), strict=True):
        assert donor["group"] != row["group"]


def test_a_single_group_cannot_be_shuffled(patching_rows):
    with pytest.raises(SelfExplainError, match=r"belong to group 'fact0'. Evaluate on rows of at least two groups"):
        shuffled_vector([row for row in patching_rows if row["group"] == "fact0"][:2], 0)


def test_shuffling_is_determined_by_the_seed(patching_rows):
    first, again, other = (shuffled_vector(patching_rows, seed) for seed in (0, 0, 1))
    assert all((a["activations"] == b["activations"]).all() for a, b in zip(first, again, strict=True))
    assert any((a["activations"] != b["activations"]).any() for a, b in zip(first, other, strict=True))


def test_zero_vectors_keep_their_shape_and_layers(patching_rows):
    for row, zeroed in zip(patching_rows, zero_vector(patching_rows), strict=True):
        assert zeroed["activations"].shape == row["activations"].shape and not zeroed["activations"].any()
        assert zeroed["activation_layers"] == row["activation_layers"]


def test_text_only_removes_placeholders_and_keeps_the_same_words_in_the_text():
    prompt = f"{PLACEHOLDER} and {PLACEHOLDER} in <<<a {PLACEHOLDER} b>>>"
    row = {
        "prompt": prompt,
        "placeholder_offsets": [0, prompt.index("and") + 4],
        "activations": np.ones((2, 4)),
        "activation_layers": [1, 2],
    }
    (stripped,) = text_only([row])
    assert stripped["prompt"] == f" and  in <<<a {PLACEHOLDER} b>>>"
    assert stripped["placeholder_offsets"] == stripped["activations"] == stripped["activation_layers"] == []


def test_controls_return_new_rows(patching_rows):
    before = copy.deepcopy(patching_rows)
    for changed in (shuffled_vector(patching_rows, 0), zero_vector(patching_rows), text_only(patching_rows)):
        assert all(new["completion"] == row["completion"] for new, row in zip(changed, patching_rows, strict=True))
    for row, copied in zip(patching_rows, before, strict=True):
        np.testing.assert_array_equal(row.pop("activations"), copied.pop("activations"))
        assert row == copied
