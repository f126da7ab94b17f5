"""The published form of an explainer: written and read."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

import selfexplain
from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling import injection_check
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target.load import commit_of

if TYPE_CHECKING:
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

logger = logging.getLogger(__name__)
# Where bitsandbytes is installed, it says at every import that an optional kernel is not.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

ADAPTER_FILE = "activation_adapter.safetensors"
LORA_FOLDER = "lora"
LORA_FILES = (f"{LORA_FOLDER}/adapter_config.json", f"{LORA_FOLDER}/adapter_model.safetensors")
MERGED_FOLDER = "merged"
SHIM_FILE = "modeling_selfexplainer.py"
_PUBLISHED = ("SelfExplainerConfig", "SelfExplainerForCausalLM", "SelfExplainerProcessor")
SHIM = f"from selfexplain import {', '.join(_PUBLISHED)}  # noqa: F401 (pip install selfexplain)\n"
AUTO_MAP = {
    "AutoConfig": "modeling_selfexplainer.SelfExplainerConfig",
    "AutoModel": "modeling_selfexplainer.SelfExplainerForCausalLM",
    "AutoModelForCausalLM": "modeling_selfexplainer.SelfExplainerForCausalLM",
    "AutoProcessor": "modeling_selfexplainer.SelfExplainerProcessor",
}
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")
_PREFIX = "base_model.model."  # peft's, before the names of the bare base


# ---------------------------------------------------------------- bases


def pinned(name: str, revision: str | None, options: Mapping[str, Any]) -> str | None:
    """The commit that `revision` means now, so that all files come from one; a directory's or unknown one unchanged."""
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    try:
        return commit_of(bundled.resolve(name), revision, **hub) or revision
    except OSError:  # what cannot be loaded is told when it is loaded
        return revision


