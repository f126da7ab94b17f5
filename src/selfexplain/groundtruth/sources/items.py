"""What interventions are run on: counterfactual pairs and hinted questions."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class Found(Generic[Item]):
    """The items of a source, and why others were left out: reason -> how many."""

    items: list[Item] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the target and where its subject stands.

    Attributes:
        group: what must not cross splits: the fact, or what begins like this text.
        subject: `(begin, end)` character offsets.
        statement_end: character offset where the statement ends and answer options begin.
    """

    text: str
    group: str
    subject: tuple[int, int]
    statement_end: int


@dataclass(frozen=True)
class Pair:
    """A prompt and its counterfactual: another subject, everything else the same.

    Attributes:
        options: the answer options that both list: the clean answer, the counterfactual's, the others; or none.
    """

    clean: Prompt
    source: Prompt
    options: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, str]:
        """What the target reads."""
        return self.clean.text, self.source.text


@dataclass(frozen=True)
class HintedQuestion:
    """A four-option question as the target reads it, with and without its hint.

    Attributes:
        choices: the options, as the target is asked to answer.
        answer: the right one.
        hinted: the one that the hint names.
    """

    topic: str
    question: str
    choices: tuple[str, ...]
    answer: str
    hinted: str
    hint_style: str
    hint: str
    full_text: str
    ablated_text: str
    group: str

    @property
    def texts(self) -> tuple[str, str]:
        """What the target reads."""
        return self.full_text, self.ablated_text
