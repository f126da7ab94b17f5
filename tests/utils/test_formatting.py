"""Numbers and names as people read them."""

import pytest

from selfexplain.utils.formatting import format_bytes


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (3_400_000_000, "3.4 GB"),
        (5_000_000_000_000, "5,000.0 GB"),
    ],
)
def test_bytes_have_decimal_units(n_bytes, expected):
    assert format_bytes(n_bytes) == expected
