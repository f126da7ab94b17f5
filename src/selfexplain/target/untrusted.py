"""Check the files of a repository that others wrote, before anything is built from them.

A few bytes of JSON can ask for a model of a billion layers, for code, or for a pickle. Each check here reads small
files and the headers of safetensors files only.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LOADING = RLock()
"""Held while a model is loaded, because transformers and peft then replace functions that all threads call."""

MAX_JSON_BYTES = 16 * 2**20
"""Largest configuration file that is parsed. The limit of tokenizer files is higher."""

MAX_COUNTS = {"layer": 10_000, "expert": 20_000, "block": 1_000_000, "label": 100_000}
"""Part of a configuration key -> largest value of integers under such keys, unless the key names a size or dimension.

Gemma 3n has `vocab_size_per_layer_input`, and Qwen2 MoE has `shared_expert_intermediate_size`.
"""

CONVERSION = (
    "Pickled weights (.bin, .pt, .pth) can contain code and are not opened. docs/security.md has one command that "
    "converts them to safetensors."
)
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_ATTENTION = {None, "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"}
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"


# ---------------------------------------------------------------- errors


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, ending with a full stop.

    Messages of errors that are not about files and values (such as KeyError) start with the name of the error.
    """
    text = (str(error).strip().splitlines() or [""])[0][:500]
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if text.endswith(".") else f"{text}."


@contextmanager
def report_errors(subject: str, advice: str) -> Iterator[None]:
    """Turn every error that the block raises into a `SelfExplainError`.

    Libraries raise errors of any type for invalid files, including panics of Rust code, which are not `Exception`.

    Args:
        subject: file or step that failed, the beginning of the message.
        advice: what to do, the end of the message.
    """
    try:
        yield
    except SelfExplainError:
        raise
    except BaseException as error:
        if "`trust_remote_code=True`" in str(error):
            advice = "If you have read the code and trust it, set trust_remote_code to true."
        if "is on the meta device" in str(error):
            advice = (
                "The device map puts a part on disk that shares its weights with another part, such as the input "
                "embeddings with the head. Put both on the same device."
            )
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise SelfExplainError(f"{subject}: {first_line(error)} {advice}") from error


# ---------------------------------------------------------------- JSON


def read_json(path: Path, source: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that must contain an object.

    Args:
        path: file.
        source: repository and name of the file, for error messages.
        limit: largest size in bytes.

    Raises:
        SelfExplainError: the file is too large, is not valid JSON, or does not contain an object.
    """
    size = path.stat().st_size
    if size > limit:
        raise SelfExplainError(f"{source} has {size:,} bytes, expected at most {limit:,}. Download the file again.")
    with report_errors(f"{source} is not valid JSON", "Download the file again."):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise SelfExplainError(
            f"{source} contains a JSON {type(content).__name__}, expected an object. Download the file again."
        )
    return content


def integers(content: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield each integer of nested JSON content with the key that it is stored under."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from integers(value, str(name))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from integers(value, key)
    elif isinstance(content, int) and not isinstance(content, bool):
        yield key, content


# ---------------------------------------------------------------- config.json


def check_config(fields: Mapping[str, Any], source: str) -> None:
    """Check the content of a model's `config.json` before a configuration object is built from it.

    Raises:
        SelfExplainError: a number of layers, experts, blocks or labels is beyond `MAX_COUNTS`, or an attention
            implementation would be downloaded as code.
    """
    with report_errors(f"{source} cannot be used", "Download the file again."):
        for key, value in integers(fields):
            is_size = "size" in key.lower() or "dim" in key.lower()
            limits = [n for part, n in MAX_COUNTS.items() if part in key.lower() and not is_size]
            if value > (limit := min(limits, default=2**63)):
                raise SelfExplainError(
                    f"{source}: {key} is {value}, expected at most {limit}. No model is built from such a file. "
                    "Download it again, or choose a different model."
                )
        _check_attention(fields, source)


def load_config(path: str, trust_remote_code: bool = False, **location) -> "PreTrainedConfig":
    """Load a configuration whose `config.json` was checked.

    If its class is in the repository and trusted, transformers knows the class from then on, so that an explainer on
    this base can be read.

    Args:
        path: Hub id or directory.
        trust_remote_code: whether code in the repository may run.
        location: `revision`, `subfolder` and download options.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **location)
    if has_own_code(config):
        AutoConfig.register(config.model_type, type(config), exist_ok=True)
    return config


