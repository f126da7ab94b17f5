"""The transformers pipeline `pipeline("explain-activations", model=...)`."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, overload

from transformers import Pipeline

from selfexplain.modeling.explanation import Explanation
from selfexplain.modeling.queries import AblationQuery, Query

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
    def __call__(self, queries: Query | str, **options: Any) -> Explanation: ...

    @overload
    def __call__(self, queries: Iterable[Query | str], **options: Any) -> list[Explanation]: ...

    def __call__(self, queries: Query | str | Iterable[Query | str], **options: Any) -> Explanation | list[Explanation]:
        """Answer one query or several queries.

        `explain` makes the batches, because it sorts questions by length. The batching of `Pipeline` is not used.

        Args:
            queries: one query, or a list, generator or other iterable of queries. A string stands for
                `AblationQuery(string)`: whether the answer to this text depends on its hint.
            options: options of `explain`. They override those given to `pipeline(...)`.

        Returns:
            One explanation for one query, a list for several.
        """
        if isinstance(queries, Query | str):
            return self([queries], **options)[0]
        given = [AblationQuery(query) if isinstance(query, str) else query for query in queries]
        return self.postprocess(self._forward(self.preprocess(given), **self._forward_params | options))

    def save_pretrained(self, save_directory: str | PathLike, **kwargs: Any) -> None:
        """Save the explainer with its processor. `pipeline("explain-activations", model=DIRECTORY)` loads it again.

        Args:
            save_directory: directory to write to.
            kwargs: options of `SelfExplainerForCausalLM.save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
