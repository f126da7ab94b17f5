"""Share of answers that name the true output, whether or not they say that it changes."""

import datasets
import evaluate

from selfexplain.evaluation.metrics import METRICS


class ContentMatch(evaluate.Metric):
    """`selfexplain.evaluation.metrics.METRICS["content_match"]` for `evaluate.load`."""

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
        return {"content_match": METRICS["content_match"](predictions, references)}
