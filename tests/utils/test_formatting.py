"""Test how durations, sizes, counts and names are written."""

import pytest

from selfexplain.utils.formatting import format_bytes, format_count, format_duration, format_name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (42, "42 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (7530, "2 h 5 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(1.24e6, "1.2 MB"), (999e6, "999.0 MB"), (3.44e9, "3.4 GB")])
def test_sizes(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "row", "1 row"),
        (0, "row", "0 rows"),
        (1500, "row", "1,500 rows"),
        (1.0, "hour", "1 hour"),
        (2.5, "hour", "2.5 hours"),
    ],
)
def test_counts(number, noun, text):
    assert format_count(number, noun) == text


def test_names():
    assert format_name("has_changed_macro_f1") == "has changed macro F1"
    assert format_name("selfie") == "SelfIE"
