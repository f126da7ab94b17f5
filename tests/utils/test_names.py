"""Test the recognition of Hub ids, local paths and reserved names."""

from pathlib import Path

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.utils.names import (
    check_file_name,
    check_relative_path,
    is_hub_id,
    is_reserved,
    local_path,
    looks_like_path,
)


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


NOT_FILE_NAMES = [
    "",
    ".",
    "..",
    ".hidden",
    "-x",
    "a/b",
    "../../x",
    "/etc",
    "a b",
    "a\\b",
    "a\0",
    "a\n",
    "<b>",
    "x" * 97,
]
NOT_RELATIVE = ["", "/", "/etc/passwd", "..", "../x", "a/../../b", "a//b", "a/", "./a", "a/.", "a\\b", "C:/x", "a\0b"]


@pytest.mark.parametrize("name", NOT_FILE_NAMES)
def test_names_that_are_not_file_names_are_refused(name):
    with pytest.raises(SelfExplainError, match=r"is not a valid name\. Expected at most 96 letters"):
        check_file_name(name)


@pytest.mark.parametrize("path", NOT_RELATIVE)
def test_paths_that_could_leave_a_directory_are_refused(path):
    with pytest.raises(SelfExplainError, match="is not a relative path inside the run directory"):
        check_relative_path(path)


def test_safe_names_and_paths_are_returned():
    for name in ("tiny", "llama_3.2_1b", "über-1", "_x", "x" * 96):
        assert check_file_name(name) == name
    for path in ("a", "datasets/a/train.parquet", "..a/b", "a b/c"):
        assert check_relative_path(path) == path


def test_a_local_path_expands_the_home_directory_where_it_can():
    assert local_path("~/x") == Path.home() / "x"
    assert local_path("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
    assert local_path("org/name.v1") == Path("org/name.v1")


@pytest.mark.parametrize("name", ["x" * 256, "ä" * 128, "org/" + "x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_raises_an_error(name):
    with pytest.raises(SelfExplainError, match="cannot be the name of a file or of a repository"):
        local_path(name)
