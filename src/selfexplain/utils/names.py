"""Recognise Hub ids, local paths and reserved names."""

import re

from selfexplain.bundled import NAMES, TINY_WORLD

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a string has the form of a repository id on the Hub, `org/name`."""
    return _HUB_ID.fullmatch(name) is not None


def is_reserved(name: str) -> bool:
    """Whether a name belongs to a model or corpus that ships with the package."""
    return name in NAMES or name == TINY_WORLD


def looks_like_path(name: str) -> bool:
    """Whether a name is written as a path: it starts with `.`, `/` or `~`, or has more than one `/`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1
