"""The plan of a run: which files go to which repositories."""

import json

import pytest
import yaml

from hub.published import METRICS, update_manifest
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.predictions import Prediction
from selfexplain.publishing.plan import PlanOptions, answer_row, make_plan


def test_plan_has_every_repository_and_file(finished, tmp_path):
    plan = make_plan(finished, "lab", tmp_path / "staging")
    files = {repository.id: {file.path for file in repository.files} for repository in plan.repositories}
    assert files.keys() == {
        "lab/selfexplain-features", "lab/selfexplain-patching", "lab/selfexplain-ablation", "lab/selfexplain-results",
        "lab/quickstart-selfexplainer",
    }  # fmt: skip
    model = files["lab/quickstart-selfexplainer"]
    assert {"README.md", "config.json", "modeling_selfexplainer.py", "figures/summary.png", "results.json"} <= model
    assert "adapter_config.json" not in model  # with that file, transformers would load only the base
    assert {
        "README.md", "selfexplain--tiny/train.parquet", "selfexplain--tiny/statistics.json",
        "selfexplain--tiny/card.json", "selfexplain--tiny/recipe.yaml", "selfexplain--tiny/activation_patching.png",
    } <= files["lab/selfexplain-patching"]  # fmt: skip
    assert "selfexplain--tiny/manifest.json" not in files["lab/selfexplain-patching"]
    assert "quickstart/predictions/activation_patching.jsonl" in files["lab/selfexplain-results"]


def test_repositories_list_each_path_once(finished, tmp_path):
    for repository in make_plan(finished, "lab", tmp_path / "staging").repositories:
        paths = [file.path for file in repository.files]
        assert len(paths) == len(set(paths)), repository.id


def test_metrics_are_spaces_with_the_name_of_the_metric(finished, tmp_path):
    plan = make_plan(finished, "lab", tmp_path / "staging", PlanOptions(metrics=True))
    metrics = {repository.id: repository for repository in plan.repositories if repository.title == "metric"}
    assert metrics.keys() == {f"lab/{name}" for name in METRICS}
    for name in METRICS:
        repository = metrics[f"lab/{name}"]
        assert repository.kind == "space"
        assert {"README.md", f"{name}.py"} <= {file.path for file in repository.files}


