"""Configuration of a self-explainer: its base model and the contract by which vectors enter it."""

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig, PreTrainedConfig

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.config_fields import check_fields
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.target.untrusted import ATTENTION_KEYS, check_config, report_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # loaded later than this module, which transformers imports first


class SelfExplainerConfig(PreTrainedConfig):
    """Everything about an explainer except its weights.

    Attributes:
        text_config: configuration of the base model.
        base_model_name_or_path: Hub id, directory or reserved name of the base; None for random weights.
        base_model_revision: commit of the base.
        merged: whether the LoRA weights are merged into the base. A merged base no longer is the target.
        injection: fields of `InjectionConfig`.
        adapter: arguments of `ActivationAdapter`: `kind`, `d_target` and, if the kind needs them, `layers` and `rank`.
        lora: `{"rank", "alpha", "dropout", "target_modules", "trainable_tokens"}`, or None without LoRA.
        tasks: names of the tasks it was trained on.
        trained_layers: task -> layers of the vectors in its training rows; None if unknown.
        target: `{"model", "revision", "n_layers", "d_model"}` of the model that it explains; by default the base.
        calibration: task -> `{"temperature", "bias"}`, which turn the probability of an answer into the probability
            that the answer is correct (`confidence.py`); None without calibration.
        abstain_below: minimum confidence. Explanations with less confidence do not count as answers.
        classes: classes of tokens that feature descriptions may name, name -> token texts.
        split_seed: seed of the splits of the ground truth that it was trained on; None if unknown.
        package_version: version of selfexplain that saved it.

    Raises:
        SelfExplainError: the contract has an unknown field or an invalid value.
    """

    model_type = "selfexplainer"
    sub_configs: ClassVar[dict] = {"text_config": AutoConfig}

    text_config: PreTrainedConfig | dict | None = None
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    merged: bool = False
    injection: dict | None = None
    adapter: dict | None = None
    lora: dict | None = None
    tasks: list | None = None
    trained_layers: dict | None = None
    target: dict | None = None
    calibration: dict | None = None
    abstain_below: float = 0.0
    classes: dict | None = None
    split_seed: int | None = None
    package_version: str | None = None

    def __post_init__(self, **kwargs):
        check_config(kwargs, "config.json")
        if isinstance(self.text_config, dict):
            values = dict(self.text_config)
            check_config(values, "text_config in config.json")
            with report_errors("text_config in config.json is invalid", "Save or download the explainer again."):
                self.text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        elif self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        self.injection = asdict(_parse_injection(self.injection or {}))
        text = self.get_text_config()
        self.target = self.target or {
            "model": self.base_model_name_or_path,
            "revision": self.base_model_revision,
            "n_layers": text.num_hidden_layers,
            "d_model": text.hidden_size,
        }
        self.adapter = self.adapter or {"kind": "identity", "d_target": dict(self.target).get("d_model")}
        self.tasks = self.tasks or []
        check_fields(vars(self))
        self.tasks = list(self.tasks)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> Self:
        """Build a configuration. Attention implementations are taken from the caller only, never from `config.json`."""
        return super().from_dict({key: v for key, v in config_dict.items() if key not in ATTENTION_KEYS}, **kwargs)

    @classmethod
    def for_base(cls, base: "PreTrainedModel", config: "SelfExplainerConfig | None" = None, **changes) -> Self:
        """Return the configuration of an explainer on a loaded base.

        Args:
            base: loaded base model. The result shares its configuration object.
            config: configuration to start from; None starts from the defaults.
            changes: fields that replace those of `config`.
        """
        values = {} if config is None else config.to_dict()
        # Without attn_implementation, building the outer configuration would unset that of the base.
        return cls.from_dict(
            values | {"text_config": base.config} | changes, attn_implementation=base.config._attn_implementation
        )

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        """Return the configuration of the base. Caches, trainers and generation read it."""
        return self.text_config

    @property
    def layers(self) -> list[int]:
        """Layers of the target whose vectors the explainer can read."""
        assert self.adapter is not None and self.target is not None  # __post_init__ sets them
        return list(self.adapter.get("layers") or range(self.target["n_layers"]))

    def layers_of(self, task: str) -> list[int]:
        """Return the layers at which the explainer can answer questions of a task.

        These are the layers of its training rows, or all layers that it can read if `trained_layers` is None.
        """
        return self.layers if self.trained_layers is None else list(self.trained_layers.get(task, ()))

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig") -> None:
        """Do nothing: `save_pretrained` writes the shim itself and must not copy files of this package next to it."""


def _parse_injection(injection: dict) -> InjectionConfig:
    """Validate the fields of a contract that was read from `config.json` or passed by a caller."""
    if not isinstance(injection, dict):
        raise SelfExplainError(f"injection is {injection!r}, expected a mapping. Correct it in config.json.")
    known = {field.name for field in fields(InjectionConfig)}
    if unknown := sorted(set(injection) - known):
        raise SelfExplainError(
            f"The injection contract has the unknown fields {unknown}; known fields are {sorted(known)}. If a newer "
            "version of the package saved this explainer, update selfexplain."
        )
    try:
        return TypeAdapter(InjectionConfig).validate_python(injection)
    except ValidationError as error:
        problem = error.errors()[0]
        field, expected = problem["loc"][0], problem["msg"].removeprefix("Input should be ")
        raise SelfExplainError(
            f"injection.{field} is {problem['input']!r}, expected {expected}. Correct it in config.json or in the "
            "contract that you passed."
        ) from error
