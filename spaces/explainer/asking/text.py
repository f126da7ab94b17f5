"""Check texts and indices that visitors send, and shorten texts for display."""

from limits import MAX_CHARACTERS, token_limit
from selfexplain import SelfExplainError
from showcase import Showcase


def check_text(showcase: Showcase, text: str, limit: int | None = None) -> list[str]:
    """Return the tokens of a visitor's text.

    Args:
        showcase: The explainer and its target.
        text: The text.
        limit: Maximum number of tokens; by default what the explainer's context can hold.

    Raises:
        SelfExplainError: The text is empty or too long.
    """
    if not isinstance(text, str):
        raise SelfExplainError(f"The text is {text!r:.60}. Expected a string.")
    if len(text) > MAX_CHARACTERS:
        raise SelfExplainError(f"The text has {len(text):,} characters; the limit is {MAX_CHARACTERS:,}. Shorten it.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise SelfExplainError("The text contains half of a surrogate pair, which is not a character. Remove it.")
    if not text.strip():
        raise SelfExplainError("The text is empty. Type a sentence or pick an example.")
    tokens = showcase.tokens(text)
    limit = limit or token_limit(showcase.target.context_length)
    if len(tokens) > limit:
        raise SelfExplainError(f"The text has {len(tokens)} tokens; the limit is {limit}. Shorten it.")
    return tokens


def check_index(index: int, n: int, name: str) -> int:
    """Return `index` as a number from 0 to `n - 1`. Negative indices count from the end.

    Raises:
        SelfExplainError: The index is out of range.
    """
    if not -n <= index < n:
        number = index if abs(index) < 10**12 else "with so many digits"
        raise SelfExplainError(f"There is no {name} {number}. Give a number from 0 to {n - 1}.")
    return index % n


def visible(token: str) -> str:
    """Return a token for display: without surrounding spaces and never empty."""
    return token.replace("\n", "↵").strip() or "␣"


def shorten(text: str, limit: int = 40) -> str:
    """Return the first line of a text, cut at a word boundary after at most `limit` characters."""
    line = text.split("\n")[0]
    return line if len(line) <= limit else line[:limit].rsplit(" ", 1)[0] + " …"
