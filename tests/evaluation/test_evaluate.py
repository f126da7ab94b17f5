"""The whole evaluation on stand-in explainers: systems, numbers, resuming, what is written."""

import io
import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation import baselines
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.evaluate import evaluate
from selfexplain.evaluation.report import markdown, tables, write_figures, write_results
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import share_of

CONFIG = EvaluationConfig(batch_size=4, n_resamples=200)
TARGET = SimpleNamespace(name="tiny", d_model=8)


class Oracle:
    """Knows the completion of each vector (of each prompt, where there is none); says nothing parsable otherwise."""

    def __init__(self, rows, stop_after=None):
        self.truth = {self.key(row): row["completion"] for row in rows}
        self.asked = 0
        self.stop_after = stop_after

    @staticmethod
    def key(row):
        return np.asarray(row["activations"]).tobytes() or row["prompt"]

    def answer(self, rows, batch_size=64, progress=None):
        if self.stop_after is not None and self.asked >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += len(rows)
        return [SimpleNamespace(text=self.truth.get(self.key(row), "?"), log_prob=0.0) for row in rows]


@pytest.fixture
def datasets_dir(tmp_path, patching_rows, ablation_rows, feature_rows):
    import datasets

    vector = datasets.List(datasets.List(datasets.Value("float16"), length=8))
    tasks = {
        "activation_patching": patching_rows,
        "input_ablation": ablation_rows,
        "feature_description": feature_rows,
    }
    for task, rows in tasks.items():
        (tmp_path / task).mkdir()
        lists = [{**row, "activations": row["activations"].tolist()} for row in rows]
        data = datasets.Dataset.from_list(lists).cast_column("activations", vector)
        for split in ("train", "test"):
            data.to_parquet(tmp_path / task / f"{split}.parquet")
    (tmp_path / "feature_description" / "statistics.json").write_text(
        '{"classes": {"warm colours": ["red", "orange"]}}'
    )
    return tmp_path


@pytest.fixture
def all_rows(patching_rows, ablation_rows, feature_rows):
    return patching_rows + ablation_rows + feature_rows


@pytest.fixture
def results(datasets_dir, all_rows):
    tasks = ("feature_description", "activation_patching", "input_ablation")
    scores = evaluate(Oracle(all_rows), Oracle([]), TARGET, datasets_dir, tasks, CONFIG, 0)
    return {"schema_version": 1, "tasks": scores}


def test_every_system_that_applies_and_no_other(results):
    controls = {"explainer", "untrained", "nearest_neighbour", "shuffled_vector", "zero_vector", "text_only"}
    systems = {task: set(result["scores"]) for task, result in results["tasks"].items()}
    assert systems["feature_description"] == controls | {"ground_truth"}
    assert systems["activation_patching"] == controls | {"lookup_rule", "majority"}
    assert systems["input_ablation"] == {"explainer", "untrained", "nearest_neighbour", "lookup_rule", "majority"}
    assert set(results["tasks"]["input_ablation"]["scores"]["majority"]) == {"has_changed_macro_f1"}
    assert "null" not in json.dumps(results)


def test_an_oracle_scores_one_and_its_controls_do_not(results):
    patching = results["tasks"]["activation_patching"]
    scores = patching["scores"]
    assert scores["explainer"]["exact_match"] == {"value": 1.0, "ci95": [1.0, 1.0]}
    assert scores["shuffled_vector"]["content_match"]["value"] < 0.1
    assert scores["zero_vector"]["exact_match"]["value"] == scores["text_only"]["exact_match"]["value"] == 0
    assert scores["lookup_rule"]["has_changed_macro_f1"]["value"] == pytest.approx(0.75)
    assert scores["majority"]["has_changed_macro_f1"]["value"] == pytest.approx(1 / 3)
    assert patching["n_test"] == 64 and patching["n_groups"] == 16
    assert patching["counts"] == {"changed": 32, "unchanged": 32}
    assert patching["unparsable"]["explainer"] == 0 and patching["unparsable"]["untrained"] == 64
    lift = patching["comparisons"]["explainer - lookup_rule"]["has_changed_macro_f1"]
    assert lift["difference"] == pytest.approx(0.25) and lift["ci95"][0] > 0
    assert patching["comparisons"]["explainer - shuffled_vector"]["exact_match"]["p_value"] < 0.01


