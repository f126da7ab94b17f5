"""Parse YAML and JSON text that may come from strangers, into plain values: mappings, lists, text, numbers, true, null.

Everything that a plain value cannot hold, or that costs far more than its size suggests, is an error.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from selfexplain.errors import SelfExplainError

MAX_CHARACTERS = 256 * 1024
"""Longest YAML text. PyYAML reads about 100,000 characters per second."""

MAX_VALUES = 20_000
"""Largest number of values of a YAML text, counting the values of an anchor again at each of its aliases."""

MAX_DEPTH = 50
"""Deepest nesting of mappings and lists."""

MAX_DIGITS = 64
"""Longest number, in characters."""

_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """Read a UTF-8 YAML file (`parse_yaml`).

    Raises:
        SelfExplainError: the file cannot be read, or see `parse_yaml`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_CHARACTERS + 1)
        return parse_yaml(content.decode("utf-8-sig"), str(path))
    except OSError as error:
        raise SelfExplainError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SelfExplainError(f"{path} is not valid UTF-8: {error.reason} at byte {error.start}.") from error


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML 1.1 document, in which `1e-3` is also a number and dates are text.

    Anchors, aliases and merge keys are resolved into copies.

    Args:
        text: the document.
        source: what the text is, for errors, such as a path.

    Raises:
        SelfExplainError: the text is not valid YAML, or is too long or too deep; a mapping has a key twice or a key
            that is not text; aliases expand to too many values; a number is not finite or has more than 64 bits;
            a string contains NUL or half of a surrogate pair; or a value has a tag such as `!!binary`.
    """
    if len(text) > MAX_CHARACTERS:
        raise SelfExplainError(f"{source} has {len(text):,} characters. Expected at most {MAX_CHARACTERS:,}.")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _Converter(loader, source).convert(node, 0)
    except yaml.YAMLError as error:
        raise SelfExplainError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise _too_deep(source) from error


def parse_json(text: str | bytes, source: str) -> Any:
    """Parse one JSON document.

    Args:
        text: the document.
        source: what the text is, for errors, such as a path.

    Raises:
        SelfExplainError: the text is not valid JSON, is too deep or has a number of more than 4,300 digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise _too_deep(source) from error
    except ValueError as error:
        raise SelfExplainError(f"{source} is not valid JSON: {error}.") from error


def check_scalar(value: Any, source: str) -> None:
    """Check a single value.

    Raises:
        SelfExplainError: it is a number that is not finite or has more than 64 bits, or a string that contains NUL or
            half of a surrogate pair.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise SelfExplainError(f"{source} contains the number {value}. Expected finite numbers.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SelfExplainError(f"{source} contains an integer of more than 64 bits. Expected a smaller number.")
    if isinstance(value, str) and (bad := re.search("[\0\ud800-\udfff]", value)):
        name = "NUL" if bad[0] == "\0" else f"half of a surrogate pair (U+{ord(bad[0]):04X})"
        raise SelfExplainError(f"{source} contains the character {name} in a string. Remove it.")


def _too_deep(source: str) -> SelfExplainError:
    return SelfExplainError(f"{source} is nested more than {MAX_DEPTH} levels deep. Expected a flatter structure.")


class _Loader(yaml.SafeLoader):
    """Reads nodes of YAML 1.1, except that `1e-3` is a number, and that dates and `=` are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class _Converter:
    """Turns the nodes of a document into plain values, and counts them."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self.loader, self.source, self.n_values = loader, source, 0

    def convert(self, node: yaml.Node, depth: int) -> Any:
        """The value of a node at this depth."""
        self.n_values += 1
        if self.n_values > MAX_VALUES:
            raise SelfExplainError(f"{self.source} has more than {MAX_VALUES:,} values, counting what aliases repeat.")
        if depth > MAX_DEPTH:
            raise _too_deep(self.source)
        if node.tag not in _TAGS:
            raise SelfExplainError(f"{self._place(node)} has the tag {node.tag!r}. Expected a plain value.")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(child, depth + 1) for child in node.value]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = self._merge(value_node, depth) | merged
                continue
            key = self.convert(key_node, depth + 1)
            if not isinstance(key, str):
                raise SelfExplainError(f"{self._place(key_node)} has the key {key!r}. Expected text; quote it.")
            if key in values:
                raise SelfExplainError(
                    f"{self._place(key_node)} has the key {key!r} a second time. Remove one of them."
                )
            values[key] = self.convert(value_node, depth + 1)
        return merged | values

    def _merge(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        value = self.convert(node, depth + 1)
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise SelfExplainError(
                f"{self._place(node)}: the value of `<<` is not a mapping. Expected an alias of one."
            )
        return {key: item for mapping in reversed(mappings) for key, item in mapping.items()}

    def _scalar(self, node: yaml.Node) -> Any:
        tag = node.tag.rpartition(":")[2]
        if tag in ("int", "float") and len(node.value) > MAX_DIGITS:
            raise SelfExplainError(f"{self._place(node)} has a number of {len(node.value):,} characters.")
        try:
            value = node.value if tag == "merge" else self.loader.construct_object(node)
        except (ValueError, KeyError, TypeError) as error:  # such as `!!int x` and `0x_`
            raise SelfExplainError(f"{self._place(node)}: {str(node.value)[:80]!r} is not a valid {tag}.") from error
        check_scalar(value, self._place(node))
        return value

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source}, line {node.start_mark.line + 1},"
