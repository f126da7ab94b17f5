"""Mean balanced accuracy of telling active from inactive windows by a description; 0.5 where it does not parse."""

import datasets
import evaluate

from selfexplain.evaluation.metrics import metrics


class DetectionBalancedAccuracy(evaluate.Metric):
    """`selfexplain.evaluation.metrics.metrics(classes)["detection_balanced_accuracy"]` for `evaluate.load`."""

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
        return {"detection_balanced_accuracy": metrics(classes)["detection_balanced_accuracy"](predictions, references)}
