"""Train and load explainers as a recipe says."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.groundtruth.shards import process_state
from selfexplain.recipes.recipe import Recipe

if TYPE_CHECKING:
    from selfexplain.groundtruth.sources import Corpus
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM


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
        target = load_target(recipe.target, recipe.target_revision, recipe.dtype)
        target.model.to(process_state().device)
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
