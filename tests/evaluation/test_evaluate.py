"""The full evaluation with fake explainers: systems, scores, resuming, predictions."""

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation_data import Oracle, write_dataset
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation import scorers
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.evaluate import calibrate, evaluate
from selfexplain.evaluation.predictions import read_predictions
from selfexplain.evaluation.report import markdown
from selfexplain.evaluation.results import Environment, Results, ScoredModel
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import share_of
from selfexplain.groundtruth.statistics import DatasetStatistics
from selfexplain.modeling.confidence import fit

CONFIG = EvaluationConfig(batch_size=4, n_resamples=200)
TARGET = SimpleNamespace(name="tiny", d_model=8)
TASKS = ("feature_description", "activation_patching", "input_ablation")


@pytest.fixture
def tasks(datasets_of, patching_rows, ablation_rows, feature_rows):
    """Scores of an oracle that gives every correct answer, with an untrained explainer that gives none."""
    oracle = Oracle(patching_rows + ablation_rows + feature_rows)
    return evaluate(oracle, Oracle([]), TARGET, datasets_of(*TASKS), CONFIG, 0)


def test_every_task_has_the_systems_that_apply(tasks):
    controls = {"explainer", "untrained", "nearest_neighbour", "shuffled_vector", "zero_vector", "text_only"}
    systems = {task: set(result.scores) for task, result in tasks.items()}
    assert systems["feature_description"] == controls | {"ground_truth"}
    assert systems["activation_patching"] == controls | {"lookup_rule", "majority"}
    assert systems["input_ablation"] == {"explainer", "untrained", "nearest_neighbour", "lookup_rule", "majority"}
    assert set(tasks["input_ablation"].scores["majority"]) == {"has_changed_macro_f1"}


def test_an_oracle_scores_one_and_its_controls_do_not(tasks):
    patching = tasks["activation_patching"]
    values = {name: {metric: score.value for metric, score in of.items()} for name, of in patching.scores.items()}
    assert values["explainer"]["exact_match"] == 1 and patching.scores["explainer"]["exact_match"].ci95 == (1, 1)
    assert values["shuffled_vector"]["content_match"] < 0.1
    assert values["zero_vector"]["exact_match"] == values["text_only"]["exact_match"] == 0
    assert values["lookup_rule"]["has_changed_macro_f1"] == pytest.approx(0.75)
    assert values["majority"]["has_changed_macro_f1"] == pytest.approx(1 / 3)
    assert patching.n_test == 64 and patching.n_groups == 16
    assert patching.counts == {"changed": 32, "unchanged": 32}
    assert patching.unparsable["explainer"] == 0 and patching.unparsable["untrained"] == 64
    difference = patching.comparisons["explainer - lookup_rule"]["has_changed_macro_f1"]
    assert difference.difference == pytest.approx(0.25) and difference.ci95[0] > 0
    assert patching.comparisons["explainer - shuffled_vector"]["exact_match"].p_value < 0.01
    assert patching.calibration.risk == 0 and patching.calibration.correct == "exact match"


def test_the_ground_truth_scores_as_high_as_an_oracle(tasks):
    scores = tasks["feature_description"].scores
    assert scores["ground_truth"]["simulator_correlation"].value == pytest.approx(1)
    assert scores["explainer"] == scores["ground_truth"]
    assert tasks["feature_description"].simulator == "offline"


def test_descriptions_may_name_the_classes_of_the_dataset(datasets_of, feature_rows):
    warm = [{**row, "completion": row["completion"].replace("the word red", "warm colours")} for row in feature_rows]
    datasets = datasets_of("feature_description")
    scores = evaluate(Oracle(warm), Oracle([]), TARGET, datasets, CONFIG, 0)["feature_description"].scores
    assert scores["explainer"] == scores["ground_truth"]


