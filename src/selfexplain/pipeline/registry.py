"""The interface of pipelines, which turn a recipe into steps, and their registry."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from selfexplain.runs.engine import Step
from selfexplain.utils.registry import Registry


class Pipeline(Protocol):
    """The steps of one recipe."""

    @property
    def stages(self) -> Sequence[str]:
        """Names of the stages, in order; a step named "STAGE/..." belongs to STAGE."""

    @property
    def identity(self) -> dict[str, str]:
        """The values that distinguish the run from others (`RunManifest.identity`)."""

    def check(self) -> None:
        """Raise SelfExplainError if a new run could not finish; called before anything is written."""

    def steps(self) -> list[Step]:
        """All steps, in order."""


PIPELINES: Registry[Callable[[Any, Path], Pipeline]] = Registry("pipeline")
"""Recipe kind -> function of the recipe and the run directory that returns its pipeline."""
