"""Sets of words that a description can name.

Lists and classes compare tokens, and case matters. The other sets compare the whole word that a token is part of.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selfexplain.features.grammar import wordnet
from selfexplain.features.grammar.text import Text, clean

MAX_TOKENS = 5

Classes = Mapping[str, set[str]]

BUILT_IN: dict[str, Callable[[str], bool]] = {
    "punctuation": lambda text: not any(character.isalnum() or character.isspace() for character in text),
    "numbers": lambda text: text[:1].isdigit() and text[-1:].isdigit(),
    "capitalised words": lambda text: text[:1].isupper(),
    "words in capital letters": lambda text: text.isupper() and len(text) > 1,
}
PARTS = "parts of words"
CONNECTORS = (" near ", " except ", " that are also ")
"""What is between the claim of a description and its condition."""
SYMBOLS = {
    ".": "period",
    ",": "comma",
    ":": "colon",
    ";": "semicolon",
    "?": "question mark",
    "!": "exclamation mark",
    '"': "quotation mark",
    "'": "apostrophe",
    "-": "hyphen",
    "(": "opening parenthesis",
    ")": "closing parenthesis",
    " ": "space",
    "\n": "newline",
}
SYMBOL_OF = {name: symbol for symbol, name in SYMBOLS.items()}
_NAME = "|".join(SYMBOL_OF)
_NAMES = re.compile(rf"(?:{_NAME})(?: (?:{_NAME}))*")
_WORD = re.compile(r'[^\s,"]+')
_ITEM = r'(?:"(?:[^"\\]|\\.)*"|[^,"]+)'
_ITEMS = re.compile(rf"{_ITEM}(?:, {_ITEM})*")
_NEXT_ITEM = re.compile(rf"({_ITEM})(?:, |$)")
_ONE, _MANY = "the word ", "the words "
_BEGIN, _END, _FORMS, _KINDS = "words that begin with ", "words that end with ", "forms of the word ", "kinds of "
_LETTERS = re.compile(r"[^\W\d_]+")
_LEMMA = re.compile(rf"(?!.*(?:{'|'.join(CONNECTORS)}))[^\W\d_]+(?: [^\W\d_]+)*")


class WordSet(Protocol):
    """A set of words.

    Attributes:
        complexity: number of parts beyond a single word or class.
        subjects: the words or the class that the set is about.
    """

    @property
    def complexity(self) -> int: ...

    @property
    def subjects(self) -> tuple[str, ...]: ...

    def __str__(self) -> str: ...

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token is, or is part of, a word of the set, `(n_tokens,)`."""


@dataclass(frozen=True)
class Listed:
    """The listed tokens, in their cleaned form."""

    tokens: tuple[str, ...]

    def __str__(self) -> str:
        return (_ONE if len(self.tokens) == 1 else _MANY) + write_items(self.tokens)

    @property
    def complexity(self) -> int:
        """The number of tokens beyond the first."""
        return len(self.tokens) - 1

    @property
    def subjects(self) -> tuple[str, ...]:
        """The tokens."""
        return self.tokens

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token is listed, `(n_tokens,)`."""
        return np.array([token in self.tokens for token in text.cleaned], bool)


@dataclass(frozen=True)
class Class:
    """A class of tokens: a built-in one, or one of the caller.

    Attributes:
        name: name of the class.
        members: its sorted tokens; empty for a built-in class.
    """

    name: str
    members: tuple[str, ...] = ()
    complexity: int = 0

    @classmethod
    def named(cls, name: str, classes: Classes) -> "Class":
        """The class with this name."""
        return cls(name, tuple(sorted(classes.get(name, ()))))

    def __str__(self) -> str:
        return self.name

    @property
    def subjects(self) -> tuple[str, ...]:
        """The name of the class."""
        return (self.name,)

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self.members)

    def contains(self, token: str) -> bool:
        """Whether a cleaned token belongs to the class."""
        return BUILT_IN[self.name](token) if self.name in BUILT_IN else token in self._members

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token belongs to the class, `(n_tokens,)`."""
        return np.array([self.contains(token) for token in text.cleaned], bool)


