"""Train and load targets and explainers as a recipe says."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.runs.recipe import Recipe
from selfexplain.utils.processes import process_state

if TYPE_CHECKING:
    from selfexplain.evaluation.evaluate import Explainer
    from selfexplain.groundtruth.sources import Corpus
    from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.target.load import Target


def train_explainer(
    recipe: Recipe, datasets_dir: Path, out_dir: Path, corpus: Callable[[], "Corpus"], split_seed: int
) -> None:
    """Train what a recipe calls its explainer on ground truth that lies in `datasets_dir`.

    Args:
        out_dir: gets checkpoints and, at the end, the explainer.
        split_seed: with which the ground truth was split.
        corpus: the recipe's texts; asked for where an adapter is fitted on them.

    Raises:
        SelfExplainError: a model that does not load, ground truth that is missing or of another width, or settings
            that the base cannot be trained with.
    """
    from selfexplain.target.load import load_target
    from selfexplain.training.train import base_options, train

    options = base_options(recipe.training)
    if recipe.explainer is None:  # the base is the target: one copy of the weights is enough
        base, target = load_target(recipe.target, recipe.target_revision, **options), None
    else:
        base = load_target(recipe.explainer, recipe.explainer_revision, **options)
        target = load_target_of(recipe)
    train(
        recipe.training,
        recipe.injection,
        recipe.adapter,
        base,
        target,
        datasets_dir,
        recipe.tasks,
        out_dir,
        recipe.seed,
        split_seed=split_seed,
        texts=() if target is None and recipe.adapter.kind in (None, "identity") else corpus().texts,
    )


def load_target_of(recipe: Recipe) -> "Target":
    """The target of a recipe, on the device of this process.

    Where it is the base of an explainer in 4 bits it is loaded in 4 bits as well: `capture` and `verify` read that one,
    so ground truth is of that one.
    """
    from selfexplain.target.load import load_target
    from selfexplain.training.train import base_options

    if reads_quantized(recipe):
        return load_target(recipe.target, recipe.target_revision, **base_options(recipe.training))
    target = load_target(recipe.target, recipe.target_revision, recipe.dtype)
    target.model.to(process_state().device)
    return target


def reads_quantized(recipe: Recipe) -> bool:
    """Whether the target is the quantised base of the explainer that is trained."""
    return recipe.training.quantization is not None and recipe.explainer in (None, recipe.target)


def load_options(recipe: Recipe) -> dict[str, Any]:
    """How an explainer is loaded to be evaluated: as it was trained where that is quantised, else as the target is."""
    from selfexplain.training.train import base_options

    return base_options(recipe.training) if recipe.training.quantization else {"dtype": recipe.dtype}


def load_explainer(recipe: Recipe, name: str, revision: str | None = None) -> "SelfExplainerForCausalLM":
    """A trained explainer, on the device.

    Raises:
        SelfExplainError: it is no explainer, its base does not load, or it fails its injection check.
    """
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    explainer = SelfExplainerForCausalLM.from_pretrained(name, revision=revision, **load_options(recipe))
    if not recipe.training.quantization:
        explainer.to(process_state().device)
    return explainer


def load_untrained(recipe: Recipe, config: "SelfExplainerConfig") -> "SelfExplainerForCausalLM":
    """The explainer of a config as it is before training, on the device."""
    from selfexplain.modeling.contract import InjectionConfig
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    assert config.injection is not None  # its __post_init__ fills it in
    untrained = SelfExplainerForCausalLM.from_base(
        config.base_model_name_or_path,
        injection=InjectionConfig(**config.injection),
        adapter=config.adapter,
        target=config.target,
        revision=config.base_model_revision,
        seed=recipe.seed,
        **load_options(recipe),
    )
    if not recipe.training.quantization:
        untrained.to(process_state().device)
    return untrained


def let_go() -> None:
    """Free the memory of models that nobody holds any longer; their hooks and theirs hold each other in cycles."""
    gc.collect()


class Place:
    """Where one explainer is loaded at a time: two may not fit on the device."""

    def __init__(self) -> None:
        self._load: Callable[[], Explainer] | None = None
        self._explainer: Explainer | None = None

    def explainer(self, load: Callable[[], "Explainer"]) -> "Explainer":
        """The explainer that `load` loads; the one before it is let go first."""
        if self._explainer is None or load is not self._load:
            self.clear()
            self._load, self._explainer = load, load()
        return self._explainer

    def clear(self) -> None:
        self._load = self._explainer = None
        let_go()


@dataclass(frozen=True)
class WhenAsked:
    """An explainer that is loaded to its place when it is asked."""

    load: Callable[[], "Explainer"]
    place: Place

    def answer(self, rows: Sequence[Mapping], batch_size: int = 64, progress: str | None = None) -> Sequence[Any]:
        return self.place.explainer(self.load).answer(rows, batch_size, progress)
