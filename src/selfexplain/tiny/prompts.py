"""Prompts of the embedded world: five answer options, four options with a hint, scenes of two parcels."""

from collections.abc import Sequence
from dataclasses import dataclass

from selfexplain.tiny.facts import Relation, read_facts

ANSWER_PREFIX = "\nAnswer:"
HINT_STYLES = {style: f"\n{hint}" for style, hint in read_facts().hint_styles.items()}


def five_options(statement: str, options: Sequence[str]) -> str:
    """The prompt of activation patching: a statement without its object, and the options for its object."""
    return f"{statement}\nRespond with one of {' or '.join(options)} or unknown and nothing else.{ANSWER_PREFIX}"


@dataclass(frozen=True)
class Scene:
    """Two parcels, their contents, and a statement about one of them that lacks its object.

    Attributes:
        relation: the kind of fact that the statement is about.
        parcels: names of the parcels.
        contents: contents of each parcel.
        asked: index of the parcel that the statement is about.
        statement: the statement, with `{}` for the parcel.
        options: answer options.
    """

    relation: Relation
    parcels: tuple[str, str]
    contents: tuple[str, str]
    asked: int
    statement: str
    options: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.relation.facts[self.contents[self.asked]]

    @property
    def content(self) -> str:
        """Kind of the contents, a key of `Facts.contents`."""
        return self.relation.content or ""

    @property
    def context(self) -> str:
        """The sentences that state the contents of both parcels."""
        sentence = read_facts().contents[self.content]
        return " ".join(sentence.format(*pair) for pair in zip(self.parcels, self.contents, strict=True))

    @property
    def text(self) -> str:
        return five_options(f"{self.context} {self.statement.format(self.parcels[self.asked])}", self.options)


@dataclass(frozen=True)
class MultipleChoice:
    """A question with four options; the answer is the option itself.

    If answers were letters, a model of a million parameters would learn to copy the hint's letter and nothing else.
    """

    topic: str
    question: str
    choices: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        return f"Question: {self.question}\n{', '.join(self.choices[:-1])} or {self.choices[-1]}?"