def has_own_code(model: object) -> bool:
    """Whether the class of a model or configuration comes from a repository, not from an installed package."""
    return type(model).__module__.startswith("transformers_modules.")


def _check_attention(fields: Mapping[str, Any], source: str) -> None:
    """Refuse attention implementations that are the name of a repository, from which code would be downloaded."""
    for key, value in fields.items():
        if key in ATTENTION_KEYS:
            for name in value.values() if isinstance(value, Mapping) else [value]:
                if name not in _ATTENTION and not str(name).isidentifier():
                    raise SelfExplainError(
                        f"{source}: {key} is {name!r}, which transformers would download and run as code. Remove the "
                        "key, and pass attn_implementation= to from_pretrained if you trust it."
                    )
        elif isinstance(value, Mapping):
            _check_attention(value, source)


def without_attention(path: str, location: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return loading options with which the attention implementation is chosen by the caller or by transformers.

    transformers takes an implementation that is written in `config.json` as the wish of the caller.

    Args:
        path: Hub id or directory of a model whose `config.json` was checked.
        location: `revision`, `subfolder` and download options.
        options: options of `AutoModelForCausalLM.from_pretrained`.
    """
    from transformers import PreTrainedConfig

    fields, _ = PreTrainedConfig.get_config_dict(path, **location)
    if "config" in options or not any(key in ATTENTION_KEYS for key in _keys(fields)):
        return dict(options)
    config = load_config(path, options.get("trust_remote_code", False), **location)
    config._attn_implementation = options.get("attn_implementation")
    config._experts_implementation = options.get("experts_implementation")
    return dict(options) | {"config": config}


def _keys(content: Any) -> Iterator[str]:
    """Yield all keys of nested mappings."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield key
            yield from _keys(value)


# ---------------------------------------------------------------- weights


def check_model_files(name: str, path: str, location: Mapping[str, Any], trust_remote_code: bool = False) -> None:
    """Check the configuration and the weight files of a causal language model before it is loaded.

    Args:
        name: name of the model, for error messages.
        path: Hub id or directory.
        location: `revision`, `subfolder` and download options, as `cached_file` of transformers takes them.
        trust_remote_code: whether the caller trusts the repository's code, which then decides how large the model is.

    Raises:
        SelfExplainError: the weights are pickled or incomplete, the repository is a LoRA adapter, or the configuration
            describes a larger model than the weights.
        OSError: `config.json` does not exist.
    """
    fields = _model_config(name, path, location)
    if fields.get("model_type") == "selfexplainer":
        raise SelfExplainError(
            f"{name} is an explainer, expected a plain causal language model. Give the base that it was trained from."
        )
    shapes, n_bytes = read_headers(name, path, location)
    if not trust_remote_code:
        _check_size(name, fields, shapes, n_bytes)


def _model_config(name: str, path: str, location: Mapping[str, Any]) -> dict[str, Any]:
    """Read and check `config.json`, and check that there is no adapter next to it."""
    from transformers import PreTrainedConfig

    check_whole_model(name, path, location)
    fields, _ = PreTrainedConfig.get_config_dict(path, **location)
    if not isinstance(fields, dict):
        raise SelfExplainError(f"{name}: config.json does not contain an object. Download the file again.")
    check_config(fields, f"{name}: config.json")
    if "transformers_weights" in fields:
        check_weight_names([fields["transformers_weights"]], f"{name}: transformers_weights in config.json")
    return fields


def check_whole_model(name: str, path: str, location: Mapping[str, Any]) -> None:
    """Check that a repository is not a LoRA adapter, which a model and its explanations would silently lack.

    Raises:
        SelfExplainError: it contains `adapter_config.json`. The message has the command that merges the adapter.
    """
    if find_file(path, "adapter_config.json", location) is None:
        return
    code = (
        "from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; "
        f"m = M.from_pretrained({path!r}); "
        "T.from_pretrained(m.peft_config['default'].base_model_name_or_path).save_pretrained('merged'); "
        "m.merge_and_unload().save_pretrained('merged')"
    )
    raise SelfExplainError(
        f"{name} contains adapter_config.json, so it is a LoRA adapter and not a whole model. If you trust it, merge "
        f"it into its base, and give the directory 'merged' instead: python -c {shlex.quote(code)}"
    )


def find_file(path: str, file: str, location: Mapping[str, Any]) -> Path | None:
    """Return the local path of a file, downloaded if necessary, or None if there is no such file."""
    from transformers.utils import cached_file

    found = cached_file(path, file, _raise_exceptions_for_missing_entries=False, **location)
    return None if found is None else Path(found)


def check_weight_names(files: Iterable[Any], source: str) -> list[str]:
    """Check that the weight files which an index names are safetensors files next to it, and return their names.

    Raises:
        SelfExplainError: a name is not that of a safetensors file in the same directory.
    """
    names = []
    for file in files:
        is_name = isinstance(file, str) and re.fullmatch(r"[\w.\-]+", file) is not None
        if not is_name or not file.endswith((".safetensors", ".safetensors.index.json")):
            raise SelfExplainError(
                f"{source} names the weight file {file!r}, expected a .safetensors file in the same directory. "
                f"{CONVERSION}"
            )
        names.append(file)
    return names


def index_files(path: Path, source: str) -> dict[str, str]:
    """Read an index of weight files.

    Args:
        path: `model.safetensors.index.json`.
        source: repository, for error messages.

    Returns:
        Tensor name -> name of the safetensors file that contains it.

    Raises:
        SelfExplainError: the index is damaged, or names a file that is not a safetensors file next to it.
    """
    weight_map = read_json(path, f"{source}: {path.name}").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SelfExplainError(f"{source}: {path.name} has no weight_map. Download the file again.")
    check_weight_names(set(map(str, weight_map.values())), f"{source}: {path.name}")
    return weight_map


def read_headers(name: str, path: str, location: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], int]:
    """Read the headers of a model's safetensors files.

    Returns:
        Tensor name -> shape, and the total size of the tensors' data in bytes.

    Raises:
        SelfExplainError: there are no safetensors files, or one is damaged.
    """
    from transformers.utils.hub import cached_files

    single = find_file(path, _WEIGHTS, location)
    if single is not None:
        files = [single]
    else:
        index = find_file(path, _INDEX, location)
        if index is None:
            raise SelfExplainError(f"{name} has no {_WEIGHTS}. {CONVERSION}")
        shards = sorted(set(index_files(index, name).values()))
        with report_errors(f"{name}: a weight file is missing", "Download the model again."):
            files = [Path(file) for file in cached_files(path, shards, **location) or ()]
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= tensor_shapes(file, f"{name}: {file.name}")
    return shapes, sum(file.stat().st_size for file in files)


