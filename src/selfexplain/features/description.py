"""Descriptions in a small grammar of plain English: written for features, read back, matched against tokens.

    description = ["words after "] what
    what        = "the word " token | "the words " token ", " token ... | class
    token       = a word as it stands | names of the symbols it is made of | a JSON string

`the words Paris, Rome`, `words after the word of`, `words after punctuation`, `countries`. Tokens are compared by their
stripped text, case included. One form says one thing, so that a reader, and a small model, can learn to write it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 5

Classes = Mapping[str, set[str]]

BUILT_IN: dict[str, Callable[[str], bool]] = {
    "punctuation": lambda text: not any(character.isalnum() or character.isspace() for character in text),
    "numbers": lambda text: text[:1].isdigit() and text[-1:].isdigit(),
    "capitalised words": lambda text: text[:1].isupper(),
}
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
_AFTER, _ONE, _MANY = "words after ", "the word ", "the words "


def clean(token: str) -> str:
    """A token as it is compared: stripped; one of white space only is a newline or a space."""
    return token.strip() or ("\n" if "\n" in token else " ")


def _write(token: str) -> str:
    if all(character in SYMBOLS for character in token):
        return " ".join(SYMBOLS[character] for character in token)
    plain = _WORD.fullmatch(token) and any(map(str.isalnum, token)) and token not in SYMBOL_OF
    return token if plain else json.dumps(token, ensure_ascii=False)


def _read(item: str) -> str | None:
    """The token that `_write` made an item of; None where it makes no such item."""
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


@dataclass(frozen=True)
class Description:
    """Where a feature is active: on some tokens, or right after them.

    Attributes:
        tokens: those tokens, cleaned; for a class the caller gave, its members, sorted.
        name: the class, where it is one.
        after: the tokens are those before the active one.
    """

    tokens: tuple[str, ...] = ()
    name: str | None = None
    after: bool = False

    def __str__(self) -> str:
        items = ", ".join(map(_write, self.tokens))
        what = self.name or (_ONE if len(self.tokens) == 1 else _MANY) + items
        return (_AFTER if self.after else "") + what

    @classmethod
    def of_class(cls, name: str, classes: Classes, after: bool = False) -> Self:
        return cls(tuple(sorted(classes.get(name, ()))), name, after)

    @classmethod
    def parse(cls, text: str, classes: Classes | None = None) -> Self | None:
        """Read a description; None where the text is outside the grammar or lists more than `MAX_TOKENS` tokens.

        Args:
            classes: the caller's classes, name -> token texts, beside the built-in ones.
        """
        text, classes = text.strip(), classes or {}
        after = text.startswith(_AFTER)
        what = text.removeprefix(_AFTER)
        if what in BUILT_IN or what in classes:
            return cls.of_class(what, classes, after)
        prefix = next((prefix for prefix in (_ONE, _MANY) if what.startswith(prefix)), None)
        if prefix is None or not _ITEMS.fullmatch(items := what.removeprefix(prefix)):
            return None
        tokens = [_read(match[1]) for match in _NEXT_ITEM.finditer(items)]
        named = tuple(token for token in tokens if token is not None)
        return cls(named, None, after) if len(named) == len(tokens) <= MAX_TOKENS else None

    @property
    def complexity(self) -> int:
        """How much there is to say beyond one token or one class."""
        return self.after + (0 if self.name else len(self.tokens) - 1)

    def contains(self, token: str) -> bool:
        """Whether a cleaned token is one of those named."""
        return BUILT_IN[self.name](token) if self.name in BUILT_IN else token in self.tokens

    def matches(self, tokens: Sequence[str]) -> NDArray[np.bool_]:
        """Where the description holds, `(n_tokens,)`; nothing comes before the first token."""
        named = np.array([self.contains(clean(token)) for token in tokens], bool)
        return np.r_[False, named[:-1]] if self.after and len(named) else named
