"""Metric modules for the `evaluate` library: same scores as the results tables, and complete repositories."""

import json
from types import SimpleNamespace

import pytest
import yaml

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metric_modules import demo, metric_path, write_metric_repository
from selfexplain.evaluation.metrics import METRICS, Simulator
from selfexplain.evaluation.report import markdown
from selfexplain.evaluation.results import ScoredModel, TaskResult
from selfexplain.evaluation.scorers import SCORERS
from selfexplain.evaluation.scoring import score_test_set

TASKS_OF = {
    "exact_match": "activation_patching",
    "has_changed_macro_f1": "activation_patching",
    "content_match": "activation_patching",
    "simulator_correlation": "feature_description",
    "detection_balanced_accuracy": "feature_description",
}


@pytest.fixture
def load(tmp_path):
    import evaluate

    return lambda path: evaluate.load(str(path), cache_dir=str(tmp_path / "evaluate"))


@pytest.mark.parametrize("name", TASKS_OF)
def test_a_module_returns_the_score_in_the_results_table(name, load, patching_rows, feature_rows):
    task = TASKS_OF[name]
    rows = {"activation_patching": patching_rows, "feature_description": feature_rows}[task]
    # Every third answer is unparsable, every other one is that of the row before, so that no score is 0 or 1.
    truths = [row["completion"] for row in rows]
    answers = ["?" if n % 3 == 2 else truths[n - n % 2] for n in range(len(truths))]
    result = score_test_set(SCORERS[task], rows, {"explainer": answers}, {}, Simulator(), 50, 0)
    references = [row[METRICS[name].reference] for row in rows]
    score = load(metric_path(name)).compute(predictions=answers, references=references)
    assert score == {name: result.scores["explainer"][name].value}
    assert -1 < score[name] < 1 and score[name] != 0
    sections = [(task, None, TaskResult(**dict(result)))]
    table = markdown(SimpleNamespace(target=ScoredModel(name="t"), sections=lambda: sections))
    assert f"{score[name]:.3f} [" in table


def test_classes_are_an_argument_of_description_metrics(load, feature_rows):
    module = load(metric_path("simulator_correlation"))
    exemplars = [feature_rows[0]["scoring_exemplars"]]
    score = module.compute(predictions=["warm colours"], references=exemplars, classes={"warm colours": ["red"]})
    assert score == {"simulator_correlation": pytest.approx(1)}
    assert module.compute(predictions=["warm colours"], references=exemplars) == {"simulator_correlation": 0}


def test_a_repository_has_module_demo_card_and_requirements(tmp_path, load):
    directory = tmp_path / "content_match"
    write_metric_repository("content_match", directory, "org/content_match")
    assert {path.name for path in directory.iterdir()} == {
        "content_match.py",
        "app.py",
        "README.md",
        "requirements.txt",
    }
    _, metadata, card = (directory / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(metadata)["sdk"] == "gradio" and {"evaluate", "metric"} < set(
        yaml.safe_load(metadata)["tags"]
    )
    assert METRICS["content_match"].meaning in card and 'evaluate.load("org/content_match")' in card
    assert "selfexplain" in (directory / "requirements.txt").read_text()
    compile((directory / "app.py").read_text(), "app.py", "exec")
    answer = "The output would remain unchanged from <<<Oslo>>>."
    assert load(directory).compute(predictions=[answer], references=[answer]) == {"content_match": 1}


def test_the_demo_of_a_repository_computes_the_metric():
    answer = "The output would remain unchanged from <<<Oslo>>>."
    page = demo("exact_match")
    assert page.fn(json.dumps([answer, "?"]), json.dumps([answer, answer])) == 0.5


def test_an_unknown_metric_is_refused(tmp_path):
    for refuse in (metric_path, lambda name: write_metric_repository(name, tmp_path / name)):
        with pytest.raises(SelfExplainError, match="no metric 'bleu'"):
            refuse("bleu")
    assert not list(tmp_path.iterdir())
