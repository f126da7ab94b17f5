"""Readers: cheap systems that answer a task's questions without training a language model."""

from selfexplain.evaluation.readers import ablation, features, patching
from selfexplain.evaluation.readers.reader import (
    READERS,
    Fitted,
    Material,
    NotAvailable,
    best_on_validation,
    reader,
    readers_of,
)

BUILT_IN = (features, patching, ablation)
"""The modules that register the readers of the package."""

__all__ = [
    "BUILT_IN",
    "READERS",
    "Fitted",
    "Material",
    "NotAvailable",
    "best_on_validation",
    "reader",
    "readers_of",
]