def test_descriptions_may_name_the_classes_of_the_dataset(datasets_dir, feature_rows):
    warm = [{**row, "completion": row["completion"].replace("the word red", "warm colours")} for row in feature_rows]
    scores = evaluate(Oracle(warm), Oracle([]), TARGET, datasets_dir, ("feature_description",), CONFIG, 0)
    scores = scores["feature_description"]["scores"]
    assert scores["explainer"] == scores["ground_truth"]


def test_gold_is_the_ceiling_of_descriptions(results):
    scores = results["tasks"]["feature_description"]["scores"]
    assert scores["ground_truth"]["simulator_correlation"]["value"] == pytest.approx(1)
    assert scores["explainer"] == scores["ground_truth"]


def test_sets_out_of_distribution_are_scored_beside_their_task(datasets_dir, feature_rows, results, tmp_path):
    import datasets

    folder = datasets_dir / "feature_description"
    classes = json.loads((folder / "statistics.json").read_text())
    (folder / "statistics.json").write_text(
        json.dumps({**classes, "out_of_distribution": {"activations": {"rows": 4}}})
    )
    rows = datasets.Dataset.from_parquet(str(folder / "test.parquet"), cache_dir=str(tmp_path)).select(range(4))
    rows.map(lambda row: {"group": f"text {row['group']}"}).to_parquet(folder / "activations.parquet")

    class Known(Oracle):
        """Knows the features of the test split and nothing of the others."""

        def answer(self, rows, batch_size=64, progress=None):
            known = [] if rows[0]["group"].startswith("text") else rows
            return [*super().answer(known), *(SimpleNamespace(text="?", log_prob=0.0) for _ in rows[len(known) :])]

    tasks, out = ("feature_description", "input_ablation"), tmp_path / "predictions"
    scored = evaluate(Known(feature_rows), Oracle([]), TARGET, datasets_dir, tasks, CONFIG, 0, tmp_path / "cache", out)
    assert set(scored) == set(tasks)
    beside = scored["feature_description"].pop("out_of_distribution")["activations"]
    plain = results["tasks"]["feature_description"]
    assert scored["feature_description"]["scores"] == plain["scores"]  # as without the set
    assert set(beside["scores"]) == set(plain["scores"]) and beside["n_test"] == 4
    assert beside["scores"]["explainer"]["simulator_correlation"]["value"] == 0
    assert beside["scores"]["ground_truth"]["simulator_correlation"]["value"] == pytest.approx(1)
    assert len((out / "feature_description" / "activations.jsonl").read_text().splitlines()) == 4

    nested = {"tasks": {"feature_description": {**plain, "out_of_distribution": {"activations": beside}}}}
    assert "**Feature description, activations**: 4 held-out rows in 4 groups" in markdown(nested)


@pytest.mark.parametrize("validation", [True, False])
def test_the_scale_of_selfie_is_chosen_on_the_validation_split(datasets_dir, feature_rows, validation, caplog):
    folder = datasets_dir / "feature_description"
    if validation:
        shutil.copy(folder / "train.parquet", folder / "validation.parquet")
    asked = []

    def at_scale(scale):
        asked.append(scale)
        return Oracle(feature_rows if scale == 10 else [])

    with caplog.at_level(logging.WARNING, logger="selfexplain"):
        result = evaluate(
            Oracle([]), Oracle([]), TARGET, datasets_dir, ("feature_description",), CONFIG, 0, selfie=at_scale
        )["feature_description"]
    if validation:
        assert result["selfie_scale"] == 10 and asked == [1, 5, 10, 25, 50, 10]
        assert result["scores"]["selfie"] == result["scores"]["ground_truth"]
        assert "explainer - selfie" in result["comparisons"]
    else:
        assert "selfie" not in result["scores"] and "SelfIE is left out" in caplog.text and not asked


def test_selfie_is_for_features_alone(datasets_dir, patching_rows):
    scores = evaluate(
        Oracle([]), Oracle([]), TARGET, datasets_dir, ("activation_patching",), CONFIG, 0, selfie=lambda _: Oracle([])
    )
    assert "selfie" not in scores["activation_patching"]["scores"]


