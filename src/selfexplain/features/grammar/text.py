"""A tokenised text, as descriptions see it: cleaned tokens, whole words, sentences, quotations."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SENTENCE_ENDS = ".?!"
OPENING, CLOSING = "([{", ")]}"
QUOTES = '"\u201c\u201d\u00ab\u00bb'
BULLETS = "-*\u2022"


def clean(token: str) -> str:
    """The form in which a token is compared: stripped, or a newline or a space if it consists of white space."""
    return token.strip() or ("\n" if "\n" in token else " ")


class Text:
    """A tokenised text.

    A word consists of adjacent tokens without white space or punctuation between them. If no token contains white
    space, each token counts as a word, because the tokenizer does not show where words begin.

    Attributes:
        tokens: decoded tokens.
        cleaned: the form of each token in which it is compared.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        self.cleaned = [clean(token) for token in tokens]

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """Whether each token continues the word of the token before it, `(n_tokens,)`."""
        shows_words = any(character.isspace() for token in self.tokens for character in token)
        continued = [
            shows_words and before[-1:].isalnum() and token[:1].isalnum()
            for before, token in zip(["", *self.tokens], self.tokens, strict=False)
        ]
        return np.array(continued, bool)

    @cached_property
    def word_numbers(self) -> NDArray[np.int64]:
        """The number of the word that each token belongs to, `(n_tokens,)`."""
        return np.cumsum(~self.continues) - 1

    @cached_property
    def words(self) -> list[str]:
        """The whole word that each token belongs to, without white space around it."""
        parts: list[str] = []
        for token, continues in zip(self.tokens, self.continues, strict=True):
            if continues:
                parts[-1] += token
            else:
                parts.append(token)
        cleaned = [clean(part) for part in parts]
        return [cleaned[number] for number in self.word_numbers]

    @cached_property
    def in_quotations(self) -> NDArray[np.bool_]:
        """Whether each token is between two quotation marks, `(n_tokens,)`. An unclosed quotation does not count."""
        inside = np.zeros(len(self), bool)
        start: int | None = None
        for n, token in enumerate(self.cleaned):
            if not any(character in QUOTES for character in token):
                continue
            if start is None:
                start = n
            else:
                inside[start + 1 : n] = True
                start = None
        return inside

    @cached_property
    def in_parentheses(self) -> NDArray[np.bool_]:
        """Whether each token is inside parentheses, brackets or braces that were opened in this text, `(n_tokens,)`."""
        inside = np.zeros(len(self), bool)
        depth = 0
        for n, token in enumerate(self.cleaned):
            closes = sum(character in CLOSING for character in token)
            inside[n] = depth - closes > 0 or (depth > 0 and not closes)
            depth = max(0, depth - closes) + sum(character in OPENING for character in token)
        return inside

    @cached_property
    def starts_sentence(self) -> NDArray[np.bool_]:
        """Whether each token belongs to the first word after the end of a sentence, `(n_tokens,)`."""
        return self._first_words(
            [token.rstrip(QUOTES + CLOSING)[-1:] in tuple(SENTENCE_ENDS) for token in self.cleaned]
        )

    @cached_property
    def ends_sentence(self) -> NDArray[np.bool_]:
        """Whether each token belongs to the last word before the end of a sentence, `(n_tokens,)`."""
        is_end = np.array([token[0] in SENTENCE_ENDS for token in self.cleaned], bool)
        last = np.r_[is_end[1:], False] & ~is_end if len(self) else is_end
        return self.whole_words(last)

    @cached_property
    def starts_line(self) -> NDArray[np.bool_]:
        """Whether each token belongs to the first word after a line break, `(n_tokens,)`."""
        return self._first_words(["\n" in token for token in self.tokens])

    @cached_property
    def in_list_items(self) -> NDArray[np.bool_]:
        """Whether each token is on a line that begins, in this text, with a bullet or with a number and a period."""
        inside = np.zeros(len(self), bool)
        for n, token in enumerate(self.cleaned):
            after_break = n > 0 and "\n" in self.tokens[n - 1]
            if "\n" in self.tokens[n]:
                continue
            following = self.cleaned[n + 1] if n + 1 < len(self) else ""
            starts = after_break and (token in BULLETS or (token.isdigit() and following[:1] in (".", ")")))
            inside[n] = starts or (not after_break and n > 0 and bool(inside[n - 1]))
        return inside

    def whole_words(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether each token belongs to a word with a chosen token, `(n_tokens,)`."""
        return np.isin(self.word_numbers, self.word_numbers[chosen])

    def _first_words(self, is_before: Sequence[bool]) -> NDArray[np.bool_]:
        """Whether each token belongs to the first word after a marked token, `(n_tokens,)`."""
        first = np.zeros(len(self), bool)
        waiting = False
        for n, token in enumerate(self.cleaned):
            is_word = any(map(str.isalnum, token))
            first[n] = waiting and is_word
            waiting = is_before[n] or (waiting and not is_word)
        return self.whole_words(first)
