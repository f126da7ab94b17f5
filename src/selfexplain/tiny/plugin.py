"""Register the embedded world as a corpus, and the recipe that retrains the embedded models."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selfexplain.bundled import TINY_WORLD
from selfexplain.groundtruth.sources import CORPORA
from selfexplain.pipeline.registry import PIPELINES
from selfexplain.runs.engine import Step
from selfexplain.runs.recipe import RECIPE_KINDS, Expected
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tiny.config import TinyTargetConfig

if TYPE_CHECKING:
    from selfexplain.groundtruth.sources import Corpus


@dataclass(frozen=True, kw_only=True)
class TinyTargetRecipe:
    """Retrain the embedded models from random weights.

    Attributes:
        kind: "tiny_target" for this kind of recipe.
        name: name of the recipe and of its run directory.
        description: one sentence about what the run does.
        expected: time, memory and disk space that the run needs.
        seed: seed of weights and data order; the sibling uses the next one.
        tiny: sizes and training of the models.
    """

    kind: Literal["tiny_target"]
    name: str
    description: str
    expected: Expected
    seed: int = 0
    tiny: TinyTargetConfig = field(default_factory=TinyTargetConfig)


class TinyTargetSteps:
    """The one step that trains the embedded models."""

    stages = ("build",)

    def __init__(self, recipe: TinyTargetRecipe, run_dir: Path) -> None:
        self.recipe = recipe
        self.run = RunDirectory(run_dir)

    @property
    def identity(self) -> dict[str, str]:
        return {"recipe": self.recipe.name}

    def check(self) -> None:
        """Do nothing: nothing can be checked before training."""

    def steps(self) -> list[Step]:
        inputs = {"tiny": asdict(self.recipe.tiny), "seed": self.recipe.seed}
        return [Step("build", inputs, (self.run.relative(self.run.weights),), self._build)]

    def _build(self) -> None:
        from selfexplain.tiny.train import build

        build(self.recipe.tiny, self.run.weights, self.recipe.seed)


def tiny_world(seed: int) -> "Corpus":
    """Texts of the embedded world (`sources.world_corpus`)."""
    from selfexplain.tiny.sources import world_corpus

    return world_corpus(seed)


CORPORA.register(TINY_WORLD, tiny_world)
RECIPE_KINDS.register("tiny_target", lambda names: TinyTargetRecipe)
PIPELINES.register("tiny_target", TinyTargetSteps)
