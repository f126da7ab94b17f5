"""The one error that says: the input is wrong, and here is what to do."""


class SelfExplainError(ValueError):
    """Bad input. The message says what was given, what was expected, what to do; the command line prints it alone."""
