"""`statistics.json` of a dataset: how large it is, how it was made, and what rules without a vector score on it."""

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from selfexplain.utils.records import Record, Value


class SplitSize(Value):
    """Size of one split."""

    rows: int
    groups: int


class Balance(Value):
    """How well rules that see no vector predict `changed` on the test split; half of the rows are changed.

    Attributes:
        lookup_rule_accuracy: accuracy of the lookup rule (`tasks.lookup`).
        lookup_rule_macro_f1: its F1, averaged over both classes.
        text_majority: share of all rows that have the majority label of their own text; an upper bound for anyone who
            knows only the text. None for tasks in which a text belongs to one row.
    """

    lookup_rule_accuracy: float
    lookup_rule_macro_f1: float
    text_majority: float | None = None


class DatasetStatistics(Record):
    """What a builder counted. Keys that are not declared here belong to the task's own builder (`counts`).

    Attributes:
        splits: split -> its size.
        target_dtype: dtype of the target while the rows were computed.
        target_quantization: quantisation settings of the target, if it was quantised.
        vector_dtype: dtype in which vectors are stored.
        balance: scores of rules that see no vector; None for tasks without a has-changed label.
        classes: classes of tokens that descriptions may name -> their tokens.
        out_of_distribution: name of an additional test set -> what was counted while it was built.
        neuronpedia: export -> the number of descriptions and the SHA-256 of what was read.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    remedy: ClassVar[str] = "Build the dataset again: selfexplain run RECIPE --stage dataset."

    schema_version: Literal[1] = 1
    splits: dict[str, SplitSize] = Field(default_factory=dict)
    target_dtype: str | None = None
    target_quantization: dict[str, Any] | None = None
    vector_dtype: str | None = None
    balance: Balance | None = None
    classes: dict[str, list[str]] = Field(default_factory=dict)
    out_of_distribution: dict[str, dict[str, Any]] = Field(default_factory=dict)
    neuronpedia: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def counts(self) -> dict[str, Any]:
        """What the task's own builder counted, by name."""
        return dict(self.model_extra or {})
