"""The error class of the package, and a helper that adds context to it."""

from collections.abc import Iterator
from contextlib import contextmanager


class SelfExplainError(ValueError):
    """Invalid input. The message states what was given, what was expected and what to do. The CLI prints it alone."""


@contextmanager
def prefix_errors(subject: str) -> Iterator[None]:
    """Put `subject` and a colon in front of the message of every `SelfExplainError` that the block raises."""
    try:
        yield
    except SelfExplainError as error:
        raise SelfExplainError(f"{subject}: {error}") from error