def load_base(name: str, revision: str | None = None, **options) -> PreTrainedModel:
    """A base by Hub id, directory or reserved name, from safetensors files only.

    Args:
        options: of `AutoModelForCausalLM.from_pretrained`.

    Raises:
        SelfExplainError: it does not load, and why.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            bundled.resolve(name), revision=revision, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, SafetensorError) as error:
        at = f" at revision {revision}" if revision else ""
        raise SelfExplainError(
            f"the base model {name!r}{at} could not be loaded: {_first_line(error)} Give a causal language model with "
            "safetensors weights, by Hub id or directory, and options that it knows."
        ) from error


# ---------------------------------------------------------------- writing


def save(
    explainer: "SelfExplainerForCausalLM", directory: Path, lora_dtype: str | None = None, with_check: bool = True
) -> None:
    """See `SelfExplainerForCausalLM.save_pretrained`."""
    config = explainer.config
    if config.base_model_name_or_path is None and not config.merged:
        raise SelfExplainError(
            "this explainer's base has no name, so the saved adapter could not find it again: "
            "make it with from_base(<Hub id or directory>), or set config.base_model_name_or_path."
        )
    directory.mkdir(parents=True, exist_ok=True)
    if config.lora:
        config.lora["dtype"] = lora_dtype or config.lora.get("dtype") or "float32"
        _round_lora(explainer, getattr(torch, config.lora["dtype"]))
        save_lora(explainer, directory / LORA_FOLDER, config.lora["dtype"])
    if config.merged:
        explainer.language_model.save_pretrained(directory / MERGED_FOLDER)
    config.package_version = selfexplain.__version__
    config.architectures = [type(explainer).__name__]
    config.auto_map = AUTO_MAP
    written = deepcopy(config)
    written.text_config._name_or_path = config.base_model_name_or_path  # not the directory it lies in here
    if hasattr(written.text_config, "quantization_config") and not config.merged:
        del written.text_config.quantization_config  # how it was loaded here, not what it is
    written.save_pretrained(directory)
    save_file(_state(explainer.model.activation_adapter), directory / ADAPTER_FILE)
    (directory / SHIM_FILE).write_text(SHIM)
    if explainer.processor is not None:
        for where_from in ("is_local", "local_files_only"):  # how it was loaded here, not what it is
            explainer.processor.tokenizer.init_kwargs.pop(where_from, None)
        explainer.processor.save_pretrained(directory)
        if with_check:
            injection_check.write(explainer, directory)


@torch.no_grad()
def _round_lora(explainer: "SelfExplainerForCausalLM", dtype: torch.dtype) -> None:
    """What stays in memory is what goes on disk: the golden answers are those of the loaded explainer."""
    for name, weight in explainer.language_model.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            weight.copy_(weight.to(dtype))


def save_lora(explainer: "SelfExplainerForCausalLM", directory: Path, dtype: str) -> None:
    """Write the LoRA weights as peft does, under the names of the bare base, so that peft alone can load them."""
    from peft import get_peft_model_state_dict

    base = explainer.language_model
    directory.mkdir(parents=True, exist_ok=True)
    lora = deepcopy(base.peft_config["default"])
    lora.base_model_name_or_path = explainer.config.base_model_name_or_path
    lora.revision = explainer.config.base_model_revision
    lora.inference_mode = True
    if not isinstance(lora.target_modules, str):
        lora.target_modules = sorted(lora.target_modules)  # a set: its order would change from process to process
    lora.save_pretrained(directory)
    # The embeddings are never saved: where to look for changed ones, peft would ask the Hub.
    weights = get_peft_model_state_dict(base, save_embedding_layers=False)
    save_file(
        {_PREFIX + name: w.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, w in weights.items()},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )


def merge(explainer: "SelfExplainerForCausalLM", dtype: str | torch.dtype | None = None) -> "SelfExplainerForCausalLM":
    """See `SelfExplainerForCausalLM.merge_and_save`."""
    from peft import PeftModel

    config = explainer.config
    base = explainer.language_model
    if config.lora:
        if config.base_model_name_or_path is None:
            raise SelfExplainError("this explainer's base has no name: save the base, and make it by from_base(<dir>).")
        base = load_base(config.base_model_name_or_path, config.base_model_revision, dtype=dtype or base.dtype)
        with TemporaryDirectory() as folder:
            save_lora(explainer, Path(folder), "float32")
            base = PeftModel.from_pretrained(base, folder).merge_and_unload()
    whole = type(explainer)(config_around(base, config, merged=True, lora=None), base)
    whole.model.activation_adapter.load_state_dict(_state(explainer.model.activation_adapter))
    whole.processor, whole.golden_rows = explainer.processor, explainer.golden_rows
    return whole.eval()


def config_around(base: PreTrainedModel, config: SelfExplainerConfig | None = None, **fields) -> SelfExplainerConfig:
    """The configuration of an explainer on `base`, which shares the base's own."""
    given = {} if config is None else config.to_dict()
    # Without attn_implementation, building the outer configuration would unset the base's.
    return SelfExplainerConfig.from_dict(
        given | {"text_config": base.config} | fields, attn_implementation=base.config._attn_implementation
    )


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Repository:
    """A saved explainer, in a directory or on the Hub.

    Attributes:
        given: its name as the caller gave it, for messages.
        path: directory or Hub id.
        where: `revision`, `subfolder` and `HUB_OPTIONS`.
    """

    given: str
    path: str
    where: Mapping[str, Any]

    def file(self, name: str) -> Path | None:
        """Path of one of its files, downloaded where needed; None where it has no such file."""
        found = cached_file(self.path, name, _raise_exceptions_for_missing_entries=False, **self.where)
        return None if found is None else Path(found)

    def needed(self, name: str) -> Path:
        found = self.file(name)
        if found is None:
            raise SelfExplainError(
                f"{self.given} is not a complete explainer: it has no {name}, or it was not downloaded. "
                "Save or download it again."
            )
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        path = self.needed(name)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise SelfExplainError(f"{self.given}: {name} is damaged ({error}). Save or download it again.") from error

    def config(self) -> SelfExplainerConfig:
        found, _ = PreTrainedConfig.get_config_dict(self.path, **self.where)
        if not found:
            raise OSError("it has no config.json.")
        if found.get("model_type") != "selfexplainer":
            raise SelfExplainError(f"{self.given} holds a {found.get('model_type')} model, not a self-explainer.")
        return SelfExplainerConfig.from_dict(found)


