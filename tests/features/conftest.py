"""Fixtures of the small word-level model."""

from word_model import corpus, dictionaries, target, token_ids, trained

__all__ = ["corpus", "dictionaries", "target", "token_ids", "trained"]
