"""Train and load the targets and explainers of a recipe."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.runs.recipe import Recipe
from selfexplain.utils.processes import process_state

if TYPE_CHECKING:
    from selfexplain.evaluation.answers import Explainer
    from selfexplain.groundtruth.sources import Corpus
    from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.target.load import Target


def train_explainer(
    recipe: Recipe, datasets_dir: Path, out_dir: Path, corpus: Callable[[], "Corpus"], split_seed: int
) -> None:
    """Train the explainer of a recipe on the ground truth in `datasets_dir`.

    Args:
        recipe: settings of models, adapter and training.
        datasets_dir: directory with one dataset per task.
        out_dir: directory for checkpoints and the finished explainer.
        corpus: function that reads the recipe's texts; called if an adapter is fitted on them.
        split_seed: seed with which the ground truth was split.

    Raises:
        SelfExplainError: a model cannot be loaded, ground truth is missing or has a different width, or the base does
            not support the training settings.
    """
    from selfexplain.target.load import load_target
    from selfexplain.training.train import train

    options = _training_options(recipe)
    if recipe.explainer is None:  # the base is the target, so one copy of the weights is enough
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
    """Load the target of a recipe to the device of this process.

    If the target is the base of an explainer in 4 bits, the target is also loaded in 4 bits: `capture` and `verify`
    read that model, so ground truth has to describe it.
    """
    from selfexplain.target.load import load_target

    if reads_quantized(recipe):
        return load_target(recipe.target, recipe.target_revision, **_training_options(recipe))
    target = load_target(recipe.target, recipe.target_revision, recipe.dtype, **_model_options(recipe))
    if recipe.device_map is None:
        target.model.to(process_state().device)
    return target


def reads_quantized(recipe: Recipe) -> bool:
    """Whether the target is the quantised base of the explainer that is trained."""
    return recipe.training.quantization is not None and recipe.explainer in (None, recipe.target)


def load_options(recipe: Recipe) -> dict[str, Any]:
    """Options to load an explainer for evaluation: those of training if it is quantised, else the target's dtype."""
    if recipe.training.quantization:
        return _training_options(recipe)
    return {"dtype": recipe.dtype, **_model_options(recipe)}


def _training_options(recipe: Recipe) -> dict[str, Any]:
    """Options to load the frozen base for training."""
    from selfexplain.training.train import base_options

    return base_options(recipe.training) | _model_options(recipe)


def _model_options(recipe: Recipe) -> dict[str, Any]:
    """Options to load every model of a recipe: whether its code is trusted, and its devices.

    Raises:
        SelfExplainError: the recipe has a device map, and there are several processes.
    """
    options: dict[str, Any] = {"trust_remote_code": recipe.trust_remote_code}
    if recipe.device_map is None:
        return options
    if (n_processes := process_state().num_processes) > 1:
        raise SelfExplainError(
            f"device_map is {recipe.device_map!r}, but there are {n_processes} processes, each with its own device. "
            "Start one process, or remove device_map."
        )
    return options | {"device_map": recipe.device_map}


def load_explainer(recipe: Recipe, name: str, revision: str | None = None) -> "SelfExplainerForCausalLM":
    """Load a trained explainer to the device.

    Raises:
        SelfExplainError: it is not an explainer, its base cannot be loaded, or it fails its injection check.
    """
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    explainer = SelfExplainerForCausalLM.from_pretrained(name, revision=revision, **load_options(recipe))
    if not recipe.training.quantization and recipe.device_map is None:
        explainer.to(process_state().device)
    return explainer


def load_untrained(recipe: Recipe, config: "SelfExplainerConfig") -> "SelfExplainerForCausalLM":
    """Load the explainer of a config as it was before training, to the device."""
    from selfexplain.modeling.contract import InjectionConfig
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    assert config.injection is not None  # set by its __post_init__
    untrained = SelfExplainerForCausalLM.from_base(
        config.base_model_name_or_path,
        injection=InjectionConfig(**config.injection),
        adapter=config.adapter,
        target=config.target,
        revision=config.base_model_revision,
        seed=recipe.seed,
        **load_options(recipe),
    )
    if not recipe.training.quantization and recipe.device_map is None:
        untrained.to(process_state().device)
    return untrained


def free_memory() -> None:
    """Free the memory of models without references; a model and its hooks refer to each other in cycles."""
    gc.collect()


class ModelSlot:
    """Holds at most one loaded explainer, because two may not fit on the device."""

    def __init__(self) -> None:
        self._load: Callable[[], Explainer] | None = None
        self._explainer: Explainer | None = None

    def explainer(self, load: Callable[[], "Explainer"]) -> "Explainer":
        """Return the explainer that `load` loads, after freeing the previous one."""
        if self._explainer is None or load is not self._load:
            self.clear()
            self._load, self._explainer = load, load()
        return self._explainer

    def clear(self) -> None:
        """Free the explainer in the slot."""
        self._load = self._explainer = None
        free_memory()


@dataclass(frozen=True)
class LazyExplainer:
    """An explainer that is loaded into its slot when it is first needed.

    Attributes:
        load: function that loads the explainer.
        slot: the slot, which other lazy explainers may share.
    """

    load: Callable[[], "Explainer"]
    slot: ModelSlot

    def answer(self, rows: Sequence[Mapping], batch_size: int = 64, progress: str | None = None) -> Sequence[Any]:
        """Answer rows, as `Explainer.answer` does."""
        return self.slot.explainer(self.load).answer(rows, batch_size, progress)
