"""Compare the estimated memory of a recipe with the memory that a GPU has."""

import logging
from typing import TYPE_CHECKING

from selfexplain import bundled
from selfexplain.pipeline.estimate import Memory, estimate_memory
from selfexplain.runs.recipe import Recipe
from selfexplain.utils.formatting import format_bytes
from selfexplain.utils.names import local_path
from selfexplain.utils.processes import process_state

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)


def recipe_memory(recipe: Recipe) -> Memory | None:
    """Estimate the memory of a recipe from the configurations of its models.

    The configurations come from directories, the cache or the Hub. Returns None if one of them cannot be read, or if
    the recipe only evaluates an explainer that is already trained.
    """
    trust = recipe.trust_remote_code
    base = _config(recipe.explainer or recipe.target, recipe.explainer_revision or recipe.target_revision, trust)
    target = _config(recipe.target, recipe.target_revision, trust) if recipe.explainer else None
    if base is None or (recipe.explainer and target is None) or base.model_type == "selfexplainer":
        return None
    return estimate_memory(recipe, base, target)


def warn_if_too_little_memory(recipe: Recipe) -> None:
    """Log a warning if a run on a GPU will probably need more memory than the GPU has."""
    import torch

    device = process_state().device
    if device.type != "cuda" or (memory := recipe_memory(recipe)) is None:
        return
    available = torch.cuda.get_device_properties(device).total_memory
    if memory.total > available:
        logger.warning(
            "this run needs about %s of GPU memory (an estimate), but the GPU has %s. Reduce training.batch_size or "
            "evaluation.batch_size, or set training.activation_checkpointing=true or training.quantization=nf4.",
            format_bytes(memory.total), format_bytes(available),
        )  # fmt: skip


def _config(name: str, revision: str | None, trust_remote_code: bool) -> "PreTrainedConfig | None":
    from transformers import AutoConfig

    try:
        path = str(local_path(bundled.resolve(name)))
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return None
