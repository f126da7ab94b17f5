"""Records of results and predictions: reading, versions, and numbers that JSON cannot hold."""

import json
import shutil
from pathlib import Path

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.predictions import Prediction, read_predictions, write_predictions
from selfexplain.evaluation.results import Comparison, Results, Score

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "tiny" / "results.json"


@pytest.fixture
def path(tmp_path):
    """A copy of the published results."""
    return Path(shutil.copy(PUBLISHED, tmp_path / "results.json"))


def test_published_results_are_read_and_written_back_with_the_same_content(path, tmp_path):
    results, data = Results.read(path), json.loads(path.read_text())
    assert results.recipe == data["recipe"] and list(results.tasks) == list(data["tasks"])
    for task, name, result in results.sections():
        stored = data["tasks"][task]
        stored = stored if name is None else stored["out_of_distribution"][name]
        assert result.n_test == stored["n_test"] > 0
        score = stored["scores"]["explainer"]
        assert {metric: value.value for metric, value in result.scores["explainer"].items()} == {
            metric: value["value"] for metric, value in score.items()
        }
    results.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == data
    assert Results.read(tmp_path / "again.json") == results


def test_sections_list_out_of_distribution_sets_after_their_task(path):
    results = Results.read(path)
    names = [(task, name) for task, name, _ in results.sections()]
    assert [task for task, name in names if name is None] == list(results.tasks)
    for index, (task, name) in enumerate(names):
        if name is not None:
            assert names[index - 1][0] == task


def test_a_file_without_a_version_is_read_as_version_0(path):
    data = json.loads(path.read_text())
    del data["schema_version"]
    current = Results.read(path)
    path.write_text(json.dumps(data))
    assert Results.read(path) == current and Results.read(path).schema_version == 1


@pytest.mark.parametrize("version", [2, "1", None, True])
def test_a_newer_or_invalid_version_is_refused(path, version):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(SelfExplainError, match=r"results\.json has schema version .*reads versions up to 1"):
        Results.read(path)


def test_unknown_keys_are_refused(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "scores": {}}))
    with pytest.raises(SelfExplainError, match=r"scores: Extra inputs are not permitted. Run the recipe again"):
        Results.read(path)


def test_the_error_for_a_missing_file_contains_the_remedy(tmp_path):
    with pytest.raises(SelfExplainError, match=r"results\.json does not exist. Run the recipe again to evaluate"):
        Results.read(tmp_path / "results.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_not_written(path, value):
    results, before = Results.read(path), path.read_text()
    (task, result), *_ = results.tasks.items()
    scores = {"explainer": {"exact_match": Score(value=value, ci95=(0, 1))}}
    broken = results.model_copy(update={"tasks": {task: result.model_copy(update={"scores": scores})}})
    with pytest.raises(SelfExplainError, match="a number in it is NaN or infinite"):
        broken.write(path)
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]


def test_a_comparison_file_holds_the_same_as_the_comparison_in_results(tmp_path):
    entry = {"share": 1.0, "n_train": 10, "value": 0.5, "ci95": (0.4, 0.6)}
    task = {
        "headline": "exact_match",
        "n_test": {"a": 2},
        "scores": {"exact_match": [{"target": "a", "explainer": "a", "seeds": [0.5], **entry}]},
        "means": {"exact_match": [{"role": "self", **entry}]},
        "differences": {"exact_match": []},
    }
    data = {"models": ["a"], "n_seeds": 1, "tasks": {"activation_patching": task}}
    comparison = Comparison.from_data(data, "comparison.json")
    comparison.write(tmp_path / "comparison.json")
    assert Comparison.read(tmp_path / "comparison.json") == comparison
    assert comparison.tasks["activation_patching"].means["exact_match"][0].value == 0.5


def prediction(**fields):
    return Prediction(
        row=3, group="g", prompt="p", completion="c", confidence=0.5, answers={"explainer": "é"}, **fields
    )


def test_predictions_are_one_line_each(tmp_path):
    path = tmp_path / "predictions" / "task.jsonl"
    answers = {"explainer": "c", "lookup_rule": True, "majority": False}
    written = [prediction(), prediction().model_copy(update={"answers": answers})]
    write_predictions(written, path)
    assert len(path.read_text().splitlines()) == 2
    read = list(read_predictions(path))
    assert read == written
    assert read[1].answers["lookup_rule"] is True and read[1].answers["majority"] is False


def test_predictions_without_a_version_are_read(tmp_path):
    path = tmp_path / "task.jsonl"
    data = prediction().to_data()
    del data["schema_version"]
    path.write_text(json.dumps(data) + "\n")
    assert list(read_predictions(path)) == [prediction()]


def test_a_damaged_prediction_is_named_by_its_line(tmp_path):
    path = tmp_path / "task.jsonl"
    write_predictions([prediction()], path)
    path.write_text(path.read_text() + "{")
    with pytest.raises(SelfExplainError, match=r"task\.jsonl, line 2 is not valid JSON"):
        list(read_predictions(path))
    with pytest.raises(SelfExplainError, match=r"missing\.jsonl does not exist"):
        list(read_predictions(tmp_path / "missing.jsonl"))
