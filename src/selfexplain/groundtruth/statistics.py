"""`statistics.json` of a dataset: its size, how it was built, and the scores of rules that see no vector."""

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from selfexplain.utils.names import FileName
from selfexplain.utils.records import Record, Value


class SplitSize(Value):
    """Size of one split.

    Attributes:
        rows: number of rows.
        groups: number of groups, which no two splits share.
    """

    rows: int
    groups: int


class Balance(Value):
    """Scores of rules that predict `changed` without a vector. Half of the rows are changed.

    Attributes:
        lookup_rule_accuracy: accuracy of the lookup rule (`tasks.lookup`) on the test split.
        lookup_rule_macro_f1: F1 of the lookup rule on the test split, averaged over both classes.
        text_majority: share of training and test rows that have the majority label of their own text. It is an upper
            bound for every predictor that sees only the text. None for tasks in which each text belongs to one row.
    """

    lookup_rule_accuracy: float
    lookup_rule_macro_f1: float
    text_majority: float | None = None


class DatasetStatistics(Record):
    """Statistics collected while a dataset was built. Undeclared keys belong to the task's own builder (see `counts`).

    Attributes:
        neuronpedia: Neuronpedia export -> the number of descriptions and the SHA-256 of the files that were read.
        classes: token class that descriptions can name -> its tokens.
        out_of_distribution: name of an additional test set -> counts collected while it was built.
        balance: scores of rules that see no vector; None for tasks without a has-changed label.
        target_dtype: dtype of the target while the rows were computed.
        target_weights: what distinguishes the target's weights from the original ones, such as "dequantised from Q4_1".
        target_quantization: quantisation settings of the target; None if it was not quantised.
        vector_dtype: dtype in which vectors are stored.
        splits: split -> its size.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    remedy: ClassVar[str] = "Build the dataset again: selfexplain run RECIPE --stage dataset."

    schema_version: Literal[1] = 1
    neuronpedia: dict[str, dict[str, Any]] = Field(default_factory=dict)
    classes: dict[str, list[str]] = Field(default_factory=dict)
    out_of_distribution: dict[FileName, dict[str, Any]] = Field(default_factory=dict)
    balance: Balance | None = None
    target_dtype: str | None = None
    target_weights: str | None = None
    target_quantization: dict[str, Any] | None = None
    vector_dtype: str | None = None
    splits: dict[FileName, SplitSize] = Field(default_factory=dict)

    @property
    def counts(self) -> dict[str, Any]:
        """Name -> count, for the counts of the task's own builder."""
        return dict(self.model_extra or {})

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The counts first, then the declared fields, without those that are empty or None."""
        data = handler(self)
        declared = {name: value for name in type(self).model_fields if (value := data.get(name)) not in (None, {})}
        return {"schema_version": self.schema_version, **self.counts, **declared}
