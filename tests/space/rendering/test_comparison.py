"""HTML of a comparison of explainers."""

import re

from rendering.comparison import task_comparison
from selfexplain.evaluation.results import TaskComparison

SCORE = {"value": 0.5, "ci95": [0.4, 0.6]}


def comparison():
    def means(role):
        return [{"role": role, "share": share, "n_train": int(4000 * share), **SCORE} for share in (0.25, 1.0)]

    difference = {"second": ["other", 1.0], "ci95": [0.05, 0.2], "p_value": 0.01}
    values = {("a", "a"): 0.9, ("a", "b"): 0.6, ("b", "a"): 0.5, ("b", "b"): 0.8}
    scores = [
        {"target": target, "explainer": explainer, "share": share, "n_train": 1, "seeds": [value],
         "value": value, "ci95": [0.4, 0.6]}
        for (target, explainer), value in values.items()
        for share in (0.25, 1.0)
    ]  # fmt: skip
    return TaskComparison.model_validate(
        {
            "headline": "content_match",
            "n_test": {"a": 10, "b": 10},
            "scores": {"content_match": scores},
            "means": {"content_match": means("self") + means("other") + means("nearest_neighbour")},
            "differences": {
                "content_match": [
                    {"first": ["self", 0.25], "difference": 0.77, **difference},
                    {"first": ["self", 1.0], "difference": 0.12, **difference},
                ]
            },
        }
    )


def test_the_matrix_outlines_models_that_explain_themselves():
    html = task_comparison("activation_patching", comparison())
    assert re.findall(r'class="self">([\d.]+)', html) == ["0.90", "0.80"]
    assert re.findall(r'class="">([\d.]+)', html) == ["0.60", "0.50"]


def test_only_the_difference_with_all_training_rows_is_stated():
    html = task_comparison("activation_patching", comparison())
    assert "Self minus another model, mean over all models: 0.12 [0.05, 0.20], p = 0.01" in html
    assert html.count("Self minus") == 1


def test_there_is_one_curve_per_kind_of_explainer():
    html = task_comparison("activation_patching", comparison())
    assert html.count("<polyline") == 3 and "4,000" in html and "1,000" in html
