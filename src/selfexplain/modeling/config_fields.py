"""Types and limits of the fields of an explainer's `config.json`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.activation_adapter import AdapterKind

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Layer = Annotated[int, Field(ge=0, lt=10_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Adapter(_Fields):
    kind: AdapterKind = "identity"
    d_target: Width
    layers: Annotated[Sequence[Layer], Field(max_length=10_000)] | None = None
    rank: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class _Target(_Fields):
    model: str | None = None
    revision: str | None = None
    n_layers: Annotated[int, Field(ge=1, le=10_000)]
    d_model: Width


class _Lora(_Fields):
    rank: Annotated[int, Field(ge=1)] | None = None
    alpha: Finite | None = None
    dropout: Finite | None = None
    target_modules: Sequence[str] | str | None = None
    trainable_tokens: Sequence[int] | None = None


class _Config(_Fields):
    base_model_name_or_path: str | None
    base_model_revision: str | None
    merged: bool
    adapter: _Adapter
    target: _Target
    lora: _Lora | None
    tasks: Sequence[str]
    trained_layers: Mapping[str, Sequence[Layer]] | None
    calibration: Mapping[str, Mapping[str, Finite]] | None
    abstain_below: Finite
    classes: Mapping[str, Sequence[str]] | None
    split_seed: int | None


def check_fields(values: Mapping[str, Any]) -> None:
    """Check the fields of a configuration; fields that are not listed above are not checked.

    Args:
        values: field name -> value.

    Raises:
        SelfExplainError: a field has a different type or is out of range.
    """
    try:
        _Config.model_validate({name: values.get(name) for name in _Config.model_fields})
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise SelfExplainError(
            f"config.json: {field} is {str(problem['input'])[:80]!r} ({problem['msg'].lower()}). "
            "Correct it, or download the explainer again."
        ) from error