def test_baselines_learn_from_the_same_share_as_the_explainer(datasets_dir, patching_rows, monkeypatch):
    given = []

    def remember(task, train, test):
        given.append(train)
        return [True] * len(test)

    monkeypatch.setattr(baselines, "lookup_rule", remember)
    groups = {row["group"] for row in patching_rows}
    for share in (1.0, 0.5):
        evaluate(Oracle([]), Oracle([]), TARGET, datasets_dir, ("activation_patching",), CONFIG, 3, share=share)
    learned = [row["group"] for row in patching_rows]
    assert [row["group"] for row in given[0]] == learned
    assert [row["group"] for row in given[1]] == [learned[index] for index in share_of(learned, 0.5, 3)]
    assert 0 < len({row["group"] for row in given[1]}) < len(groups)


def test_a_killed_evaluation_continues(datasets_dir, patching_rows, tmp_path):
    def run(explainer):
        tasks = ("activation_patching",)
        return evaluate(explainer, Oracle([]), TARGET, datasets_dir, tasks, CONFIG, 0, cache_dir=tmp_path / "cache")

    with pytest.raises(KeyboardInterrupt):
        run(Oracle(patching_rows, stop_after=96))  # within the second system
    half = tmp_path / "cache" / "activation_patching" / "shuffled_vector.jsonl"
    half.write_text(half.read_text() + '{"row": "half a li')
    second = Oracle(patching_rows)
    resumed = run(second)
    assert second.asked == 4 * 64 - 96
    assert resumed == evaluate(
        Oracle(patching_rows), Oracle([]), TARGET, datasets_dir, ("activation_patching",), CONFIG, 0
    )


def test_predictions_show_every_answer(datasets_dir, ablation_rows, tmp_path):
    config = EvaluationConfig(rows_limit=5, n_resamples=10)
    out = tmp_path / "predictions"
    scores = evaluate(
        Oracle(ablation_rows), Oracle([]), TARGET, datasets_dir, ("input_ablation",), config, 0, predictions_dir=out
    )
    lines = [json.loads(line) for line in (out / "input_ablation.jsonl").read_text().splitlines()]
    assert len(lines) == scores["input_ablation"]["n_test"] == 5
    for line in lines:
        assert line["prompt"] == ablation_rows[line["row"]]["prompt"]
        assert line["answers"]["explainer"] == line["completion"]
        assert line["answers"]["lookup_rule"] is ablation_rows[line["row"]]["changed"]


def test_rows_come_back_as_they_were_written(datasets_dir, patching_rows, ablation_rows):
    read = read_rows(datasets_dir / "activation_patching" / "test.parquet")
    for row, original in zip(read, patching_rows, strict=True):
        np.testing.assert_array_equal(row["activations"], original["activations"])
        assert row["activations"].dtype == np.float16
    assert all(len(row["activations"]) == 0 for row in read_rows(datasets_dir / "input_ablation" / "test.parquet"))


def test_bad_datasets_are_named(datasets_dir):
    with pytest.raises(SelfExplainError, match=r"validation\.parquet"):
        read_rows(datasets_dir / "activation_patching" / "validation.parquet")
    wide = SimpleNamespace(name="wide", d_model=16)
    with pytest.raises(SelfExplainError, match="width 16"):
        evaluate(Oracle([]), Oracle([]), wide, datasets_dir, ("activation_patching",), CONFIG, 0)


def test_report(results, tmp_path):
    from rich.console import Console

    write_results(results, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == results

    console = Console(width=80, file=io.StringIO())
    console.print(tables(results))
    shown = console.file.getvalue()
    assert "64 held-out rows in 16 groups" in shown and "lookup rule" in shown
    assert any(line.split()[:4] == ["explainer", "1.00", "[1.00,", "1.00]"] for line in shown.splitlines())

    names = [path.name for path in write_figures(results, tmp_path / "figures")]
    tasks_first = ["feature_description.png", "activation_patching.png", "input_ablation.png"]
    assert names == [*tasks_first, "summary.png", "risk_coverage.png"]
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in names)


def test_results_hold_no_nan(tmp_path):
    with pytest.raises(SelfExplainError):
        write_results({"value": float("nan")}, tmp_path / "results.json")
    assert not list(tmp_path.iterdir())
