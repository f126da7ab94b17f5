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
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from selfexplain import bundled
from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.modeling import injection_check, lora
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.base import hub_options, load_base, pin_revision
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.lora_settings import lora_config, read_lora_settings
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target.tokenizer_files import check_tokenizer_files
from selfexplain.target.untrusted import read_json, report_errors
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


def save(
    explainer: "SelfExplainerForCausalLM", directory: Path, lora_dtype: str | None = None, with_check: bool = True
) -> None:
    """Write an explainer. See `SelfExplainerForCausalLM.save_pretrained`."""
    config = explainer.config
    if config.base_model_name_or_path is None and not config.merged:
        raise SelfExplainError(
            "The base of this explainer has no name, so a saved explainer could not find its base. Build the explainer "
            "with from_base(<Hub id or directory>), or set config.base_model_name_or_path."
        )
    directory.mkdir(parents=True, exist_ok=True)
    if config.lora:
        config.lora["dtype"] = lora_dtype or config.lora.get("dtype") or "float32"
        lora.round_lora(explainer, getattr(torch, config.lora["dtype"]))
        lora.save_lora(explainer, directory / LORA_DIRECTORY, config.lora["dtype"])
    if config.merged:
        explainer.language_model.save_pretrained(directory / MERGED_DIRECTORY)
    _save_config(explainer, directory)
    save_file(_state(explainer.model.activation_adapter), directory / ADAPTER_FILE)
    (directory / SHIM_FILE).write_text(SHIM)
    if explainer.processor is not None:
        for name in ("is_local", "local_files_only"):  # how the tokenizer was loaded here, not what it is
            explainer.processor.tokenizer.init_kwargs.pop(name, None)
        explainer.processor.save_pretrained(directory)
        if with_check:
            injection_check.write(explainer, directory)


def _save_config(explainer: "SelfExplainerForCausalLM", directory: Path) -> None:
    """Write `config.json` without the fields that only describe how the base was loaded here."""
    config = explainer.config
    config.package_version = __version__
    config.architectures = [type(explainer).__name__]
    config.auto_map = AUTO_MAP
    written = deepcopy(config)
    written.text_config._name_or_path = config.base_model_name_or_path
    if hasattr(written.text_config, "quantization_config") and not config.merged:
        del written.text_config.quantization_config
    written.save_pretrained(directory)


def merge(explainer: "SelfExplainerForCausalLM", dtype: str | torch.dtype | None = None) -> "SelfExplainerForCausalLM":
    """Return an explainer with merged LoRA weights. See `SelfExplainerForCausalLM.merge_and_save`."""
    from peft import PeftModel

    config = explainer.config
    base = explainer.language_model
    if config.lora:
        if config.base_model_name_or_path is None:
            raise SelfExplainError(
                "The base of this explainer has no name, so it cannot be loaded again for merging. Save the base, and "
                "build the explainer with from_base(<directory>)."
            )
        base = load_base(config.base_model_name_or_path, config.base_model_revision, dtype=dtype or base.dtype)
        with TemporaryDirectory() as folder:
            lora.save_lora(explainer, Path(folder), "float32")
            base = PeftModel.from_pretrained(base, folder).merge_and_unload()
    merged = type(explainer)(SelfExplainerConfig.for_base(base, config, merged=True, lora=None), base)
    merged.model.activation_adapter.load_state_dict(_state(explainer.model.activation_adapter))
    merged.processor, merged.golden_rows = explainer.processor, explainer.golden_rows
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

    def config(self) -> SelfExplainerConfig:
        """Read `config.json`.

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
        with prefix_errors(self.name):
            return SelfExplainerConfig.from_dict(fields)


def load(
    cls: "type[SelfExplainerForCausalLM]",
    name: str,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    subfolder: str = "",
    check_injection: bool = True,
    **options,
) -> "SelfExplainerForCausalLM":
    """Load an explainer. See `SelfExplainerForCausalLM.from_pretrained`."""
    for option in ("adapter_kwargs", "code_revision", "_from_auto", "_commit_hash"):
        options.pop(option, None)  # set by the Auto classes for the explainer; the base has no use for them
    with report_errors(
        f"{name} is not an explainer, or not a complete one",
        "Give the directory of a saved explainer or its Hub id (org/name).",
    ):
        location = {"revision": pin_revision(name, revision, options), "subfolder": subfolder, **hub_options(options)}
        files = ExplainerFiles(name, bundled.resolve(name), location)
        if not isinstance(config, SelfExplainerConfig):
            config = files.config()
        elif config._attn_implementation is not None:
            options.setdefault("attn_implementation", config._attn_implementation)  # the Auto classes store it there
        golden = None
        # Without the check, damaged golden files do not matter.
        with nullcontext() if check_injection else suppress(SelfExplainError):
            golden = injection_check.read(files)
        processor = _load_processor(files, () if golden is None else [row["prompt"] for row in golden.rows])
        base = _load_base(files, config, options)
        _check_same_model(config, base)
        weights = _adapter_weights(files, config, base.get_input_embeddings().weight.shape[1])
        explainer = cls(SelfExplainerConfig.for_base(base, config), base)
        explainer.model.activation_adapter.load_state_dict(weights)
        if config.lora:
            _load_lora(explainer, files)
        explainer.processor = processor
    explainer.eval()
    if golden is not None:
        explainer.golden, explainer.golden_rows = golden, golden.rows
        if check_injection:
            with report_errors(
                f"{name}: the injection check failed",
                "Save or download the explainer again. To load it without this check, pass check_injection=False.",
            ):
                injection_check.check(explainer, golden)
    elif check_injection:
        logger.warning(
            "%s was saved without golden vectors, so its injection cannot be checked. Save it again to add them.", name
        )
    return explainer


def _load_processor(files: ExplainerFiles, texts: Sequence[str]) -> SelfExplainerProcessor:
    """Load the processor after checking its files; `texts` are the golden questions, which will be encoded."""
    check_tokenizer_files(files.name, files.path, files.location, texts)
    if (path := files.find("processor_config.json")) is not None:
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


def _load_base(files: ExplainerFiles, config: SelfExplainerConfig, options: Mapping[str, Any]) -> PreTrainedModel:
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


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in module.state_dict().items()}
