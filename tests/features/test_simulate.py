"""Offline scores of descriptions: simulation, detection and fuzzing."""

import numpy as np
import pytest

from chat_windows import WINDOWS
from selfexplain.features.description import Description
from selfexplain.features.simulate import balanced_accuracy, detect, fuzz, fuzzing, score, simulate

CLASSES = {"countries": {"France", "Chile", "Japan"}}


def test_simulation_is_one_on_matching_tokens_and_zero_elsewhere():
    tokens = [" The", "France", ",", "cat", " 12", "The"]
    assert simulate(Description.of_tokens(["The"]), tokens).tolist() == [1, 0, 0, 0, 0, 1]
    assert simulate(Description.of_tokens(["The"], after=True), tokens).tolist() == [0, 1, 0, 0, 0, 0]
    assert simulate(Description.of_class("punctuation", {}), tokens).tolist() == [0, 0, 1, 0, 0, 0]
    assert simulate(Description.of_class("numbers", {}), tokens).tolist() == [0, 0, 0, 0, 1, 0]
    assert simulate(Description.of_class("capitalised words", {}), tokens).tolist() == [1, 1, 0, 0, 0, 1]
    assert simulate(Description.of_class("countries", CLASSES), tokens).tolist() == [0, 1, 0, 0, 0, 0]


def test_the_score_is_the_correlation_over_the_tokens_of_all_windows():
    data = [
        {"tokens": ["a", "b", "c"], "activations": [2.0, 0.0, 1.0]},
        {"tokens": ["b", "b"], "activations": [0.0, 0.5]},
    ]
    expected = np.corrcoef([1, 0, 0, 0, 0], [2, 0, 1, 0, 0.5])[0, 1]
    assert score(Description.of_tokens(["a"]), data) == pytest.approx(expected)
    assert score(Description.of_tokens(["z"]), data) == 0.0
    assert score(None, data) == 0.0
    assert score(Description.of_tokens(["a"]), [{"tokens": ["a", "b"], "activations": [1.0, 1.0]}]) == 0.0


def test_detection_is_the_balanced_accuracy_over_windows():
    data = [{"tokens": ["a"], "activations": [1.0]}] * 3 + [{"tokens": ["b"], "activations": [1.0]}]
    data += [{"tokens": ["c"], "activations": [0.01]}, {"tokens": ["a"], "activations": [0.0]}]
    assert detect(Description.of_tokens(["a"]), data) == pytest.approx((0.75 + 0.5) / 2)
    assert detect(None, data) == detect(Description.of_tokens(["a"]), data[:4]) == 0.5
    assert detect(Description.of_class("numbers", {}), data) == 0.5


def test_fuzzing_highlights_as_many_inactive_tokens_as_active_ones():
    windows = fuzz(WINDOWS * 5, seed=0)
    assert (
        sum(window.correct for window in windows) == len(windows) / 2 == 5
    )  # the second window has too few inactive tokens
    for correct, incorrect in zip(windows[::2], windows[1::2], strict=True):
        assert correct.tokens == incorrect.tokens and correct.highlighted.sum() == incorrect.highlighted.sum()
        assert not (correct.highlighted & incorrect.highlighted).any()
    assert fuzzing(Description.of_tokens(["cat"]), WINDOWS * 5) == 1.0
    assert fuzzing(Description.of_tokens(["sat"]), WINDOWS * 5) < 0.5 == fuzzing(None, WINDOWS)


def test_balanced_accuracy_is_the_mean_recall_of_both_classes():
    assert balanced_accuracy([True, True, False, False], [True, False, False, False]) == pytest.approx((1 + 2 / 3) / 2)
    assert balanced_accuracy([True, False], [True, True]) is None
    assert balanced_accuracy([True, False], [False, False]) is None
