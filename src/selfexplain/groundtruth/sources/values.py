"""Check the values of a source: which count as text, and what is left out."""

import ast
import math
import re
from collections import Counter
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.utils.parsing import parse_json

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_COMMA = re.compile(r"""['"]\s+['"]""")  # between the items of a printed numpy array


class Skips:
    """Counts of what is left out of a source: reason -> number, with the place of the first one."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, place: int | str) -> None:
        """Count one more.

        Args:
            reason: why it is left out.
            place: number of its row, or its place in words.
        """
        self._counts[reason] += 1
        self._first.setdefault(reason, f"row {place}" if isinstance(place, int) else place)

    def counter(self) -> Counter[str]:
        """Reason, with the place of the first one -> number."""
        return Counter({f"{reason} (first: {self._first[reason]})": n for reason, n in self._counts.items()})


def as_text(value: Any) -> str | None:
    """A value as text; None for null, NaN, blank text, half of a surrogate pair, and values of other types."""
    return value if isinstance(value, str) and value.strip() and not _SURROGATE.search(value) else None


def as_word(value: Any) -> str | None:
    """Like `as_text`, for short values such as names and answers, which may also be finite numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return as_text(value)


def is_missing(value: Any) -> bool:
    """Whether a value is null, NaN or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def as_words(value: Any, delimiters: str) -> list[str] | None:
    """A list of short values as text; None if it is not a list of such values. Missing values are an empty list.

    Args:
        value: a list; or text that is a list in JSON or Python, or that contains one of the delimiters.
        delimiters: characters that separate the items of text. The first one that occurs is used.
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and text.endswith("]"):
            return as_words(parsed, delimiters) if isinstance(parsed := _literal(text), list) else None
        delimiter = next((character for character in delimiters if character in text), None)
        value = [item.strip() for item in text.split(delimiter)] if delimiter else [text]
    words = [as_word(item) for item in value] if isinstance(value, list | tuple) else [None]
    return [word for word in words if word is not None] if None not in words else None


def _literal(text: str) -> Any:
    """The value of a JSON or Python literal; None if the text is neither."""
    try:
        return parse_json(text, "list")
    except SelfExplainError:
        pass
    try:
        return None if _NO_COMMA.search(text) else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