def tensor_shapes(path: Path, source: str) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors in a safetensors file from its header.

    Raises:
        SelfExplainError: the file is damaged.
    """
    from safetensors import safe_open

    with report_errors(f"{source} is damaged", "Save or download it again."), safe_open(path, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def _check_size(name: str, fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], n_bytes: int) -> None:
    """Check that a configuration does not describe a larger model than the tensors of its weight files."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    largest = max(len(shapes), max((max(shape, default=0) for shape in shapes.values()), default=0))
    for key, value in integers(fields):
        if value > largest and any(part in key.lower() for part in ("layer", "expert")):
            raise SelfExplainError(
                f"{name}: {key} in config.json is {value}, but the weight files contain {len(shapes)} tensors. The "
                "configuration does not belong to these weights. Download both again."
            )
    with report_errors(f"{name}: config.json cannot be used", "Choose a causal language model, or download it again."):
        values = {key: value for key, value in fields.items() if key not in (*ATTENTION_KEYS, "model_type", "auto_map")}
        config = AutoConfig.for_model(fields["model_type"], **values)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    saved = sum(math.prod(shape) for shape in shapes.values())
    if fields.get("quantization_config") is not None:
        saved = max(saved, n_bytes) * 8  # packed: at most 8 weights per byte
    described = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.numel() for buffer in model.buffers())
    if described > 1.05 * saved + 10_000 or buffers > saved + 2**26:
        raise SelfExplainError(
            f"{name}: config.json describes a model with {described:,} parameters, but the weight files contain "
            f"{saved:,}. The configuration does not belong to these weights. Download both again."
        )
