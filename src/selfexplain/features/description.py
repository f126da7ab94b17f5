"""Descriptions of features in a small grammar of plain English: write them, parse them, match them with tokens.

    description = claim [(" near " | " except " | " that are also ") claim]
    claim       = [relation] words | place | topic
    relation    = "words after " | "words up to 3 tokens after " | "words up to 10 tokens after "
    words       = "the word " token | "the words " token ", " token ... | class | property
    place       = "words in quotation marks" | "words in parentheses" | "words in list items"
                | "first words of sentences" | "last words of sentences" | "first words of lines"
    topic       = "texts with the word " token | "texts with the words " token ", " token ...
    property    = "words that begin with " letters | "words that end with " letters | "parts of words"
                | "forms of the word " word | "kinds of " noun | "nouns for animals" ...
    token       = a plain word | the names of the symbols that it consists of | a JSON string

`the words Paris, Rome`, `words after punctuation`, `countries`, `the word bank near kinds of water`. Lists and classes
compare tokens by their stripped text, and case matters; properties compare whole words. Families and semantic classes
need WordNet. Each description has exactly one written form, which makes the grammar easy to learn, even for a small
model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.grammar.text import Text, clean
from selfexplain.features.grammar.words import (
    BUILT_IN,
    CONNECTORS,
    MAX_TOKENS,
    Class,
    Classes,
    Listed,
    WholeWords,
    WordSet,
    parse_words,
    read_items,
    write_items,
)

__all__ = ["ABSTENTION", "BUILT_IN", "CONNECTORS", "MAX_TOKENS", "Classes", "Description", "clean"]

ABSTENTION = "not expressible"
"""What an explainer answers if the grammar cannot express a feature. It is outside the grammar, so it scores 0."""
NEAR = 10
"""Maximum number of tokens between a match and what it has to be near."""
RELATIONS = {1: "words after ", 3: "words up to 3 tokens after ", 10: "words up to 10 tokens after "}
"""Number of tokens after a match -> written form."""
PLACES: dict[str, Callable[[Text], NDArray[np.bool_]]] = {
    "words in quotation marks": lambda text: text.in_quotations,
    "words in parentheses": lambda text: text.in_parentheses,
    "words in list items": lambda text: text.in_list_items,
    "first words of sentences": lambda text: text.starts_sentence,
    "last words of sentences": lambda text: text.ends_sentence,
    "first words of lines": lambda text: text.starts_line,
}
_TEXTS_ONE, _TEXTS_MANY = "texts with the word ", "texts with the words "


class Claim(Protocol):
    """A condition on the tokens of a text.

    Attributes:
        complexity: number of parts beyond a single word or class.
        subjects: the words or classes that it is about.
        form: name of its form, as in the report of a dataset.
    """

    @property
    def complexity(self) -> int: ...

    @property
    def subjects(self) -> tuple[str, ...]: ...

    @property
    def form(self) -> str: ...

    def __str__(self) -> str: ...

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token satisfies the condition, `(n_tokens,)`."""


@dataclass(frozen=True)
class Words:
    """A set of words, or the tokens that follow them.

    Attributes:
        words: the set.
        distance: 0 for the words themselves; otherwise the number of tokens after them that match, a key of
            `RELATIONS`.
    """

    words: WordSet
    distance: int = 0

    def __str__(self) -> str:
        return RELATIONS.get(self.distance, "") + str(self.words)

    @property
    def complexity(self) -> int:
        """That of the set, and 1 for a relation."""
        return self.words.complexity + (self.distance > 0)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Those of the set."""
        return self.words.subjects

    @property
    def form(self) -> str:
        """`token`, `tokens`, `class` or a property of whole words, with `after` or `soon after` in front."""
        relation = {0: "", 1: "after "}.get(self.distance, "soon after ")
        if isinstance(self.words, Listed):
            return relation + ("token" if len(self.words.tokens) == 1 else "tokens")
        return relation + (self.words.kind if isinstance(self.words, WholeWords) else "class")

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token is in the set, or follows a token of the set, `(n_tokens,)`."""
        named = self.words.matches(text)
        if not self.distance or not len(named):
            return named
        after = np.zeros_like(named)
        for shift in range(1, min(self.distance, len(named) - 1) + 1):
            after[shift:] |= named[:-shift]
        # A word of several tokens does not follow itself.
        return after & ~text.continues if isinstance(self.words, WholeWords) else after


