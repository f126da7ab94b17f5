"""Read `adapter_config.json` of peft, which others wrote, into a `LoraConfig` that cannot change the base.

peft can do far more with this file than add LoRA weights: some initialisations rewrite the weights of the base, some
options add layers or train biases of the base. So a `LoraConfig` is built from the fields below only, and a file that
asks for anything else is refused.
"""

import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import regex
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from selfexplain.errors import SelfExplainError
from selfexplain.target.untrusted import first_line, read_json, report_errors

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

Rank = Annotated[int, Field(ge=1, le=65_536)]
Factor = StrictInt | Annotated[float, Field(allow_inf_nan=False)]

PATTERN_SECONDS = 2.0
"""Time that all regular expressions of one file may take."""

_LITERAL = re.compile(r"[\w.\-]+")
_DESCRIPTIVE = {
    "peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode",
    "runtime_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "bias", "init_lora_weights",
}  # fmt: skip
"""Fields that do not change a LoRA adapter whose weights are all loaded, or that are checked on their own."""
_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base as it is. They do not matter, because all weights are loaded."""


class LoraSettings(BaseModel):
    """The fields of `adapter_config.json` that reach peft. See `peft.LoraConfig` for their meaning."""

    model_config = ConfigDict(strict=True, extra="ignore")

    r: Rank = 8
    lora_alpha: Factor = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Factor] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    ensure_weight_tying: bool = False


def read_lora_settings(path: Path, source: str) -> LoraSettings:
    """Read `adapter_config.json`.

    Args:
        path: file.
        source: repository and name of the file, for error messages.

    Raises:
        SelfExplainError: the file is damaged, describes a different kind of adapter, has an invalid value, or asks for
            something that could change the base.
    """
    fields = read_json(path, source)
    if fields.get("peft_type") != "LORA":
        raise SelfExplainError(
            f"{source}: peft_type is {fields.get('peft_type')!r}, expected LORA. Merge the adapter into its base with "
            "peft, and load the merged model."
        )
    if fields.get("init_lora_weights") not in _INITIALISATIONS:
        raise SelfExplainError(
            f"{source}: init_lora_weights is {fields['init_lora_weights']!r}, which changes the weights of the base. "
            "Convert the adapter with save_pretrained(..., path_initial_model_for_weight_conversion=...) of peft."
        )
    if fields.get("bias") not in (None, "none"):
        raise SelfExplainError(
            f"{source}: bias is {fields['bias']!r}, which changes the biases of the base; expected 'none'. Merge the "
            "adapter into its base with peft, and load the merged model."
        )
    unknown = sorted(
        key for key, value in fields.items() if value and key not in _DESCRIPTIVE | LoraSettings.model_fields.keys()
    )
    if unknown:
        raise SelfExplainError(
            f"{source} sets {unknown[0]}, which is not supported because it could change the base. Remove the key if "
            "it has no effect, or merge the adapter into its base with peft."
        )
    try:
        return LoraSettings.model_validate({key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        raise SelfExplainError(
            f"{source}: {'.'.join(map(str, problem['loc'][:1]))} is {str(problem['input'])[:80]!r}: "
            f"{problem['msg'].lower()}. Download the file again."
        ) from error


def lora_config(settings: LoraSettings, base: "nn.Module", source: str) -> "LoraConfig":
    """Return the peft configuration of a saved adapter.

    Regular expressions are replaced by the names that they match in the base, because peft would match them without a
    limit on time.

    Args:
        settings: content of `adapter_config.json`.
        base: model that the adapter will be added to.
        source: repository and name of the file, for error messages.

    Raises:
        SelfExplainError: a pattern is invalid or takes too long, or there are more patterns than modules.
    """
    from peft import LoraConfig

    fields = settings.model_dump()
    names = [name for name, _ in base.named_modules()] + [name for name, _ in base.named_parameters()]
    many = [key for key, value in fields.items() if isinstance(value, list | dict) and len(value) > 4 * len(names) + 64]
    if many and many != ["trainable_token_indices"]:
        raise SelfExplainError(
            f"{source}: {many[0]} has {len(fields[many[0]])} entries, but the base has {len(names)} modules and "
            "parameters. Use the base that the adapter was trained from."
        )
    matcher = _Matcher(names, source)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(fields[key], str) and fields[key].lower() != "all-linear":
            fields[key] = matcher.find(key, fields[key])
    for key in ("rank_pattern", "alpha_pattern"):
        fields[key] = {
            name: value
            for pattern, value in (fields[key] or {}).items()
            for name in ([pattern] if _LITERAL.fullmatch(pattern) else matcher.find(key, rf"(?:.*\.)?(?:{pattern})"))
        }
    for key in ("layers_pattern", "modules_to_save"):
        value = fields[key]
        for pattern in [value] if isinstance(value, str) else value or ():
            if not _LITERAL.fullmatch(pattern):
                raise SelfExplainError(
                    f"{source}: {key} contains {pattern!r}, expected the name of a module. Correct it in the file."
                )
    with report_errors(f"{source} is invalid", "Download the file again."):
        return LoraConfig(
            **fields, task_type="CAUSAL_LM", bias="none", init_lora_weights=True, inference_mode=False,
        )  # fmt: skip


class _Matcher:
    """Finds the names that regular expressions match, within `PATTERN_SECONDS` for all of them."""

    def __init__(self, names: Iterable[str], source: str):
        self.names, self.source = list(names), source
        self.deadline = time.monotonic() + PATTERN_SECONDS

    def find(self, key: str, pattern: str) -> list[str]:
        """Return the names that a regular expression matches completely."""
        problem = "has more than 2,000 characters"
        if len(pattern) <= 2000:
            try:
                compiled = regex.compile(pattern)
                return [name for name in self.names if self._matches(compiled, name)]
            except TimeoutError:
                problem = f"takes more than {PATTERN_SECONDS:g} seconds"
            except (regex.error, RecursionError, OverflowError, MemoryError) as error:
                problem = f"is not valid ({first_line(error)})"
        raise SelfExplainError(
            f"{self.source}: the regular expression {pattern[:80]!r} in {key} {problem}. List the names of the modules "
            "instead."
        )

    def _matches(self, pattern: Any, name: str) -> bool:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return pattern.fullmatch(name, timeout=left) is not None


def settings_summary(settings: LoraSettings) -> Mapping[str, Any]:
    """Return the fields of an adapter that `config.json` of an explainer repeats."""
    modules = settings.target_modules
    return {
        "rank": settings.r,
        "alpha": settings.lora_alpha,
        "dropout": settings.lora_dropout,
        "target_modules": modules if modules is None or isinstance(modules, str) else sorted(modules),
        "trainable_tokens": [],
    }
