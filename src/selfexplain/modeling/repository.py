"""Read and write the files of a published explainer."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME, PROCESSOR_NAME, cached_file

from selfexplain import bundled
from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.modeling import base_weights, injection_check, lora
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.base import hub_options, load_base, pin_revision
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.lora_settings import lora_config, read_lora_settings
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target.tokenizer_files import check_tokenizer_files
from selfexplain.target.untrusted import LOADING, has_own_code, load_config, read_json, report_errors
from selfexplain.version import __version__

if TYPE_CHECKING:
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

logger = logging.getLogger(__name__)

ADAPTER_FILE = "activation_adapter.safetensors"
LORA_DIRECTORY = "lora"
LORA_SETTINGS_FILE = f"{LORA_DIRECTORY}/{lora.SETTINGS_FILE}"
LORA_WEIGHTS_FILE = f"{LORA_DIRECTORY}/{lora.WEIGHTS_FILE}"
MERGED_DIRECTORY = "merged"
SHIM_FILE = "modeling_selfexplainer.py"
_PUBLISHED = ("SelfExplainerConfig", "SelfExplainerForCausalLM", "SelfExplainerProcessor")
SHIM = f"from selfexplain import {', '.join(_PUBLISHED)}  # noqa: F401 (pip install selfexplain)\n"
AUTO_MAP = {
    "AutoConfig": "modeling_selfexplainer.SelfExplainerConfig",
    "AutoModel": "modeling_selfexplainer.SelfExplainerForCausalLM",
    "AutoModelForCausalLM": "modeling_selfexplainer.SelfExplainerForCausalLM",
    "AutoProcessor": "modeling_selfexplainer.SelfExplainerProcessor",
}


# ---------------------------------------------------------------- writing


@torch.no_grad()
def save(
    explainer: "SelfExplainerForCausalLM",
    directory: Path,
    lora_dtype: str | None = None,
    with_check: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str = "50GB",
) -> None:
    """Write an explainer. See `SelfExplainerForCausalLM.save_pretrained`."""
    config, base = explainer.config, explainer.language_model
    lora.record_adapters(explainer)
    parts = _parts(explainer, state_dict)
    full = _in_memory_only(explainer, parts["base"])
    if full and not config.merged and config.base_model_name_or_path is not None:
        logger.warning(
            "The weights of the base differ from those of %r, so the whole base is saved in %s/. It no longer is the "
            "target of this explainer.",
            config.base_model_name_or_path, MERGED_DIRECTORY,
        )  # fmt: skip
        config.merged = True
    directory.mkdir(parents=True, exist_ok=True)
    injection_check.delete(directory)
    if config.lora:
        config.lora["dtype"] = lora_dtype or config.lora.get("dtype") or "float32"
        lora.round_lora(explainer, getattr(torch, config.lora["dtype"]))
        lora.save_lora(explainer, directory / LORA_DIRECTORY, config.lora["dtype"], parts["base"])
    if full:
        state = parts["base"] and base_weights.bare_state(base, parts["base"])
        base_weights.save_base(base, directory / MERGED_DIRECTORY, state, max_shard_size=max_shard_size)
    _save_config(explainer, directory, full)
    explainer.generation_config.to_json_file(
        directory / GENERATION_CONFIG_NAME
    )  # save_pretrained refuses those of some bases
    save_file(_contiguous(parts["adapter"]), directory / ADAPTER_FILE)
    (directory / SHIM_FILE).write_text(SHIM)
    if explainer.processor is not None:
        for name in ("is_local", "local_files_only"):  # how the tokenizer was loaded here, not what it is
            explainer.processor.tokenizer.init_kwargs.pop(name, None)
        explainer.processor.save_pretrained(directory)
        if with_check:
            injection_check.write(explainer, directory)


def _in_memory_only(explainer: "SelfExplainerForCausalLM", state: Mapping[str, Tensor] | None = None) -> bool:
    """Whether the base cannot be loaded again: it is merged, has no name, or has other weights than those of its name.

    Args:
        explainer: explainer.
        state: state dict of the base; None reads it from the base.
    """
    config, base = explainer.config, explainer.language_model
    if config.merged or config.base_model_name_or_path is None:
        return True
    return explainer.base_weights.differ(base, config, base_weights.bare_state(base, state))


def _parts(explainer: "SelfExplainerForCausalLM", state_dict: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """Split a state dict of the explainer into those of its adapter and its base.

    Without a state dict, the base's is None: it is read from the base.
    """
    adapter = explainer.model.activation_adapter
    if state_dict is None:
        return {"adapter": adapter.state_dict(), "base": None}
    names = {"adapter": "model.activation_adapter.", "base": "model.language_model."}
    parts = {
        part: {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
        for part, prefix in names.items()
    }
    if parts["adapter"].keys() != adapter.state_dict().keys() or sum(map(len, parts.values())) != len(state_dict):
        unknown = [name for name in state_dict if not name.startswith(tuple(names.values()))]
        problem = f"contains the unknown name {unknown[0]!r}" if unknown else "lacks weights of the activation adapter"
        raise SelfExplainError(
            f"state_dict {problem}. Pass the state dict of the whole explainer, as explainer.state_dict() returns it."
        )
    return parts


def _save_config(explainer: "SelfExplainerForCausalLM", directory: Path, merged: bool) -> None:
    """Write `config.json` without the fields that only describe how the base was loaded here.

    Args:
        explainer: explainer.
        directory: directory to write to.
        merged: whether the whole base is saved too.
    """
    config = explainer.config
    config.package_version = __version__
    config.architectures = [type(explainer).__name__]
    config.auto_map = AUTO_MAP
    written = deepcopy(config)
    written.merged = merged
    written.text_config._name_or_path = config.base_model_name_or_path
    if hasattr(written.text_config, "quantization_config") and not merged:
        del written.text_config.quantization_config
    written.save_pretrained(directory)


def merge(explainer: "SelfExplainerForCausalLM", dtype: str | torch.dtype | None = None) -> "SelfExplainerForCausalLM":
    """Return an explainer with merged LoRA weights. See `SelfExplainerForCausalLM.merge_and_save`."""
    from peft import PeftModel

    config = explainer.config
    base = explainer.language_model
    if config.lora:
        if _in_memory_only(explainer):
            base = base_weights.copy_base(base, dtype)
        else:
            options = {"dtype": dtype or base.dtype, "trust_remote_code": has_own_code(base)}
            base = load_base(config.base_model_name_or_path, config.base_model_revision, **options)
        with TemporaryDirectory() as folder:
            lora.save_lora(explainer, Path(folder), "float32")
            base = PeftModel.from_pretrained(base, folder).merge_and_unload()
    merged = type(explainer)(SelfExplainerConfig.for_base(base, config, merged=True, lora=None), base)
    merged.model.activation_adapter.load_state_dict(explainer.model.activation_adapter.state_dict())
    merged.processor, merged.golden_rows = explainer.processor, explainer.golden_rows
    merged.generation_config = deepcopy(explainer.generation_config)
    return merged.eval()


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class ExplainerFiles:
    """The files of a saved explainer in a directory or on the Hub.

    Attributes:
        name: Hub id, directory or reserved name as the caller gave it, for error messages.
        path: directory or Hub id.
        location: `revision`, `subfolder` and download options, as `cached_file` of transformers takes them.
    """

    name: str
    path: str
    location: Mapping[str, Any]

    def find(self, file: str) -> Path | None:
        """Return the local path of a file, downloaded if necessary, or None if there is no such file."""
        path = cached_file(self.path, file, _raise_exceptions_for_missing_entries=False, **self.location)
        return None if path is None else Path(path)

    def require(self, file: str) -> Path:
        """Return the local path of a file, downloaded if necessary.

        Raises:
            SelfExplainError: there is no such file.
        """
        path = self.find(file)
        if path is None:
            raise SelfExplainError(
                f"{self.name} is not a complete explainer: the file {file} does not exist or was not downloaded. Save "
                "or download the explainer again."
            )
        return path

    def tensors(self, file: str) -> dict[str, Tensor]:
        """Read a safetensors file.

        Raises:
            SelfExplainError: there is no such file, or it is damaged.
        """
        path = self.require(file)
        with report_errors(f"{self.name}: {file} is damaged", "Save or download the explainer again."):
            return load_file(path)

    def config(self, trust_remote_code: bool = False) -> SelfExplainerConfig:
        """Read `config.json`.

        Args:
            trust_remote_code: whether the class of the base's configuration may come from the base's repository.

        Raises:
            OSError: there is no `config.json`.
            SelfExplainError: it is the configuration of a different kind of model.
        """
        fields, _ = PreTrainedConfig.get_config_dict(self.path, **self.location)
        if not fields:
            raise OSError("It has no config.json.")
        if not isinstance(fields, dict):
            raise SelfExplainError(f"{self.name}: config.json does not contain an object. Download the file again.")
        if fields.get("model_type") != "selfexplainer":
            raise SelfExplainError(
                f"{self.name} contains a model of type {fields.get('model_type')!r}, not a self-explainer. Give the "
                "Hub id or the directory of an explainer that save_pretrained wrote."
            )
        base = fields.get("base_model_name_or_path")
        if trust_remote_code and isinstance(base, str):
            load_config(bundled.resolve(base), True, revision=fields.get("base_model_revision"))
        with prefix_errors(self.name):
            return SelfExplainerConfig.from_dict(fields)


def load(
    cls: "type[SelfExplainerForCausalLM]",
    name: str,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    subfolder: str = "",
    check_injection: bool = True,
    output_loading_info: bool = False,
    **options,
) -> Any:
    """Load an explainer. See `SelfExplainerForCausalLM.from_pretrained`."""
    if torch.empty(0).is_meta:
        raise RuntimeError(  # as transformers does
            "You are using `from_pretrained` with a meta device context manager, in which no weights can be loaded. "
            "Leave the context, or build the explainer without weights from its configuration."
        )
    for option in ("adapter_kwargs", "code_revision", "_from_auto", "_commit_hash"):
        options.pop(option, None)  # set by the Auto classes for the explainer; the base has no use for them
    with (
        LOADING,
        report_errors(
            f"{name} is not an explainer, or not a complete one",
            "Give the directory of a saved explainer or its Hub id (org/name).",
        ),
    ):
        location = {"revision": pin_revision(name, revision, options), "subfolder": subfolder, **hub_options(options)}
        files = ExplainerFiles(name, bundled.resolve(name), location)
        if not isinstance(config, SelfExplainerConfig):
            config = files.config(bool(options.get("trust_remote_code")))
        elif config._attn_implementation is not None:
            options.setdefault("attn_implementation", config._attn_implementation)  # the Auto classes store it there
        golden = None
        # Without the check, damaged golden files do not matter.
        with nullcontext() if check_injection else suppress(SelfExplainError):
            golden = injection_check.read(files)
        processor = _load_processor(files, () if golden is None else [row["prompt"] for row in golden.rows])
        if output_loading_info:
            options["output_loading_info"] = True
        loaded = _load_base(files, config, options)
        base, info = loaded if output_loading_info else (loaded, {})
        _check_same_model(config, base)
        weights = _adapter_weights(files, config, base.get_input_embeddings().weight.shape[1])
        explainer = cls(SelfExplainerConfig.for_base(base, config), base)
        explainer.base_weights.as_named = True
        explainer.model.activation_adapter.load_state_dict(weights)
        if config.lora:
            _load_lora(explainer, files)
        explainer.processor = processor
        if (path := files.find(GENERATION_CONFIG_NAME)) is not None:
            fields = read_json(path, f"{name}: {GENERATION_CONFIG_NAME}")
            explainer.generation_config = GenerationConfig.from_dict(fields)
    explainer.eval()
    if golden is not None:
        explainer.golden, explainer.golden_rows = golden, golden.rows
        if check_injection:
            with report_errors(
                f"{name}: the injection check failed",
                "Save or download the explainer again. To load it without this check, pass check_injection=False.",
            ):
                injection_check.check(explainer, golden)
    elif check_injection and explainer.processor is not None:
        logger.warning(
            "%s was saved without golden vectors, so its injection cannot be checked. Save it again to add them.", name
        )
    return (explainer, _in_explainer(info)) if output_loading_info else explainer


def _load_processor(files: ExplainerFiles, texts: Sequence[str]) -> SelfExplainerProcessor | None:
    """Load the processor after checking its files; None if the explainer was saved without one.

    Args:
        files: files of the explainer.
        texts: golden questions, which will be encoded.
    """
    if files.find(PROCESSOR_NAME) is None and files.find("tokenizer_config.json") is None:
        logger.warning("%s was saved without a processor. Set explainer.processor before asking questions.", files.name)
        return None
    check_tokenizer_files(files.name, files.path, files.location, texts)
    if (path := files.find(PROCESSOR_NAME)) is not None:
        read_json(path, f"{files.name}: processor_config.json")
    with report_errors(
        f"{files.name}: the processor or the tokenizer is damaged or not a complete one",
        "Save or download the explainer again.",
    ):
        return SelfExplainerProcessor.from_pretrained(files.path, trust_remote_code=False, **files.location)


def _adapter_weights(files: ExplainerFiles, config: SelfExplainerConfig, d_explainer: int) -> dict[str, Tensor]:
    """Read the weights of the adapter, and check that it has the names and shapes that `config.json` describes.

    The adapter is first described without memory, because a small `config.json` can ask for any amount of it.
    """
    weights = files.tensors(ADAPTER_FILE)
    with prefix_errors(f"{files.name}: config.json"), torch.device("meta"):
        expected = ActivationAdapter(d_explainer, **(config.adapter or {})).state_dict()
    lora.check_same_tensors(expected, weights, f"{files.name}: {ADAPTER_FILE}")
    return weights


def _load_base(files: ExplainerFiles, config: SelfExplainerConfig, options: Mapping[str, Any]) -> Any:
    """Load the base from `merged/` if the explainer is merged, otherwise from the location in `config.json`."""
    if config.merged:
        subfolder = files.location["subfolder"]
        at = f"{subfolder}/{MERGED_DIRECTORY}" if subfolder else MERGED_DIRECTORY
        files.require(f"{MERGED_DIRECTORY}/config.json")
        return load_base(files.path, files.location["revision"], subfolder=at, **options)
    if config.base_model_name_or_path is None:
        raise SelfExplainError(
            f"{files.name}: config.json does not name a base model in base_model_name_or_path, so it was not written "
            "by save_pretrained. Save the explainer again."
        )
    return load_base(config.base_model_name_or_path, config.base_model_revision, **options)


def _in_explainer(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loading info of a base with the names that its weights have in the explainer."""
    prefix = "model.language_model."
    return {
        "missing_keys": {prefix + name for name in info["missing_keys"]},
        "unexpected_keys": {prefix + name for name in info["unexpected_keys"]},
        "mismatched_keys": {(prefix + name, *shapes) for name, *shapes in info["mismatched_keys"]},
        "error_msgs": info["error_msgs"],
    }