@dataclass(frozen=True)
class Place:
    """A place in a text, a key of `PLACES`."""

    name: str
    complexity: int = 0
    form: str = "place"

    def __str__(self) -> str:
        return self.name

    @property
    def subjects(self) -> tuple[str, ...]:
        """The written form."""
        return (self.name,)

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token is in the place, `(n_tokens,)`."""
        return PLACES[self.name](text)


@dataclass(frozen=True)
class Topic:
    """All tokens of a text that contains one of the listed tokens."""

    tokens: tuple[str, ...]
    form: str = "topic"

    def __str__(self) -> str:
        return (_TEXTS_ONE if len(self.tokens) == 1 else _TEXTS_MANY) + write_items(self.tokens)

    @property
    def complexity(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The tokens."""
        return self.tokens

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """All tokens or none, `(n_tokens,)`."""
        return np.full(len(text), any(token in self.tokens for token in text.cleaned))


@dataclass(frozen=True)
class Description:
    """A claim about where a feature is active, with at most one further condition.

    Attributes:
        claim: where it is active.
        connector: how the condition restricts the claim, one of `CONNECTORS`; None without a condition.
        condition: what must be near, must not hold, or must also hold.
    """

    claim: Claim
    connector: str | None = None
    condition: Claim | None = None

    def __str__(self) -> str:
        return str(self.claim) + (f"{self.connector}{self.condition}" if self.connector else "")

    @classmethod
    def of_tokens(cls, tokens: Sequence[str], after: bool = False) -> Self:
        """The description that lists cleaned tokens."""
        return cls(Words(Listed(tuple(tokens)), int(after)))

    @classmethod
    def of_class(cls, name: str, classes: Classes, after: bool = False) -> Self:
        """The description that names a built-in class or one of `classes`."""
        return cls(Words(Class.named(name, classes), int(after)))

    @classmethod
    def parse(cls, text: str, classes: Classes | None = None) -> Self | None:
        """Parse a description; None if the text is outside the grammar or lists more than `MAX_TOKENS` tokens.

        Args:
            text: text to parse.
            classes: classes in addition to the built-in ones: name -> its tokens.
        """
        text, classes = text.strip(), classes or {}
        if claim := parse_claim(text, classes):
            return cls(claim)
        for left, connector, right in _splits(text):
            claim, condition = parse_claim(left, classes), parse_claim(right, classes)
            if claim and condition:
                return cls(claim, connector, condition)
        return None

    @property
    def complexity(self) -> int:
        """The number of parts beyond a single word or class; a condition counts 2 and its own parts."""
        return self.claim.complexity + (2 + self.condition.complexity if self.condition else 0)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The words and classes that the description names, the main ones first."""
        return self.claim.subjects + (self.condition.subjects if self.condition else ())

    @property
    def form(self) -> str:
        """Name of its form: that of the claim, and of the connector."""
        return self.claim.form + (self.connector.rstrip() if self.connector else "")

    def matches(self, tokens: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the description applies to each token, `(n_tokens,)`.

        Raises:
            SelfExplainError: the description needs WordNet, whose data was not found.
        """
        text = as_text(tuple(tokens))
        matched = self.claim.matches(text)
        return combine(matched, self.connector, self.condition.matches(text)) if self.condition else matched


def combine(claim: NDArray[np.bool_], connector: str | None, condition: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The tokens of one text that satisfy a claim and its condition, `(n_tokens,)`."""
    if connector == " except ":
        return claim & ~condition
    if connector == " that are also ":
        return claim & condition
    close = np.zeros_like(condition)
    for shift in range(1, min(NEAR, len(condition) - 1) + 1):
        close[shift:] |= condition[:-shift]
        close[:-shift] |= condition[shift:]
    return claim & close


def parse_claim(text: str, classes: Classes) -> Claim | None:
    """The claim whose written form is `text`; None if there is none."""
    if text in PLACES:
        return Place(text)
    if topic := next((prefix for prefix in (_TEXTS_ONE, _TEXTS_MANY) if text.startswith(prefix)), None):
        tokens = read_items(text.removeprefix(topic))
        return Topic(tokens) if tokens else None
    distance, relation = next(((n, r) for n, r in RELATIONS.items() if text.startswith(r)), (0, ""))
    words = parse_words(text.removeprefix(relation), classes)
    return Words(words, distance) if words else None


def _splits(text: str) -> Iterator[tuple[str, str, str]]:
    """The text before and after each connector."""
    for connector in CONNECTORS:
        start = text.find(connector)
        while start >= 0:
            yield text[:start], connector, text[start + len(connector) :]
            start = text.find(connector, start + 1)


@lru_cache(maxsize=4096)
def as_text(tokens: tuple[str, ...]) -> Text:
    """The text of decoded tokens. Texts are kept, because many descriptions are matched with the same windows."""
    return Text(tokens)
