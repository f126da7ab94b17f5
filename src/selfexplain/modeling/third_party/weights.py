"""Read the weights of a third-party checkpoint: LoRA adapters, projections, and matrices saved in full."""

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.modeling.lora import PEFT_PREFIX, SETTINGS_FILE, WEIGHTS_FILE, allocate, check_same_tensors, load_lora
from selfexplain.modeling.lora_settings import lora_config, read_lora_settings, settings_summary
from selfexplain.modeling.third_party.checkpoint import Checkpoint
from selfexplain.target.untrusted import CONVERSION, LOADING, index_files, report_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

logger = logging.getLogger(__name__)

PROJECTION = re.compile(r"(?:^|\.)embed_projs\.(\d+)\.(.+)$")
"""Name of a projection's parameter; the groups are the layer and the rest of the name."""


def read_weights(files: Checkpoint) -> dict[str, Tensor]:
    """Read the weights that `AutoModelForCausalLM` does not load: a whole adapter, or the projections of a whole model.

    Raises:
        SelfExplainError: the checkpoint does not contain a safetensors file. Pickles are never opened.
    """
    if files.adapter is not None:
        if files.find(WEIGHTS_FILE) is None:
            raise SelfExplainError(f"{files.name} has no {WEIGHTS_FILE}. {CONVERSION}")
        return files.tensors(WEIGHTS_FILE)
    index = files.find("model.safetensors.index.json")
    shards = {"model.safetensors"}
    if index is not None:
        shards = {shard for key, shard in index_files(index, files.name).items() if PROJECTION.search(key)}
    projections: dict[str, Tensor] = {}
    for shard in sorted(shards):
        with safe_open(files.require(shard), "pt") as weights:
            projections |= {
                key: weights.get_tensor(key)
                for key in weights.keys()  # noqa: SIM118
                if PROJECTION.search(key)
            }
    return projections


def read_projection(files: Checkpoint, weights: Mapping[str, Tensor], d_explainer: int) -> Tensor | None:
    """Return the linear maps of an explainer whose target has a different width.

    Transluce trains one bias-free map per layer of the target, and applies the maps only if the widths differ.

    Args:
        files: checkpoint, for error messages.
        weights: weights as `read_weights` returns them.
        d_explainer: width of the explainer.

    Returns:
        `(n_layers, d_explainer, d_target)` float32, or None if there are no maps or the widths are equal.

    Raises:
        SelfExplainError: the maps are incomplete, have different shapes, or are adapters of maps that were not saved.
    """
    matched = {match: weight for key, weight in weights.items() if (match := PROJECTION.search(key))}
    stray = [match.group(0) for match in matched if match.group(2) != "weight"]
    if stray:
        raise SelfExplainError(
            f"{files.name}: {stray[0]} changes a projection whose own weight was not saved. Merge it into the "
            "projection that it was trained on, and save embed_projs.<layer>.weight."
        )
    maps = {int(match.group(1)): weight for match, weight in matched.items()}
    shapes = {tuple(weight.shape) for weight in maps.values()}
    if sorted(maps) != list(range(len(maps))) or len(shapes) > 1 or any(rows != d_explainer for rows, _ in shapes):
        raise SelfExplainError(
            f"{files.name} has projections for the layers {sorted(maps)} of the shapes {sorted(shapes)}, expected one "
            f"per layer of the target, each of the shape ({d_explainer}, width of the target). Download it again."
        )
    if not maps or shapes == {(d_explainer, d_explainer)}:
        return None
    return torch.stack([maps[layer] for layer in range(len(maps))]).float()


def changed_matrices(model: "PreTrainedModel", weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the whole matrices in an adapter that differ from those of the base.

    Transluce saves the embeddings and the head along with the LoRA weights, usually unchanged.

    Args:
        model: base model.
        weights: weights of the adapter.

    Returns:
        Parameter name in the base -> matrix in the adapter.
    """
    state = model.state_dict()
    whole = {name: weight for key, weight in weights.items() if (name := key.removeprefix(PEFT_PREFIX)) in state}
    return {name: weight for name, weight in whole.items() if not _is_same(weight.to(state[name].device), state[name])}


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding to the coarser of their dtypes."""
    return a.shape == b.shape and (torch.equal(a.to(b.dtype), b) or torch.equal(a, b.to(a.dtype)))


def merge_into_base(
    model: "PreTrainedModel", files: Checkpoint, weights: Mapping[str, Tensor], changed: Mapping[str, Tensor]
) -> "PreTrainedModel":
    """Return the base with the changed matrices and the LoRA weights merged in.

    Args:
        model: base model; it is changed in place.
        files: checkpoint with the adapter.
        weights: weights of the adapter.
        changed: matrices that differ from those of the base, as `changed_matrices` returns them.

    Raises:
        SelfExplainError: a LoRA weight is missing.
    """
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    state = model.state_dict()
    for n_rows in {weight.shape[0] for name, weight in changed.items() if weight.shape != state[name].shape}:
        model.resize_token_embeddings(n_rows, mean_resizing=False)  # tokens were added
    source = f"{files.name}: {SETTINGS_FILE}"
    config = lora_config(read_lora_settings(files.require(SETTINGS_FILE), source), model, source)
    with (
        LOADING,
        report_errors(f"{source} does not fit the base", "Pass base= with the model that it was trained from."),
    ):
        adapted = PeftModel(model, config, low_cpu_mem_usage=True)
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        given = {name: weight for name, weight in weights.items() if name in expected}
        check_same_tensors(expected, given, f"{files.name}: {WEIGHTS_FILE}")
        allocate(adapted)
        set_peft_model_state_dict(adapted, dict(weights))
    logger.info("%s: %s differ from the base, so everything is merged into one model", files.name, sorted(changed))
    return adapted.merge_and_unload()


def add_lora(explainer: "SelfExplainerForCausalLM", files: Checkpoint, weights: Mapping[str, Tensor]) -> None:
    """Add the LoRA weights of an adapter to an explainer, and record them in its configuration.

    All weights must fit; peft alone would silently skip those that do not.

    Args:
        explainer: explainer around the base of the adapter.
        files: checkpoint with the adapter.
        weights: weights of the adapter.

    Raises:
        SelfExplainError: the adapter is not a LoRA adapter, or does not fit the base.
    """
    source = f"{files.name}: {SETTINGS_FILE}"
    settings = read_lora_settings(files.require(SETTINGS_FILE), source)
    state = explainer.language_model.state_dict()
    delta = {
        key: weight
        for key, weight in weights.items()
        if key.removeprefix(PEFT_PREFIX) not in state and not PROJECTION.search(key)
    }
    # Matrices that were saved in full are equal to those of the base.
    config = lora_config(settings.model_copy(update={"modules_to_save": None}), explainer.language_model, source)
    with prefix_errors(f"{files.name} (if its base is a different model, pass base=)"):
        load_lora(explainer, config, delta, WEIGHTS_FILE)
    explainer.config.lora = {
        **settings_summary(settings),
        "dtype": str(next(iter(delta.values())).dtype).removeprefix("torch."),
    }