def _load_lora(explainer: "SelfExplainerForCausalLM", files: ExplainerFiles) -> None:
    """Add the saved LoRA weights to the base and record their dtype in the configuration."""
    weights = files.tensors(LORA_WEIGHTS_FILE)
    source = f"{files.name}: {LORA_SETTINGS_FILE}"
    settings = read_lora_settings(files.require(LORA_SETTINGS_FILE), source)
    if settings.modules_to_save:
        raise SelfExplainError(
            f"{source} sets modules_to_save, which replaces weights of the base. Save the explainer "
            "with merge_and_save."
        )
    config = lora_config(settings, explainer.language_model, source)
    lora.load_lora(explainer, config, weights, f"{files.name}: {LORA_WEIGHTS_FILE}")
    explainer.config.lora["dtype"] = str(next(iter(weights.values())).dtype).removeprefix("torch.")


def _check_same_model(config: SelfExplainerConfig, base: PreTrainedModel) -> None:
    """Check that a loaded base has the shape of the base that the explainer was saved with."""
    loaded = base.config.get_text_config()
    for field in ("model_type", "num_hidden_layers", "hidden_size", "vocab_size"):
        expected, actual = getattr(config.text_config, field), getattr(loaded, field)
        if actual != expected:
            raise SelfExplainError(
                f"The base {config.base_model_name_or_path!r} is not the one that this explainer was trained on: its "
                f"{field} is {actual}, expected {expected}. Restore that base, or set base_model_revision in "
                "config.json to the commit of it that was used."
            )


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
