"""Read `key=value` overrides of a recipe from the command line."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from selfexplain.errors import SelfExplainError
from selfexplain.utils.parsing import check_scalar, parse_yaml

NULLS = ("", "null", "Null", "NULL")
"""Spellings of null for a key whose value may be text or null. `~` is text there, because it begins paths."""


def apply_override(data: dict[str, Any], override: str, settings: type) -> None:
    """Set the value of one override in the data of a recipe.

    A value of a key that holds text is taken literally, so that `#`, `:`, `{` and spaces need no second level of
    quotes. If it is in YAML quotes, it is read as YAML. Values of all other keys are YAML.

    Args:
        data: the recipe's keys and values, which are changed.
        override: a dotted key and a value, such as `training.epochs=5`.
        settings: dataclass of the recipe.

    Raises:
        SelfExplainError: the override is not of the form key=value, or the value is not valid YAML or contains half of
            a surrogate pair.
    """
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise SelfExplainError(f"Override {override!r} is not of the form key=value, such as training.epochs=5.")
    check_scalar(override, f"Override {override!r}")
    parts, hint = _find(settings, parts)
    *sections, last = parts
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise SelfExplainError(
                f"Override {override!r}: {section} is a value, not a section with keys. Override {section} itself."
            )
    data[last] = _value(text, hint, override)


def _find(settings: type, parts: Sequence[str]) -> tuple[list[str], Any]:
    """The parts of a key, where a name in a mapping is one part even if it contains dots; and the type of its value."""
    hint: Any = settings
    for index, part in enumerate(parts):
        if get_origin(hint) is dict:
            return [*parts[:index], ".".join(parts[index:])], get_args(hint)[1]
        hint = get_type_hints(hint).get(part) if is_dataclass(hint) else None
    return list(parts), hint


def _value(text: str, hint: Any, override: str) -> Any:
    if hint is None:
        return text  # the key does not exist; the check of the recipe names the nearest one
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if type(None) in members and text.strip() in NULLS:
        return None
    is_text = any(member is str or get_origin(member) is Literal for member in members)
    brackets = {"[": tuple, "{": dict}
    is_nested = any(get_origin(member) is brackets.get(text.lstrip()[:1], ()) for member in members)
    if is_text and not is_nested:
        quoted = text.strip()
        if len(quoted) < 2 or quoted[0] not in "\"'" or quoted[0] != quoted[-1]:
            return text
        try:
            value = parse_yaml(quoted, "")
        except SelfExplainError:  # such as 'a' and 'b'
            return text
        return value if isinstance(value, str) else text
    try:
        return parse_yaml(text, f"The value of override {override!r}")
    except SelfExplainError as error:
        raise SelfExplainError(f"{error} Quote special characters as YAML requires it.") from error
