"""Questions about removed parts of the input."""

import pytest

from asking.ablation import ask_ablation
from selfexplain.errors import SelfExplainError


def ask_example(show, index):
    example = show.examples["input_ablation"][index]
    return ask_ablation(show, example.text, example.remove)


def test_the_notes_of_the_curated_examples_are_true(show):
    followed, ignored, incorrect = (ask_example(show, index) for index in range(3))
    assert followed.before == "Ankara" and followed.after == "Dhaka" and followed.explanation.correct
    assert ignored.before == ignored.after == "Yerevan" and ignored.explanation.correct
    assert incorrect.explanation.correct is False


@pytest.mark.parametrize(("remove", "message"), [("Lima", "0 times"), ("The capital", "the whole text")])
def test_a_part_that_is_missing_or_the_whole_text_is_an_error(show, remove, message):
    with pytest.raises(SelfExplainError, match=message):
        ask_ablation(show, "The capital", remove)
