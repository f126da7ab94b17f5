"""Configuration of a self-explainer: a base causal language model and the contract by which vectors enter it."""

from dataclasses import asdict, fields
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig, PreTrainedConfig

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig


class SelfExplainerConfig(PreTrainedConfig):
    """Everything about an explainer but its weights.

    Attributes:
        text_config: configuration of the base model.
        base_model_name_or_path: Hub id, directory or reserved name of the base; None for random weights.
        base_model_revision: commit of the base.
        merged: whether the LoRA weights are merged into the base's, so that it is the target no more.
        injection: fields of `InjectionConfig`.
        adapter: arguments of `ActivationAdapter`: `kind`, `d_target` and, where the kind has them, `layers`, `rank`.
        lora: `{"rank", "alpha", "dropout", "target_modules", "trainable_tokens"}`, or None without LoRA.
        tasks: the questions it was trained on.
        trained_layers: task -> layers of the vectors in its training rows; None where that is not known.
        calibration: task -> `{"temperature", "bias"}`, which turn the probability of an answer into that of its being
            right (`confidence.py`); None where it was not calibrated.
        abstain_below: explanations of less confidence do not count as answers.
        classes: classes of tokens that descriptions of features may name, name -> token texts.
        split_seed: of the split of the ground truth it was trained on; None where that is not known.
        target: `{"model", "revision", "n_layers", "d_model"}`, whose computations it explains; by default the base.
        package_version: of selfexplain, when it was saved.

    Raises:
        SelfExplainError: a contract with fields or values that do not exist.
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
        if isinstance(self.text_config, dict):
            values = dict(self.text_config)
            self.text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        elif self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        self.injection = asdict(_checked_contract(self.injection or {}))
        text = self.get_text_config()
        self.target = self.target or {
            "model": self.base_model_name_or_path,
            "revision": self.base_model_revision,
            "n_layers": text.num_hidden_layers,
            "d_model": text.hidden_size,
        }
        self.adapter = self.adapter or {"kind": "identity", "d_target": self.target["d_model"]}
        self.tasks = list(self.tasks or [])
        super().__post_init__(**kwargs)

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        """The base's configuration: what caches, trainers and generation ask for."""
        return self.text_config

    @property
    def layers(self) -> list[int]:
        """The target's layers whose vectors it can read."""
        assert self.adapter is not None and self.target is not None  # __post_init__ fills them in
        return list(self.adapter.get("layers") or range(self.target["n_layers"]))

    def layers_of(self, task: str) -> list[int]:
        """The layers at which it can answer a question of this task: those it was trained at, where they are known."""
        return self.layers if self.trained_layers is None else list(self.trained_layers.get(task, ()))

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig") -> None:
        """Nothing to do: `save_pretrained` writes the shim, and must not copy this package's files beside it."""


def _checked_contract(injection: dict) -> InjectionConfig:
    unknown = set(injection) - {field.name for field in fields(InjectionConfig)}
    try:
        if unknown:
            raise SelfExplainError(f"injection has the unknown fields {sorted(unknown)}: update selfexplain.")
        return TypeAdapter(InjectionConfig).validate_python(injection)
    except ValidationError as error:
        problem = error.errors()[0]
        field, expected = problem["loc"][0], problem["msg"].removeprefix("Input should be ")
        raise SelfExplainError(f"injection.{field} is {problem['input']!r}, expected {expected}.") from error
