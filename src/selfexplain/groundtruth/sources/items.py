"""The items that interventions run on: counterfactual pairs and hinted questions."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class SourceItems(Generic[Item]):
    """The items read from a source.

    Attributes:
        items: the items, in the order in which they are used.
        skipped: reason -> number of items that were left out for it.
    """

    items: list[Item] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the target.

    Attributes:
        text: the whole prompt.
        group: the unit that must not cross splits: the fact, or the set of prompts with the same beginning.
        subject: `(begin, end)` character offsets of the subject.
        statement_end: character offset where the statement ends and the answer options begin.
    """

    text: str
    group: str
    subject: tuple[int, int]
    statement_end: int


@dataclass(frozen=True)
class Pair:
    """A prompt and its counterfactual, which differs from it only in the subject.

    Attributes:
        clean: the prompt that is patched.
        source: the counterfactual prompt that activations are taken from.
        options: the answer options that both prompts list: the clean answer, the counterfactual's answer, then the
            others. Empty if the prompts list no options.
    """

    clean: Prompt
    source: Prompt
    options: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, str]:
        """The texts that the target reads."""
        return self.clean.text, self.source.text


@dataclass(frozen=True)
class HintedQuestion:
    """A multiple-choice question as the target reads it, with and without its hint.

    Attributes:
        topic: subject area of the question, or an empty string.
        question: the question without its options.
        choices: the answers that the target can give, such as option letters.
        answer: the correct choice.
        hinted: the choice that the hint names.
        hint_style: name of the hint's wording.
        hint: text of the hint.
        full_text: the prompt with the hint.
        ablated_text: the prompt without the hint.
        group: the unit that must not cross splits.
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
        """The texts that the target reads."""
        return self.full_text, self.ablated_text
