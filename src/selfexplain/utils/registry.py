"""Registries: named things that a higher package, or another distribution, adds to a lower one.

Entry points of the group `selfexplain.plugins` name modules that register what they provide when they are imported.
They are imported the first time that a registry needs them, so a plug-in costs nothing until it is used.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from selfexplain.errors import SelfExplainError

PLUGINS = "selfexplain.plugins"
"""The entry-point group of plug-ins."""

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Named values. Reading a name that is not there loads the plug-ins and then looks again.

    Args:
        kind: noun for the values in error messages, such as "task".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Add a value and return it.

        Raises:
            SelfExplainError: the name is taken by a different value.
        """
        if self._values.setdefault(name, value) is not value:
            raise SelfExplainError(f"There is already a {self.kind} {name!r}. Register yours under a different name.")
        return value

    def __getitem__(self, name: str) -> T:
        """Return the value of a name.

        Raises:
            SelfExplainError: no such name; the message lists the known ones.
        """
        if name not in self._values:
            load_plugins()
        if name not in self._values:
            near = get_close_matches(name, self._values, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SelfExplainError(f"There is no {self.kind} {name!r}. Known: {', '.join(self._values)}.{hint}")
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._values:
            load_plugins()
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._values)

    def __len__(self) -> int:
        load_plugins()
        return len(self._values)


@cache
def load_plugins() -> None:
    """Import every module that an installed distribution names in the entry-point group `selfexplain.plugins`."""
    for entry_point in entry_points(group=PLUGINS):
        entry_point.load()
