"""Read and write the LoRA weights of an explainer in the format of peft."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base_weights import Fingerprint, bare_state, fingerprint, peft_modules
from selfexplain.target.blocks import execution_device
from selfexplain.target.untrusted import LOADING, report_errors

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

SETTINGS_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""Prefix that peft puts in front of the parameter names of the bare base."""


def add_lora_modules(base: "PreTrainedModel", config: "LoraConfig") -> None:
    """Add the LoRA modules of a peft configuration to a base, in float32 whatever the dtype of the base.

    Updates of weights in bfloat16 would mostly be rounded away.
    """
    from peft.tuners.tuners_utils import cast_adapter_dtype

    with _fused_patterns_expected():
        base.add_adapter(config)
    cast_adapter_dtype(base, "default")


@contextmanager
def _fused_patterns_expected() -> Iterator[None]:
    """Suppress the warning of peft that the patterns which it added for fused experts match no module."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys", RuntimeWarning)
        yield


@torch.no_grad()
def round_lora(explainer: "SelfExplainerForCausalLM", dtype: torch.dtype) -> None:
    """Round the LoRA weights in memory to the dtype in which they are saved.

    The answers to the golden questions are computed after this, so the loaded explainer can reproduce them.
    """
    for name, weight in explainer.language_model.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            weight.copy_(weight.to(dtype))


def record_adapters(explainer: "SelfExplainerForCausalLM") -> None:
    """Make `config.lora` describe the adapters of peft that the base has now, however they were added or removed.

    Raises:
        SelfExplainError: the adapters cannot be saved with the explainer.
    """
    base, config = explainer.language_model, explainer.config
    replaced = peft_modules(base)
    if not replaced:  # removed, and possibly merged into the base
        config.lora = None
        return
    adapters = getattr(base, "peft_config", None) or getattr(explainer, "peft_config", None) or {}
    merged = any(getattr(base.get_submodule(name), "merged", False) for name in replaced)
    off = any(getattr(base.get_submodule(name), "_disable_adapters", False) for name in replaced)
    problem = "are switched off (leave as_target(), or call enable_adapters() first)" if off else ""
    if merged:
        problem = "are merged into the base but still there (unmerge them first)"
    if len(adapters) != 1:
        problem = f"are {len(adapters)} ({', '.join(adapters)}), but an explainer has one"
    elif (kind := str(getattr(settings := next(iter(adapters.values())), "peft_type", None)).split(".")[-1]) != "LORA":
        problem = f"are of type {kind}, not LORA"
    elif settings.bias != "none":
        problem = f"train biases of the base (bias={settings.bias!r})"
    if problem:
        raise SelfExplainError(
            f"This explainer cannot be saved, because its peft adapters {problem}. Merge them with merge_and_unload() "
            "and save again, which saves the whole base, or use explainer.add_lora(...)."
        )
    if config.lora is None:
        settings = deepcopy(settings)
        settings.target_modules = {name for name in replaced if hasattr(base.get_submodule(name), "lora_A")}
        base.peft_config, base._hf_peft_config_loaded = {next(iter(adapters)): settings}, True
        config.lora = {"rank": settings.r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout}
        config.lora |= {"target_modules": sorted(settings.target_modules), "trainable_tokens": []}


def save_lora(
    explainer: "SelfExplainerForCausalLM", directory: Path, dtype: str, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the LoRA weights under the parameter names of the bare base, so that peft alone can load them.

    Args:
        explainer: explainer with LoRA weights.
        directory: directory to write `adapter_config.json` and `adapter_model.safetensors` to.
        dtype: name of the dtype on disk, such as "float16".
        state: state dict of the base; None reads it from the base.
    """
    from peft import get_peft_model_state_dict

    base = explainer.language_model
    directory.mkdir(parents=True, exist_ok=True)
    name, lora = next(iter(base.peft_config.items()))
    lora = deepcopy(lora)
    lora.base_model_name_or_path = explainer.config.base_model_name_or_path
    lora.revision = explainer.config.base_model_revision
    lora.inference_mode = True
    if not isinstance(lora.target_modules, str):
        lora.target_modules = sorted(lora.target_modules)  # a set, whose order differs between processes
    lora.save_pretrained(directory)
    # With save_embedding_layers=True, peft would query the Hub to find out whether the embeddings changed.
    weights = get_peft_model_state_dict(base, state, adapter_name=name, save_embedding_layers=False)
    save_file(
        {PEFT_PREFIX + key: w.detach().to("cpu", getattr(torch, dtype)).contiguous() for key, w in weights.items()},
        directory / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )


@torch.no_grad()
def load_lora(
    explainer: "SelfExplainerForCausalLM", config: "LoraConfig", weights: Mapping[str, Tensor], source: str
) -> None:
    """Add saved LoRA weights to an explainer, and prove that its base did not change.

    The modules are first created without memory and compared with the saved weights, because a rank in a small JSON
    file can ask for any amount of it.

    Args:
        explainer: explainer without LoRA modules.
        config: peft configuration, as `lora_settings.lora_config` returns it.
        weights: saved weights by name, each name with `PEFT_PREFIX`.
        source: what the weights were read from, for error messages.

    Raises:
        SelfExplainError: the LoRA weights do not fit the base, a weight is missing, unknown or has a different shape,
            or adding them changed the base.
    """
    from peft import inject_adapter_in_model

    base = explainer.language_model
    before, logits = explainer.base_weights.initial, _probe(base)
    with LOADING, report_errors(f"{source} does not fit the base", "Use the base that the weights were trained from."):
        with _fused_patterns_expected():
            inject_adapter_in_model(config, base, "default", low_cpu_mem_usage=True)
        base._hf_peft_config_loaded = True  # what base.add_adapter sets
        base.set_adapter("default")
        _check_state(base, weights, source)
        allocate(base)
        load_lora_state(explainer, weights, source)
    _check_base_unchanged(base, before, logits, source)


def allocate(base: "PreTrainedModel") -> None:
    """Give memory to LoRA modules that were created on the meta device, on the device that their layer runs on.

    The values are undefined until saved weights are loaded.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for module in base.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            device, of_base = execution_device(layer), set(layer.modules())
            for part in set(module.modules()) - of_base:  # wrappers can be nested, as around fused experts
                for name, parameter in part._parameters.items():
                    if parameter is not None and parameter.is_meta:
                        empty = torch.empty_like(parameter, device=device)
                        part._parameters[name] = torch.nn.Parameter(empty, parameter.requires_grad)


def load_lora_state(explainer: "SelfExplainerForCausalLM", weights: Mapping[str, Tensor], source: str) -> None:
    """Copy saved LoRA weights into an explainer that already has LoRA modules.

    Args:
        explainer: explainer with LoRA modules of the same shapes.
        weights: saved weights by name, each name with `PEFT_PREFIX`.
        source: what the weights were read from, for error messages.

    Raises:
        SelfExplainError: a weight is missing, unknown or has a different shape.
    """
    from peft import set_peft_model_state_dict

    base = explainer.language_model
    _check_state(base, weights, source)
    # peft finds trained token embeddings only under the names of the bare base, and all other weights with and
    # without the prefix.
    set_peft_model_state_dict(base, {name.removeprefix(PEFT_PREFIX): weight for name, weight in weights.items()})


def _check_state(base: "PreTrainedModel", weights: Mapping[str, Tensor], source: str) -> None:
    """Check that saved LoRA weights have the names and shapes of the LoRA modules of a base."""
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(base, save_embedding_layers=False)
    check_same_tensors({PEFT_PREFIX + name: weight for name, weight in expected.items()}, weights, source)


# ---------------------------------------------------------------- proof that the base is unchanged


def _probe(base: "PreTrainedModel") -> Tensor:
    """Return the logits of a few fixed tokens, `(1, T, vocabulary)` float32."""
    embeddings = base.get_input_embeddings()
    vocabulary = embeddings.weight.shape[0]
    ids = torch.linspace(0, vocabulary - 1, min(8, vocabulary)).long()[None]
    training = base.training
    base.eval()
    try:
        return base(input_ids=ids.to(execution_device(embeddings)), use_cache=False).logits.float()
    finally:
        base.train(training)


def _check_base_unchanged(base: "PreTrainedModel", before: Fingerprint, logits: Tensor, source: str) -> None:
    """Compare a base that has LoRA modules with its fingerprint and its logits before they were added."""
    after = fingerprint(bare_state(base))
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    base.disable_adapters()
    try:
        same = torch.allclose(_probe(base), logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item(), equal_nan=True)
    finally:
        base.enable_adapters()
    if changed or not same:
        what = f"{changed[0]} and {len(changed) - 1} more tensors" if changed else "the logits"
        raise SelfExplainError(
            f"{source} changed the base itself ({what}), so the explainer could not be compared with its target. Do "
            "not use this explainer. Merge the weights with peft if you trust them."
        )


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
