"""The interface of readers, and their registry.

A reader answers a task's questions without training a language model: it uses numbers that anyone can compute, or the
target itself. An explanation is worth having only if it is better than all of them. To add a reader, write one function
and register it:

    @reader(activation_patching.TASK)
    def always_unchanged(material: Material) -> Fitted:
        return Fitted(lambda rows: [render(Outcome(False, row["clean_output"])) for row in rows])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from selfexplain.errors import SelfExplainError
from selfexplain.features.description import Classes
from selfexplain.tasks.task import Task
from selfexplain.utils.registry import Registry

if TYPE_CHECKING:
    from selfexplain.target.load import Target

T = TypeVar("T")

Row = Mapping[str, Any]
Answers = Sequence[str] | Sequence[bool]
"""One answer per row. Readers that only predict whether the output changes answer with bools."""


class NotAvailable(SelfExplainError):
    """A reader cannot read these rows. The message is the reason, which `results.json` reports."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a reader may learn from.

    Attributes:
        train: the training rows, the only rows that readers are fitted on.
        validation: validation rows, on which readers choose their settings; empty if there are none.
        classes: classes of tokens that descriptions may name.
        seed: seed of everything that is drawn.
        load_target: function that returns the loaded target; None if it is not at hand.
    """

    train: Sequence[Row]
    validation: Sequence[Row] = ()
    classes: Classes = field(default_factory=dict)
    seed: int = 0
    load_target: "Callable[[], Target] | None" = None
    _shared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def target(self) -> "Target":
        """The target.

        Raises:
            NotAvailable: it is not at hand.
        """
        if self.load_target is None:
            raise NotAvailable("the target's weights are not at hand")
        return self.load_target()

    def share(self, fit: "Callable[[Material], T]") -> T:
        """The result of `fit(self)`, computed once, for readers that have a part in common."""
        if fit not in self._shared:
            self._shared[fit] = fit(self)
        return self._shared[fit]

    def require(self, *columns: str) -> None:
        """Check that the training rows have these columns.

        Raises:
            NotAvailable: a column is missing, as in datasets of earlier versions.
        """
        if missing := [name for name in columns if name not in self.train[0]]:
            raise NotAvailable(f"the rows have no column {' and no column '.join(missing)}")


@dataclass(frozen=True)
class Fitted:
    """A fitted reader.

    Attributes:
        answer: function from rows to one answer per row.
        settings: the settings that were chosen on the validation rows, as JSON values.
    """

    answer: Callable[[Sequence[Row]], Answers]
    settings: Mapping[str, Any] = field(default_factory=dict)


Reader = Callable[[Material], Fitted]

READERS: Registry[Reader] = Registry("reader")
"""`<task>/<name>` -> reader. Names are those of the functions, and those of the systems in `results.json`."""


def reader(task: Task) -> Callable[[Reader], Reader]:
    """Decorator that registers a function as a reader of a task. The function's name becomes the system's name."""

    def register(function: Reader) -> Reader:
        return READERS.register(f"{task.name}/{function.__name__}", function)

    return register


def readers_of(task: str) -> dict[str, Reader]:
    """Name -> reader, for all readers of a task, in the order of registration."""
    prefix = f"{task}/"
    return {name.removeprefix(prefix): READERS[name] for name in READERS if name.startswith(prefix)}


def best_on_validation(candidates: Sequence[T], score: Callable[[T], float]) -> T:
    """The candidate with the highest score; the first one of equally good ones."""
    return max(candidates, key=score)
