"""Descriptions of features in a small grammar of plain English: write them, parse them, match them against tokens.

    description = ["words after "] what
    what        = "the word " token | "the words " token ", " token ... | class
    token       = a plain word | the names of the symbols that it consists of | a JSON string

`the words Paris, Rome`, `words after the word of`, `words after punctuation`, `countries`. Tokens are compared by
their stripped text, and case matters. Each description has exactly one written form, which makes the grammar easy to
learn, even for a small model.
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
    """The form in which a token is compared: stripped, or a newline or a space if it consists of white space."""
    return token.strip() or ("\n" if "\n" in token else " ")


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


@dataclass(frozen=True)
class Description:
    """A claim about where a feature is active: on some tokens, or on the tokens that follow them.

    Attributes:
        tokens: the cleaned tokens; for a class of the caller, its sorted members.
        name: name of the class; None if the tokens are listed.
        after: whether the feature is active on the token after a named token.
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
        """A description that names a built-in class or one of `classes`."""
        return cls(tuple(sorted(classes.get(name, ()))), name, after)

    @classmethod
    def parse(cls, text: str, classes: Classes | None = None) -> Self | None:
        """Parse a description; None if the text is outside the grammar or lists more than `MAX_TOKENS` tokens.

        Args:
            text: text to parse.
            classes: classes in addition to the built-in ones: name -> its tokens.
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
        """The number of tokens and modifiers beyond a single token or class."""
        return self.after + (0 if self.name else len(self.tokens) - 1)

    def contains(self, token: str) -> bool:
        """Whether the description names a cleaned token."""
        return BUILT_IN[self.name](token) if self.name in BUILT_IN else token in self.tokens

    def matches(self, tokens: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the description applies to each token, `(n_tokens,)`."""
        named = np.array([self.contains(clean(token)) for token in tokens], bool)
        return np.r_[False, named[:-1]] if self.after and len(named) else named
