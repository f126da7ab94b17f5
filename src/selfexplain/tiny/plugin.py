"""Register the embedded world as a corpus, and the recipe that rebuilds the embedded models."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from selfexplain.bundled import TINY_WORLD
from selfexplain.groundtruth.sources import CORPORA
from selfexplain.pipeline.driver import PIPELINES
from selfexplain.runs.recipe import RECIPE_KINDS, Expected
from selfexplain.runs.stages import Step
from selfexplain.tiny.config import TinyTargetConfig
from selfexplain.tiny.sources import world_corpus


@dataclass(frozen=True, kw_only=True)
class TinyTargetRecipe:
    """Rebuild the embedded models from random weights."""

    kind: Literal["tiny_target"]
    name: str
    description: str
    expected: Expected
    seed: int = 0
    tiny: TinyTargetConfig = field(default_factory=TinyTargetConfig)


@dataclass(frozen=True)
class TinyTargetSteps:
    """The one step that trains the embedded models."""

    recipe: TinyTargetRecipe
    run_dir: Path
    stages = ("build",)

    @property
    def identity(self) -> dict[str, str]:
        return {"recipe": self.recipe.name}

    def check(self) -> None:
        """Nothing can be checked before training."""

    def steps(self) -> list[Step]:
        inputs = {"tiny": asdict(self.recipe.tiny), "seed": self.recipe.seed}
        return [Step("build", inputs, ("weights",), self._build)]

    def _build(self) -> None:
        from selfexplain.tiny.train import build

        build(self.recipe.tiny, self.run_dir / "weights", self.recipe.seed)


CORPORA.register(TINY_WORLD, world_corpus)
RECIPE_KINDS.register("tiny_target", TinyTargetRecipe)
PIPELINES.register("tiny_target", TinyTargetSteps)