def test_out_of_distribution_sets_are_scored_with_their_task(datasets_of, feature_rows, tasks, tmp_path):
    datasets = datasets_of("feature_description", "input_ablation")
    dataset = datasets["feature_description"]
    statistics = dataset.statistics().model_copy(update={"out_of_distribution": {"activations": {"rows": 4}}})
    other = [{**row, "group": f"text {row['group']}"} for row in feature_rows[:4]]
    write_dataset(dataset.root, other, splits=("activations",), statistics=statistics)

    class KnowsTestSplit(Oracle):
        """Answers correctly about features of the test split, and about none of the out-of-distribution set."""

        def answer(self, rows, batch_size=64, progress=None):
            known = [] if rows[0]["group"].startswith("text") else rows
            return [*super().answer(known), *(SimpleNamespace(text="?", log_prob=0.0) for _ in rows[len(known) :])]

    predictions_dir = tmp_path / "predictions"
    scored = evaluate(
        KnowsTestSplit(feature_rows),
        Oracle([]),
        TARGET,
        datasets,
        CONFIG,
        0,
        cache_dir=tmp_path / "cache",
        predictions_dir=predictions_dir,
    )
    assert list(scored) == ["feature_description", "input_ablation"]
    other_set = scored["feature_description"].out_of_distribution["activations"]
    assert scored["feature_description"].scores == tasks["feature_description"].scores
    assert set(other_set.scores) == set(tasks["feature_description"].scores) and other_set.n_test == 4
    assert other_set.scores["explainer"]["simulator_correlation"].value == 0
    assert other_set.scores["ground_truth"]["simulator_correlation"].value == pytest.approx(1)
    assert len(list(read_predictions(predictions_dir / "feature_description" / "activations.jsonl"))) == 4
    model = ScoredModel(name="tiny")
    environment = Environment(versions={}, device="cpu", seed=0)
    results = Results(recipe="r", target=model, explainer=model, tasks=scored, environment=environment)
    assert "**Feature description, activations**: 4 held-out rows in 4 groups" in markdown(results)


def scored_at(best_scale, rows, scales):
    """Function from a scale to a baseline that is correct at one scale only; records the scales."""

    def at(scale):
        scales.append(scale)
        return Oracle(rows if scale == best_scale else [])

    return at


def test_the_scale_of_selfie_is_chosen_on_the_validation_split(datasets_of, feature_rows):
    datasets, scales = datasets_of("feature_description"), []
    dataset = datasets["feature_description"]
    shutil.copy(dataset.rows("train"), dataset.rows("validation"))
    selfie = scored_at(10, feature_rows, scales)
    result = evaluate(Oracle([]), Oracle([]), TARGET, datasets, CONFIG, 0, selfie=selfie)["feature_description"]
    assert result.selfie_scale == 10 and scales == [1, 5, 10, 25, 50, 10]
    assert result.scores["selfie"] == result.scores["ground_truth"]
    assert "explainer - selfie" in result.comparisons


def test_selfie_is_left_out_without_validation_rows(datasets_of, feature_rows, caplog):
    scales = []
    with caplog.at_level(logging.WARNING, logger="selfexplain"):
        result = evaluate(
            Oracle([]),
            Oracle([]),
            TARGET,
            datasets_of("feature_description"),
            CONFIG,
            0,
            selfie=scored_at(10, feature_rows, scales),
        )["feature_description"]
    assert "selfie" not in result.scores and result.selfie_scale is None and not scales
    assert "SelfIE is left out because its scale cannot be chosen" in caplog.text


def test_selfie_is_a_baseline_of_feature_descriptions_only(datasets_of):
    datasets = datasets_of("activation_patching")
    scored = evaluate(Oracle([]), Oracle([]), TARGET, datasets, CONFIG, 0, selfie=lambda _: Oracle([]))
    assert "selfie" not in scored["activation_patching"].scores


def test_baselines_learn_from_the_same_share_as_the_explainer(datasets_of, patching_rows, monkeypatch):
    trained_on = []

    def remember(cell, train, test):
        trained_on.append([row["group"] for row in train])
        return [True] * len(test)

    monkeypatch.setattr(scorers, "lookup_rule", remember)
    for share in (1.0, 0.5):
        evaluate(Oracle([]), Oracle([]), TARGET, datasets_of("activation_patching"), CONFIG, 3, share=share)
    groups = [row["group"] for row in patching_rows]
    assert trained_on[0] == groups
    assert trained_on[1] == [groups[index] for index in share_of(groups, 0.5, 3)]
    assert 0 < len(set(trained_on[1])) < len(set(groups))


def test_an_interrupted_evaluation_continues(datasets_of, patching_rows, tmp_path):
    datasets = datasets_of("activation_patching")

    def run(explainer):
        return evaluate(explainer, Oracle([]), TARGET, datasets, CONFIG, 0, cache_dir=tmp_path / "cache")

    with pytest.raises(KeyboardInterrupt):
        run(Oracle(patching_rows, stop_after=96))  # within the second system
    half = tmp_path / "cache" / "activation_patching" / "shuffled_vector.jsonl"
    half.write_text(half.read_text() + '{"row": "half a li')
    second = Oracle(patching_rows)
    resumed = run(second)
    assert second.n_answered == 4 * 64 - 96
    assert resumed == evaluate(Oracle(patching_rows), Oracle([]), TARGET, datasets, CONFIG, 0)


