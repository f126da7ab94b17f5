"""Read and write the LoRA weights of an explainer in the format of peft."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

SETTINGS_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""Prefix that peft puts in front of the parameter names of the bare base."""


def add_lora_modules(base: "PreTrainedModel", config: "LoraConfig") -> None:
    """Add the LoRA modules of a peft configuration to a base.

    For the fused experts of mixture-of-experts models, peft adds rank patterns of parameters to the configuration and
    then warns that they match no module. That warning is suppressed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys", RuntimeWarning)
        base.add_adapter(config)


@torch.no_grad()
def round_lora(explainer: "SelfExplainerForCausalLM", dtype: torch.dtype) -> None:
    """Round the LoRA weights in memory to the dtype in which they are saved.

    The answers to the golden questions are computed after this, so the loaded explainer can reproduce them.
    """
    for name, weight in explainer.language_model.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            weight.copy_(weight.to(dtype))


def save_lora(explainer: "SelfExplainerForCausalLM", directory: Path, dtype: str) -> None:
    """Write the LoRA weights under the parameter names of the bare base, so that peft alone can load them.

    Args:
        explainer: explainer with LoRA weights.
        directory: directory to write `adapter_config.json` and `adapter_model.safetensors` to.
        dtype: name of the dtype on disk, such as "float16".
    """
    from peft import get_peft_model_state_dict

    base = explainer.language_model
    directory.mkdir(parents=True, exist_ok=True)
    lora = deepcopy(base.peft_config["default"])
    lora.base_model_name_or_path = explainer.config.base_model_name_or_path
    lora.revision = explainer.config.base_model_revision
    lora.inference_mode = True
    if not isinstance(lora.target_modules, str):
        lora.target_modules = sorted(lora.target_modules)  # a set, whose order differs between processes
    lora.save_pretrained(directory)
    # With save_embedding_layers=True, peft would query the Hub to find out whether the embeddings changed.
    weights = get_peft_model_state_dict(base, save_embedding_layers=False)
    save_file(
        {PEFT_PREFIX + name: w.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, w in weights.items()},
        directory / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )


def load_lora_state(explainer: "SelfExplainerForCausalLM", weights: Mapping[str, Tensor], source: str) -> None:
    """Copy saved LoRA weights into an explainer that already has LoRA modules.

    Args:
        explainer: explainer with LoRA modules of the same shapes.
        weights: saved weights by name, each name with `PEFT_PREFIX`.
        source: what the weights were read from, for error messages.

    Raises:
        SelfExplainError: a weight is missing, unknown or has a different shape.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    base = explainer.language_model
    expected = get_peft_model_state_dict(base, save_embedding_layers=False)
    check_same_tensors({PEFT_PREFIX + name: weight for name, weight in expected.items()}, weights, source)
    # peft finds trained token embeddings only under the names of the bare base, and all other weights with and
    # without the prefix.
    set_peft_model_state_dict(base, {name.removeprefix(PEFT_PREFIX): weight for name, weight in weights.items()})


def check_same_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Check that two state dicts have the same names and shapes.

    Raises:
        SelfExplainError: a name is missing or unknown, or a shape differs.
    """
    shared = set(expected) & set(given)
    problems = {
        "lacks": sorted(set(expected) - set(given)),
        "contains the unknown tensor": sorted(set(given) - set(expected)),
        "has a different shape for": sorted(name for name in shared if expected[name].shape != given[name].shape),
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise SelfExplainError(
                f"{source} {problem} {names[0]}{more}. The file does not match config.json. Save or download the "
                "explainer again."
            )
