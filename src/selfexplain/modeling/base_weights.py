"""Detect whether a base still has the weights that its name stands for, and write them if it does not."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base import load_base
from selfexplain.target.untrusted import has_own_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig

logger = logging.getLogger(__name__)

_CHUNK = 2**20
"""Words of 8 bytes that are hashed at once, which bounds the memory."""

Fingerprint = dict[str, tuple[torch.Size, torch.dtype, int | None]]
"""Name of a tensor -> its shape, dtype and hash; the hash is None for weights that are not in memory."""


class BaseWeights:
    """What is known about the weights of an explainer's base.

    Attributes:
        as_named: whether the base was loaded from the place that the configuration names, so that `initial` are the
            weights there. Callers who pass a loaded base may have changed it, so it is then compared with that place.
        initial: fingerprint of the base when the explainer was built.
    """

    def __init__(self, base: "PreTrainedModel"):
        self.as_named = bool(getattr(base, "is_quantized", False))  # packed weights cannot be trained
        self.initial = fingerprint(bare_state(base))

    def differ(self, base: "PreTrainedModel", config: "SelfExplainerConfig", state: Mapping[str, Tensor]) -> bool:
        """Return whether a base has other weights than the one that the configuration names.

        Args:
            base: base of the explainer.
            config: configuration of the explainer.
            state: weights of the base, as `bare_state` returns them; all, or those that a trainer gathered.
        """
        current = fingerprint(state)
        known = {name: self.initial.get(name) for name in current}
        same_dtypes = all(old is None or old[1] == current[name][1] for name, old in known.items())
        if same_dtypes and (known != current or self.as_named):
            return known != current
        try:
            assert config.base_model_name_or_path is not None
            named = load_base(
                config.base_model_name_or_path,
                config.base_model_revision,
                dtype=base.dtype,
                trust_remote_code=has_own_code(base),
            )
        except SelfExplainError as error:
            logger.warning(
                "The weights of the base could not be compared with those of %r (%s). They were not saved.",
                config.base_model_name_or_path, error,
            )  # fmt: skip
            return known != current
        actual = fingerprint(bare_state(named))
        if current != {name: actual.get(name) for name in current}:
            return True
        self.initial, self.as_named = actual, True
        return False


@torch.no_grad()
def fingerprint(state: Mapping[str, Tensor]) -> Fingerprint:
    """Return shape, dtype and hash of each tensor. The hash depends on the bits and not on the device."""
    return {
        name: (tensor.shape, tensor.dtype, None if tensor.is_meta else _hash(tensor)) for name, tensor in state.items()
    }


def _hash(tensor: Tensor) -> int:
    flat = tensor.detach().contiguous().flatten()
    flat = flat.view(torch.uint8) if flat.dtype != torch.bool else flat.to(torch.uint8)
    n_words = len(flat) // 8
    aligned = flat.storage_offset() % 8 == 0
    words = flat[: 8 * n_words].view(torch.int64) if aligned else flat[: 8 * n_words].clone().view(torch.int64)
    rest = flat[8 * n_words :].long()
    odd = 2 * torch.arange(min(len(words), _CHUNK), device=flat.device) + 1
    total = ((2 * torch.arange(len(rest), device=flat.device) + 1) * rest).sum()
    for chunk in words.split(_CHUNK):  # wraps around at 64 bits
        total = total * 1_000_003 + (chunk * odd[: len(chunk)]).sum()
    return int(total.item())


def peft_modules(model: nn.Module) -> dict[str, str]:
    """Return the modules that peft replaced in a model: name -> attribute that leads to the original module."""
    attributes = ("token_adapter", "base_layer", "original_module")
    return {
        name: next(attribute for attribute in attributes if attribute in module._modules)
        for name, module in model.named_modules()
        if type(module).__module__.startswith("peft.") and not module._modules.keys().isdisjoint(attributes)
    }


def remove_peft_modules(model: nn.Module) -> None:
    """Put the original modules back in place of those by which peft replaced them."""
    removed: list[str] = []
    for name, attribute in peft_modules(model).items():
        if name.startswith(tuple(f"{outer}." for outer in removed)):
            continue
        original = getattr(model.get_submodule(name), attribute)
        while "base_layer" in original._modules:
            original = original.base_layer
        model.set_submodule(name, original)
        removed.append(name)


def bare_state(base: "PreTrainedModel", state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights of a base without those of adapters, under the names that they have without adapters.

    Args:
        base: base model.
        state: its state dict; None reads it from the base.
    """
    replaced = peft_modules(base)
    known = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in base.named_buffers(remove_duplicate=False)}

    def bare(name: str) -> str | None:
        kept: list[str] = []
        parts = name.split(".")
        for depth, part in enumerate(parts):
            original = replaced.get(".".join(parts[:depth]))
            if original is None:
                kept.append(part)
            elif part != original:
                return None  # a weight of an adapter
        return ".".join(kept)

    tensors = base.state_dict() if state is None else state
    return {name: t for old, t in tensors.items() if old in known and (name := bare(old)) is not None}


def save_base(base: "PreTrainedModel", directory: Path, state: Mapping[str, Tensor] | None, **options: Any) -> None:
    """Write a base without its adapters in transformers' format.

    Args:
        base: base model.
        directory: directory to write to.
        state: its weights as `bare_state` returns them; None reads them from the base.
        options: options of transformers' `save_pretrained`.

    Raises:
        SelfExplainError: the base runs code of its own repository, which would be missing next to the weights.
    """
    if has_own_code(base):
        raise SelfExplainError(
            f"The base {base.name_or_path!r} runs code of its own repository (trust_remote_code), so its weights "
            "cannot be saved inside the explainer. Save the explainer with LoRA weights on the unchanged base."
        )
    has_adapters = getattr(base, "_hf_peft_config_loaded", False)
    if state is None and peft_modules(base):
        state = bare_state(base)
    base._hf_peft_config_loaded = False  # otherwise transformers would write the adapters alone
    try:
        base.save_pretrained(directory, state_dict=None if state is None else dict(state), **options)
    finally:
        base._hf_peft_config_loaded = has_adapters


@torch.no_grad()
def load_weights(base: "PreTrainedModel", directory: Path) -> None:
    """Copy the weights that `save_base` wrote into a base.

    Raises:
        SelfExplainError: they could not be read, or they are those of a different model.
    """
    saved, state = bare_state(load_base(str(directory), dtype=base.dtype)), bare_state(base)
    if {name: tensor.shape for name, tensor in saved.items()} != {name: t.shape for name, t in state.items()}:
        raise SelfExplainError(
            f"The weights in {directory} are those of a different model than the base of the explainer. Give a "
            "checkpoint of the same training."
        )
    for name, tensor in state.items():
        tensor.copy_(saved[name])


@torch.no_grad()
def copy_base(base: "PreTrainedModel", dtype: str | torch.dtype | None = None) -> "PreTrainedModel":
    """Return a new base with the weights of a base in memory, without its adapters.

    Raises:
        SelfExplainError: the weights are quantised.
    """
    if getattr(base, "is_quantized", False):
        raise SelfExplainError(
            "The base of this explainer is quantised and cannot be loaded again without quantisation, so nothing can "
            "be merged into it. Load the explainer without quantization_config."
        )
    options = {"dtype": dtype or base.dtype, "trust_remote_code": has_own_code(base)}
    copy = AutoModelForCausalLM.from_config(base.config, **options)
    state = bare_state(base)
    for name, tensor in bare_state(copy).items():
        tensor.copy_(state[name])
    return copy