def test_predictions_contain_every_answer(datasets_of, ablation_rows, tmp_path):
    config = EvaluationConfig(rows_limit=5, n_resamples=10)
    datasets = datasets_of("input_ablation")
    scored = evaluate(Oracle(ablation_rows), Oracle([]), TARGET, datasets, config, 0, predictions_dir=tmp_path)
    predictions = list(read_predictions(tmp_path / "input_ablation.jsonl"))
    assert len(predictions) == scored["input_ablation"].n_test == 5
    for prediction in predictions:
        row = ablation_rows[prediction.row]
        assert (prediction.prompt, prediction.completion) == (row["prompt"], row["completion"])
        assert prediction.answers["explainer"] == row["completion"] and prediction.confidence == 1
        assert prediction.answers["lookup_rule"] is row["changed"]


def test_rows_read_back_equal_the_rows_written(datasets_of, patching_rows):
    datasets = datasets_of("activation_patching", "input_ablation")
    read = read_rows(datasets["activation_patching"].rows("test"))
    for row, original in zip(read, patching_rows, strict=True):
        np.testing.assert_array_equal(row["activations"], original["activations"])
        assert row["activations"].dtype == np.float16
    assert all(len(row["activations"]) == 0 for row in read_rows(datasets["input_ablation"].rows("test")))


def test_vectors_of_another_width_are_refused(datasets_of):
    wide = SimpleNamespace(name="wide", d_model=16)
    with pytest.raises(SelfExplainError, match=r"vectors of width 8, but target wide has width 16"):
        evaluate(Oracle([]), Oracle([]), wide, datasets_of("activation_patching"), CONFIG, 0)


def test_feature_descriptions_need_the_statistics_of_their_dataset(datasets_of):
    datasets = datasets_of("feature_description")
    datasets["feature_description"].statistics_path.unlink()
    with pytest.raises(SelfExplainError, match=r"statistics\.json does not exist"):
        evaluate(Oracle([]), Oracle([]), TARGET, datasets, CONFIG, 0)


class AnswersOddRows:
    """Answers odd rows with their completion, and even rows with unparsable text at low probability."""

    def answer(self, rows, batch_size=64, progress=None):
        return [
            SimpleNamespace(
                text=row["completion"] if int(row["group"]) % 2 else "?",
                log_prob=-0.7 if int(row["group"]) % 2 else -5.0,
            )
            for row in rows
        ]


def test_calibration_is_fitted_on_parsable_answers_to_validation_rows(tmp_path, ablation_rows, monkeypatch):
    rows = [{**row, "group": str(n)} for n, row in enumerate(ablation_rows)]
    dataset = write_dataset(tmp_path / "data", rows, splits=("validation",))
    correct = np.arange(20) < 18
    scorer = scorers.SCORERS["input_ablation"]
    monkeypatch.setattr(
        type(scorer),
        "correct",
        lambda self, answers, asked, simulator: (
            np.array([correct[int(row["group"])] for row in asked]),
            np.ones(len(asked), bool),
        ),
    )
    fitted = calibrate(AnswersOddRows(), {"input_ablation": dataset}, EvaluationConfig(rows_limit=None), seed=0)
    order = np.random.default_rng(0).permutation(20)
    parsable = [int(n) for n in order if n % 2]
    expected = fit([-0.7] * 10, [bool(correct[n]) for n in parsable], [str(n) for n in parsable])
    assert fitted == ({} if expected is None else {"input_ablation": expected})
    assert expected is not None


def test_a_task_without_validation_rows_is_not_calibrated(datasets_of, caplog):
    with caplog.at_level(logging.WARNING, logger="selfexplain"):
        assert calibrate(AnswersOddRows(), datasets_of("input_ablation"), EvaluationConfig(), seed=0) == {}
    assert "input_ablation: the explainer's confidence is not calibrated" in caplog.text


def test_statistics_of_a_dataset_without_classes_are_enough(tmp_path, feature_rows):
    dataset = write_dataset(tmp_path / "data", feature_rows, statistics=DatasetStatistics())
    scored = evaluate(Oracle(feature_rows), Oracle([]), TARGET, {"feature_description": dataset}, CONFIG, 0)
    assert scored["feature_description"].scores["explainer"]["simulator_correlation"].value == pytest.approx(1)
