"""Types of numeric settings with bounds, which are checked when a recipe is read."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

Count = Annotated[int, Field(ge=1)]
"""At least 1."""

Amount = Annotated[int, Field(ge=0)]
"""At least 0."""

Positive = Annotated[float, Field(gt=0)]
"""A number greater than 0."""

NonNegative = Annotated[float, Field(ge=0)]
"""A number of at least 0."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""


def _as_tuple(value: Any) -> Any:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


ONE_OR_MORE = BeforeValidator(_as_tuple)
"""Annotation of a tuple of numbers or texts. A single value may be given without a list."""
