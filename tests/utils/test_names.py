"""Test the recognition of Hub ids, local paths and reserved names."""

import pytest

from selfexplain.utils.names import is_hub_id, is_reserved, looks_like_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", True),
        ("org-1/name.v2_x", True),
        ("name", False),
        ("a/b/c", False),
        ("./name", False),
        ("/name", False),
        ("org/", False),
        ("org/name\n", False),
    ],
)
def test_hub_ids(name, expected):
    assert is_hub_id(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("./a", True), ("/a", True), ("~/a", True), ("a/b/c", True), ("a/b", False), ("a", False)]
)
def test_paths(name, expected):
    assert looks_like_path(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("selfexplain/tiny", True), ("selfexplain/tiny-world", True), ("selfexplain/other", False), ("tiny", False)],
)
def test_reserved_names(name, expected):
    assert is_reserved(name) == expected
