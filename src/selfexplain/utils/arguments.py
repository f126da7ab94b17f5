"""Check the types of values that callers pass, so that a value of the wrong type is a clear error."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from selfexplain.errors import SelfExplainError


def as_integer(value: Any, name: str) -> int:
    """An integer, also of NumPy or torch.

    Args:
        value: the value.
        name: what it is, for the error.

    Raises:
        SelfExplainError: it is not an integer, or has more than 64 bits.
    """
    try:
        integer = operator.index(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _wrong(value, name, "an integer") from error
    if not -(2**63) <= integer < 2**63:
        raise _wrong("an integer of more than 64 bits", name, "a smaller one")
    return integer


def as_integers(values: Any, name: str) -> list[int]:
    """A list of integers; see `as_integer`."""
    return [as_integer(value, f"{name}[{index}]") for index, value in enumerate(as_list(values, name, "integers"))]


def as_text(value: Any, name: str) -> str:
    """A string without lone surrogates, which UTF-8 and tokenizers cannot encode.

    Raises:
        SelfExplainError: it is not a string, or contains half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise _wrong(value, name, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SelfExplainError(
            f"{name} contains half of a surrogate pair at character {error.start}. Expected text that can be encoded "
            "as UTF-8."
        ) from error
    return value


def as_texts(values: Any, name: str) -> list[str]:
    """A list of strings; see `as_text`."""
    return [as_text(value, f"{name}[{index}]") for index, value in enumerate(as_list(values, name, "texts"))]


def as_list(values: Any, name: str, kind: str) -> list[Any]:
    """The members of a list, tuple, array or other iterable that is not text or a mapping.

    Args:
        values: the iterable.
        name: what it is, for the error.
        kind: what its members are, for the error.

    Raises:
        SelfExplainError: it is not such an iterable.
    """
    try:
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise TypeError
        return list(values)
    except TypeError as error:  # such as a tensor without dimensions
        raise _wrong(values, name, f"a list of {kind}") from error


def field_of(row: Any, name: str) -> Any:
    """The value of a row's field.

    Raises:
        SelfExplainError: the row is not a mapping, or lacks the field.
    """
    if not isinstance(row, Mapping):
        raise _wrong(row, "The row", "a mapping of fields to values")
    if name not in row:
        raise SelfExplainError(f"The row has the fields {', '.join(map(repr, row)) or 'none'}. Expected {name!r} too.")
    return row[name]


def _wrong(value: Any, name: str, expected: str) -> SelfExplainError:
    shown = repr(value)
    return SelfExplainError(f"{name} is {shown if len(shown) <= 80 else shown[:77] + '...'}. Expected {expected}.")