def load(
    cls: "type[SelfExplainerForCausalLM]",
    given: str,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    subfolder: str = "",
    check_injection: bool = True,
    **options,
) -> "SelfExplainerForCausalLM":
    """See `SelfExplainerForCausalLM.from_pretrained`."""
    for not_the_bases in ("adapter_kwargs", "code_revision", "_from_auto", "_commit_hash"):
        options.pop(not_the_bases, None)
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    with _named(given):
        at_commit = {"revision": pinned(given, revision, options), "subfolder": subfolder, **hub}
        repository = Repository(given, bundled.resolve(given), at_commit)
        if not isinstance(config, SelfExplainerConfig):
            config = repository.config()
        elif config._attn_implementation is not None:
            options.setdefault("attn_implementation", config._attn_implementation)  # the Auto classes put it there
        if config.merged:
            at = f"{subfolder}/{MERGED_FOLDER}" if subfolder else MERGED_FOLDER
            repository.needed(f"{MERGED_FOLDER}/config.json")
            base = load_base(repository.path, repository.where["revision"], subfolder=at, **options)
        elif config.base_model_name_or_path is not None:
            base = load_base(config.base_model_name_or_path, config.base_model_revision, **options)
        else:
            raise SelfExplainError(
                f"{given} names no base model: its config.json is not one that save_pretrained wrote."
            )
        _check_same_model(config, base)
        explainer = cls(config_around(base, config), base)
        _fill(explainer.model.activation_adapter, repository.tensors(ADAPTER_FILE), f"{given}: {ADAPTER_FILE}")
        if config.lora:
            _load_lora(explainer, repository)
        explainer.processor = SelfExplainerProcessor.from_pretrained(repository.path, **repository.where)
        golden = None
        with nullcontext() if check_injection else suppress(SelfExplainError):  # damaged ones do not matter then
            golden = injection_check.read(repository)
    explainer.eval()
    if golden is not None:
        explainer.golden, explainer.golden_rows = golden, golden.rows
        if check_injection:
            injection_check.check(explainer, golden)
    elif check_injection:
        logger.warning(
            "%s was saved without golden vectors, so nothing shows that its injection is live. Save it again.", given
        )
    return explainer


def load_lora_state(explainer: "SelfExplainerForCausalLM", weights: Mapping[str, Tensor], source: str) -> None:
    """Put saved LoRA weights into an explainer that has the same ones.

    Raises:
        SelfExplainError: weights that are missing, too many or of another shape.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    base = explainer.language_model
    own = get_peft_model_state_dict(base, save_embedding_layers=False)
    _compare({_PREFIX + name: weight for name, weight in own.items()}, weights, source)
    # peft looks for trained token embeddings under the bare base's names, and finds the others under either
    set_peft_model_state_dict(base, {name.removeprefix(_PREFIX): weight for name, weight in weights.items()})


def _load_lora(explainer: "SelfExplainerForCausalLM", repository: Repository) -> None:
    from peft import PeftConfig

    settings, file = LORA_FILES
    weights = repository.tensors(file)
    lora = PeftConfig.from_pretrained(str(repository.needed(settings).parent))
    lora.inference_mode = False  # a loaded explainer can be trained on
    explainer.language_model.add_adapter(lora)
    load_lora_state(explainer, weights, f"{repository.given}: {file}")
    explainer.config.lora["dtype"] = str(next(iter(weights.values())).dtype).removeprefix("torch.")


def _check_same_model(config: SelfExplainerConfig, base: PreTrainedModel) -> None:
    now = base.config.get_text_config()
    for field in ("model_type", "num_hidden_layers", "hidden_size", "vocab_size"):
        made_on, found = getattr(config.text_config, field), getattr(now, field)
        if made_on != found:
            raise SelfExplainError(
                f"the base {config.base_model_name_or_path!r} is not the one that this explainer was made on: its "
                f"{field} is {found}, and was {made_on}. Give the base back, or its revision in base_model_revision."
            )


def _fill(module: torch.nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    _compare(module.state_dict(), weights, source)
    module.load_state_dict(weights)


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Raise SelfExplainError where the names or shapes differ."""
    parts = {
        "lacks": sorted(set(own) - set(given)),
        "has the unknown": sorted(set(given) - set(own)),
        "has another shape for": sorted(name for name in set(own) & set(given) if own[name].shape != given[name].shape),
    }
    for what, names in parts.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise SelfExplainError(f"{source} {what} {names[0]}{more}: it does not belong to this config.json.")


@contextmanager
def _named(given: str) -> Iterator[None]:
    """Errors of the libraries below, with the name of the explainer and what to do."""
    try:
        yield
    except SelfExplainError:
        raise
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise SelfExplainError(
            f"{given}: no explainer there, or not a complete one ({_first_line(error)}) "
            "Give the directory of a saved explainer, or its Hub id (org/name)."
        ) from error


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in module.state_dict().items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if lines[0].endswith(".") else f"{lines[0]}."
