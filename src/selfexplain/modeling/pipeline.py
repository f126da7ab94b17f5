"""The transformers pipeline `pipeline("explain-activations", model=...)`."""

from collections.abc import Sequence
from typing import Any, overload

from transformers import Pipeline

from selfexplain.modeling.explanation import Explanation
from selfexplain.modeling.queries import Query

TASK = "explain-activations"


class ExplainActivationsPipeline(Pipeline):
    """Turns queries into explanations. Options are those of `SelfExplainerForCausalLM.explain`."""

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        return {}, options, {}

    def preprocess(self, queries: Sequence[Query]) -> dict[str, Sequence[Query]]:
        return {"queries": queries}

    def _forward(self, inputs: dict[str, Sequence[Query]], **options: Any) -> list[Explanation]:
        return self.model.explain(inputs["queries"], **options)

    def postprocess(self, explanations: list[Explanation]) -> list[Explanation]:
        return explanations

    @overload
    def __call__(self, queries: Query, **options: Any) -> Explanation: ...

    @overload
    def __call__(self, queries: Sequence[Query], **options: Any) -> list[Explanation]: ...

    def __call__(self, queries: Query | Sequence[Query], **options: Any) -> Explanation | list[Explanation]:
        """Answer one query or a list of queries.

        `explain` makes the batches, because it sorts questions by length. The batching of `Pipeline` is not used.

        Args:
            queries: one query, or a sequence of queries.
            options: options of `explain`. They override those given to `pipeline(...)`.

        Returns:
            One explanation for one query, a list for a sequence.
        """
        if isinstance(queries, Query):
            return self([queries], **options)[0]
        return self.postprocess(self._forward(self.preprocess(queries), **self._forward_params | options))
