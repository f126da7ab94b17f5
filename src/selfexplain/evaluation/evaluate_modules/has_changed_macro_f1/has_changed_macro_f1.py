"""F1 of whether the output changes, averaged over both classes; an unparsable answer is neither class."""

import datasets
import evaluate

from selfexplain.evaluation.metrics import METRICS


class HasChangedMacroF1(evaluate.Metric):
    """`selfexplain.evaluation.metrics.METRICS["has_changed_macro_f1"]` for `evaluate.load`."""

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
        return {"has_changed_macro_f1": METRICS["has_changed_macro_f1"](predictions, references)}