@dataclass(frozen=True)
class Parts:
    """The tokens that continue a word."""

    complexity: int = 0

    def __str__(self) -> str:
        return PARTS

    @property
    def subjects(self) -> tuple[str, ...]:
        """The written form."""
        return (PARTS,)

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token continues the word of the token before it, `(n_tokens,)`."""
        return text.continues


@dataclass(frozen=True)
class WholeWords:
    """Words with a common property, whatever tokens they consist of.

    Attributes:
        kind: the property, a key of `PROPERTIES`.
        value: its value, such as the ending.
    """

    kind: str
    value: str
    complexity: int = 0

    def __str__(self) -> str:
        return wordnet.CATEGORIES[self.value] if self.kind == "category" else PREFIXES[self.kind] + self.value

    @property
    def subjects(self) -> tuple[str, ...]:
        """The base form of a family; otherwise the written form."""
        return (self.value,) if self.kind == "family" else (str(self),)

    def matches(self, text: Text) -> NDArray[np.bool_]:
        """Whether each token is part of a word with the property, `(n_tokens,)`.

        Raises:
            SelfExplainError: the property needs WordNet, whose data was not found.
        """
        values_of = PROPERTIES[self.kind]
        return np.array([self.value in values_of(word) for word in text.words], bool)


@cache
def _beginnings(word: str) -> frozenset[str]:
    word = word.lower()
    return frozenset(word[:n] for n in range(2, 6) if len(word) > n) if word.isalpha() else frozenset()


@cache
def _endings(word: str) -> frozenset[str]:
    word = word.lower()
    return frozenset(word[-n:] for n in range(1, 5) if len(word) > n + 1) if word.isalpha() else frozenset()


def _category(word: str) -> frozenset[str]:
    name = wordnet.category(word)
    return frozenset([name] if name else [])


PREFIXES = {"beginning": _BEGIN, "ending": _END, "family": _FORMS, "kind": _KINDS}
PROPERTIES: dict[str, Callable[[str], Collection[str]]] = {
    "beginning": _beginnings,
    "ending": _endings,
    "family": wordnet.families,
    "category": _category,
    "kind": wordnet.kinds,
}
"""Properties of whole words: kind -> function from a word to its values."""
NEEDS_WORDNET = ("family", "category", "kind")


def write_items(tokens: tuple[str, ...]) -> str:
    """The written form of a list of cleaned tokens."""
    return ", ".join(map(_write, tokens))


def read_items(text: str) -> tuple[str, ...] | None:
    """The tokens of a written list; None if it is not one, or has more than `MAX_TOKENS` tokens."""
    if not _ITEMS.fullmatch(text):
        return None
    tokens = [_read(match[1]) for match in _NEXT_ITEM.finditer(text)]
    known = tuple(token for token in tokens if token is not None)
    return known if len(known) == len(tokens) <= MAX_TOKENS else None


def parse_words(text: str, classes: Classes) -> WordSet | None:
    """The set of words whose written form is `text`; None if there is no such set."""
    if text in BUILT_IN or text in classes:
        return Class.named(text, classes)
    if text == PARTS:
        return Parts()
    if text in wordnet.CATEGORY_OF:
        return WholeWords("category", wordnet.CATEGORY_OF[text])
    for kind, prefix in PREFIXES.items():
        if text.startswith(prefix):
            value = text.removeprefix(prefix)
            form = _LEMMA if kind == "kind" else _LETTERS
            lower = value == value.lower() or kind == "kind"
            return WholeWords(kind, value) if form.fullmatch(value) and lower else None
    start = next((start for start in (_ONE, _MANY) if text.startswith(start)), None)
    tokens = read_items(text.removeprefix(start)) if start else None
    return Listed(tokens) if tokens else None


def _write(token: str) -> str:
    """The written form of a cleaned token."""
    if all(character in SYMBOLS for character in token):
        return " ".join(SYMBOLS[character] for character in token)
    plain = _WORD.fullmatch(token) and any(map(str.isalnum, token)) and token not in SYMBOL_OF
    return token if plain else json.dumps(token, ensure_ascii=False)


def _read(item: str) -> str | None:
    """The token whose written form is `item`; None if there is no such token."""
    if _NAMES.fullmatch(item):
        token = "".join(SYMBOL_OF[name] for name in re.findall(_NAME, item))
    elif item.startswith('"'):
        try:
            token = json.loads(item)
        except ValueError:
            return None
    else:
        token = item
    return token if _write(token) == item and clean(token) == token else None