@pytest.mark.parametrize("directory", ["/", "elsewhere"])
def test_plan_does_not_depend_on_the_working_directory(finished, tmp_path, monkeypatch, directory):
    """Containers start in `/`, which is part of every link."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / directory)
    monkeypatch.setenv("HOME", "/")
    assert len(make_plan(finished, "lab", tmp_path / "staging").repositories) == 5


def test_scores_become_table_rows(finished, tmp_path):
    plan = make_plan(finished, "lab", tmp_path / "staging")
    repository = next(part for part in plan.repositories if part.title == "results")
    table = next(file for file in repository.files if file.path == "quickstart/scores.jsonl")
    rows = [json.loads(line) for line in table.source.read_text().splitlines()]
    tasks = json.loads((finished / "results.json").read_text())["tasks"]
    assert len(rows) == sum(len(scores) for task in tasks.values() for scores in task["scores"].values())
    row = next(row for row in rows if (row["task"], row["system"]) == ("activation_patching", "explainer"))
    score = tasks["activation_patching"]["scores"]["explainer"][row["metric"]]
    assert row["value"] == score["value"] and [row["ci95_low"], row["ci95_high"]] == score["ci95"]
    assert (row["recipe"], row["target"], row["n_test"]) == (
        "quickstart",
        "selfexplain/tiny",
        tasks["activation_patching"]["n_test"],
    )


def test_answers_become_a_list_of_texts():
    prediction = Prediction(
        row=3, group="g", prompt="p", completion="c", confidence=0.5, answers={"explainer": "x", "lookup_rule": True}
    )
    assert answer_row(prediction) == {
        "row": 3,
        "group": "g",
        "prompt": "p",
        "completion": "c",
        "confidence": 0.5,
        "answers": [{"system": "explainer", "answer": "x"}, {"system": "lookup_rule", "answer": "changed"}],
    }


def test_card_covers_the_datasets_of_earlier_runs(finished, tmp_path):
    first = make_plan(finished, "lab", tmp_path / "first")
    repository = next(part for part in first.repositories if part.id == "lab/selfexplain-patching")
    facts = next(file.source for file in repository.files if file.path == "selfexplain--tiny/card.json")
    earlier = tmp_path / "earlier" / "lab--other"
    earlier.mkdir(parents=True)
    text = facts.read_text().replace("selfexplain/tiny", "lab/other").replace("selfexplain--tiny", "lab--other")
    (earlier / "card.json").write_text(text)
    options = PlanOptions(earlier={"lab/selfexplain-patching": earlier.parent})
    second = make_plan(finished, "lab", tmp_path / "second", options)
    repository = next(part for part in second.repositories if part.id == "lab/selfexplain-patching")
    card = next(file.source for file in repository.files if file.path == "README.md").read_text()
    assert "| `selfexplain--tiny` |" in card and "[lab/other](" in card
    assert not any(file.path.startswith("lab--other") for file in repository.files)  # only the other run writes them


def test_run_on_a_directory_is_published_under_one_public_name(run_on_directory, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = str(run_on_directory.parent)
    with pytest.raises(SelfExplainError, match=rf"{path}/ownmodel, which others cannot load.*--full.*--base ID"):
        make_plan(run_on_directory, "lab", tmp_path / "staging")
    plan = make_plan(run_on_directory, "lab", tmp_path / "staging", PlanOptions(base="someone/mine"))
    files = {(part.title, file.path): file.source for part in plan.repositories for file in part.files}
    tables = [source for (_, name), source in files.items() if name.endswith(".parquet")]
    assert len(tables) == 3
    for source in files.values():
        assert path.encode() not in source.read_bytes() and b"./texts" not in source.read_bytes()
    for source in tables:
        table = pq.read_table(source)
        strings = [
            table[name].to_pylist() for name in table.column_names if table.schema.field(name).type == pa.string()
        ]
        assert not [value for column in strings for value in column if value and (path in value or "ownmodel" in value)]
        assert set(table["target_model"].to_pylist()) == {"someone/mine"}
    config = json.loads(files["explainer", "config.json"].read_text())
    assert config["base_model_name_or_path"] == config["target"]["model"] == "someone/mine"
    recipe = yaml.safe_load(files["explainer", "recipe.yaml"].read_text())
    assert (recipe["name"], recipe["target"], recipe["corpus"]) == ("quickstart", "someone/mine", "texts.txt")
    results = json.loads(files["results", "quickstart/results.json"].read_text())
    assert results["target"]["name"] == "someone/mine"
    assert ("ground truth: feature_description", "someone--mine/test.parquet") in files  # where the Space reads it
    assert "target: ownmodel" in (run_on_directory / "recipe.yaml").read_text()  # the run is unchanged


def test_predictions_with_a_different_set_of_systems_are_planned(run_dir, tmp_path):
    path = run_dir / "predictions" / "input_ablation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    few = [{**row, "answers": {"explainer": row["answers"]["explainer"]}} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in few))
    update_manifest(run_dir)
    plan = make_plan(run_dir, "lab", tmp_path / "staging")
    repository = next(part for part in plan.repositories if part.title == "results")
    file = next(file for file in repository.files if file.path == "quickstart/predictions/input_ablation.jsonl")
    assert file.written_from == tmp_path / "staging" / "run" / "predictions" / "input_ablation.jsonl"
    published = [json.loads(line) for line in file.source.read_text().splitlines()]
    assert [[answer["system"] for answer in row["answers"]] for row in published] == [["explainer"]] * len(rows)
    assert "schema_version" not in published[0]  # files with different columns do not load as one table
