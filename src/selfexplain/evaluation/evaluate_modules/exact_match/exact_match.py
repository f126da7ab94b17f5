"""Share of answers that state the true outcome: whether the output changes, and what it is."""

import datasets
import evaluate

from selfexplain.evaluation.metrics import METRICS


class ExactMatch(evaluate.Metric):
    """`selfexplain.evaluation.metrics.METRICS["exact_match"]` for `evaluate.load`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions: answers; references: true completions (`selfexplain.tasks.outcome`).",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions, references):
        return {"exact_match": METRICS["exact_match"](predictions, references)}
