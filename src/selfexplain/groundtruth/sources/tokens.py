"""Tokenise words in context, and check whether texts fit into the target's context."""

from selfexplain.target.load import Target
from selfexplain.target.tokens import encode_text


def word_tokens(target: Target, word: str) -> list[int]:
    """The token ids of a word that follows another word in a text."""
    n_before = len(target.tokenizer("x", add_special_tokens=False)["input_ids"])
    return target.tokenizer(f"x {word}", add_special_tokens=False)["input_ids"][n_before:]


def fits(target: Target, text: str) -> bool:
    """Whether a text fits into the target's context."""
    return len(encode_text(target.tokenizer, text)) <= target.context_length
