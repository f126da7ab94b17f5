"""Mean Pearson correlation of a description's simulated activations with the true ones; 0 where it does not parse."""

import datasets
import evaluate

from selfexplain.evaluation.metrics import metrics


class SimulatorCorrelation(evaluate.Metric):
    """`selfexplain.evaluation.metrics.metrics(classes)["simulator_correlation"]` for `evaluate.load`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions: descriptions; references: the `scoring_exemplars` of each row.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.List(
                        {
                            "tokens": datasets.List(datasets.Value("string")),
                            "activations": datasets.List(datasets.Value("float64")),
                        }
                    ),
                }
            ),
        )

    def _compute(self, predictions, references, classes=None):
        return {"simulator_correlation": metrics(classes)["simulator_correlation"](predictions, references)}
