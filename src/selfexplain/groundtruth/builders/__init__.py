"""Compute the rows of each task. Importing this package registers the builders of the built-in tasks."""

from selfexplain.groundtruth.builders import features, patching, ablation  # noqa: F401, I001 (in the order of BUILT_IN)
from selfexplain.groundtruth.builders.builder import (
    BUILDERS,
    BuildContext,
    Candidates,
    DatasetBuilder,
    Draw,
    register,
    split_by_group,
)
from selfexplain.groundtruth.builders.items import Builder

__all__ = [
    "BUILDERS",
    "BuildContext",
    "Builder",
    "Candidates",
    "DatasetBuilder",
    "Draw",
    "register",
    "split_by_group",
]
