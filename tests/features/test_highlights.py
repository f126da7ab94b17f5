"""What a reader of exemplars sees: active windows, highlighted tokens, activation levels."""

import numpy as np

from chat_windows import WINDOWS
from selfexplain.features.highlights import active_windows, highlighted_text, highlights, levels


def test_a_window_is_active_relative_to_the_strongest_one():
    assert active_windows(WINDOWS).tolist() == [True, True, False, False]
    weak = {"tokens": ["a"], "activations": np.array([0.8], np.float32)}
    assert active_windows([*WINDOWS, weak]).tolist() == [True, True, False, False, False]
    assert active_windows([weak]).tolist() == [True]
    assert active_windows([]).tolist() == []


def test_a_token_is_highlighted_relative_to_the_peak_of_its_window():
    assert [highlights(window).tolist() for window in WINDOWS[:3]] == [
        [False, True, False, False],
        [False, True, True],
        [False, False, False],
    ]


def test_levels_are_relative_to_the_strongest_activation_of_all_windows():
    assert [level.tolist() for level in levels(WINDOWS)] == [[0, 10, 2, 0], [0, 5, 4], [0, 0, 0], [0, 0, 0]]
    assert [level.tolist() for level in levels(WINDOWS[2:])] == [[0, 0, 0], [0, 0, 0]]


def test_runs_of_highlighted_tokens_are_marked():
    tokens = ["a", " b", " c", " d"]
    assert highlighted_text(tokens, np.array([True, False, True, True])) == "<<a>> b<< c d>>"
    assert highlighted_text(tokens, np.zeros(4, bool)) == "a b c d"
