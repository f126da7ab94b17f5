"""The plan of a run: what goes where, and what is refused before anybody is asked."""

import json
import shutil

import pytest
import yaml

from hub.published import update_manifest
from selfexplain.errors import SelfExplainError
from selfexplain.publishing import plan as planning
from selfexplain.publishing.plan import make_plan


def rename(run_dir, name):
    """The same run, as if its target had been called `name`; its rows too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (*run_dir.rglob("*.json"), *run_dir.rglob("*.md"), run_dir / "recipe.yaml"):
        text = path.read_text().replace("selfexplain/tiny-world", "/data/texts/corpus.jsonl")
        path.write_text(text.replace("selfexplain/tiny", name))
    for path in run_dir.rglob("*.parquet"):
        rows = pq.read_table(path)
        index = rows.schema.get_field_index("target_model")
        names = pa.array([name] * len(rows), rows.schema.field(index).type)
        pq.write_table(rows.set_column(index, rows.schema.field(index), names), path)
    update_manifest(run_dir)


def plan(run_dir, tmp_path, **options):
    return make_plan(run_dir, "lab", tmp_path / "staging", **options)


def test_a_plan_names_every_repository_and_file(finished, tmp_path):
    found = {
        repository.id: {file.path for file in repository.files} for repository in plan(finished, tmp_path).repositories
    }
    assert found.keys() == {
        "lab/selfexplain-features", "lab/selfexplain-patching", "lab/selfexplain-ablation", "lab/selfexplain-results",
        "lab/quickstart-selfexplainer",
    }  # fmt: skip
    model = found["lab/quickstart-selfexplainer"]
    assert {"README.md", "config.json", "modeling_selfexplainer.py", "figures/summary.png", "results.json"} <= model
    assert "adapter_config.json" not in model  # there, transformers would load the bare base
    assert "selfexplain--tiny/train.parquet" in found["lab/selfexplain-patching"]
    assert "quickstart/predictions/activation_patching.jsonl" in found["lab/selfexplain-results"]


def test_where_the_command_is_given_does_not_matter(finished, tmp_path, monkeypatch):
    """Containers start in `/`, which is in every link."""
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    assert plan(finished, tmp_path).repositories


def test_a_short_path_of_this_machine_is_told_from_a_link(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/datasets")  # which links hold, too
    assert plan(finished, tmp_path).repositories
    card, file = tmp_path / "card.md", planning.File("card.md", tmp_path / "card.md")
    card.write_text("made in /datasets/mine")
    with pytest.raises(SelfExplainError, match="names /datasets, a path of this machine"):
        planning._check_text(file, None)


@pytest.mark.parametrize("org", ["", "a/b", "a b", "-a"])
def test_an_organisation_that_cannot_be_is_refused(finished, tmp_path, org):
    with pytest.raises(SelfExplainError, match="no organisation or user"):
        make_plan(finished, org, tmp_path / "staging")


def test_scores_are_rows_of_a_table(finished, tmp_path):
    results = next(part for part in plan(finished, tmp_path).repositories if part.title == "results")
    table = next(file for file in results.files if file.path == "quickstart/scores.jsonl")
    rows = [json.loads(line) for line in table.source.read_text().splitlines()]
    truth = json.loads((finished / "results.json").read_text())["tasks"]
    assert len(rows) == sum(len(scores) for task in truth.values() for scores in task["scores"].values())
    row = next(row for row in rows if (row["task"], row["system"]) == ("activation_patching", "explainer"))
    assert row["value"] == truth["activation_patching"]["scores"]["explainer"][row["metric"]]["value"]


def test_a_run_on_a_directory_is_published_under_one_public_name(on_directory, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = str(on_directory.parent)
    with pytest.raises(SelfExplainError, match=rf"{path}/ownmodel, which nobody else can load.*--full.*--base ID"):
        plan(on_directory, tmp_path)
    files = {
        (part.title, file.path): file.source
        for part in plan(on_directory, tmp_path, base="someone/mine").repositories
        for file in part.files
    }
    rows = [source for (_, name), source in files.items() if name.endswith(".parquet")]
    assert len(rows) == 3
    for source in files.values():
        assert path.encode() not in source.read_bytes() and b"./texts" not in source.read_bytes()
    for source in rows:
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
    assert json.loads(files["results", "quickstart/results.json"].read_text())["target"]["name"] == "someone/mine"
    assert ("ground truth: feature_description", "someone--mine/test.parquet") in files  # where the Space looks
    assert "target: ownmodel" in (on_directory / "recipe.yaml").read_text()  # the run stays as it is


def test_a_name_is_replaced_where_it_is_one():
    words = {"/data/mine": "me/mine", "./mine": "me/mine", "mine": "me/mine"}
    text = "name: mine\ntarget: mine\nsaes: /data/mine/saes\nnote: mine, /data/mine2 and a/./mine\n"
    assert planning._reword(text, words) == (
        "name: mine\ntarget: me/mine\nsaes: me/mine/saes\nnote: mine, /data/mine2 and a/./mine\n"
    )
    assert planning._reword('{"name": "mine", "word": "mine"}', words) == '{"name": "me/mine", "word": "mine"}'


def test_a_base_that_others_can_load_takes_no_other_name(finished, tmp_path):
    with pytest.raises(SelfExplainError, match="Leave --base out"):
        plan(finished, tmp_path, base="someone/mine")


def unfinished(run_dir):
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["stages"]["evaluate"]["status"] = "stopped"
    (run_dir / "manifest.json").write_text(json.dumps(manifest))


def no_manifest(run_dir):
    (run_dir / "manifest.json").unlink()


def cut_short(run_dir):
    path = run_dir / "explainer" / "lora" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def tampered(run_dir):
    path = run_dir / "explainer" / "config.json"
    path.write_text(path.read_text() + " ")


def lost(run_dir):
    (run_dir / "datasets" / "input_ablation" / "test.parquet").unlink()


def results_of_other_tasks(run_dir):
    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    del results["tasks"]["input_ablation"]
    path.write_text(json.dumps(results))
    update_manifest(run_dir)


def no_scores(run_dir):
    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    del results["tasks"]["input_ablation"]["scores"]["explainer"]
    path.write_text(json.dumps(results))
    update_manifest(run_dir)


def other_rows(run_dir):
    directory = run_dir / "datasets" / "input_ablation"
    shutil.copy(directory / "train.parquet", directory / "test.parquet")
    update_manifest(run_dir)


def local_path(run_dir):
    path = run_dir / "explainer" / "lora" / "adapter_config.json"
    path.write_text(path.read_text().replace("selfexplain/tiny", "/home/someone/models/tiny"))
    update_manifest(run_dir)


def local_path_in_a_sentence(run_dir):
    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({**results, "note": "made of '/home/someone/texts.jsonl'."}))
    update_manifest(run_dir)


def local_path_in_rows(run_dir):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (run_dir / "datasets" / "feature_description").glob("t*.parquet"):
        rows = pq.read_table(path)
        place = rows.schema.get_field_index("sae_release")
        named = pa.array(["/home/someone/saes"] * len(rows), rows.schema.field(place).type)
        pq.write_table(rows.set_column(place, rows.schema.field(place), named), path)
    update_manifest(run_dir)


def secret(run_dir):
    path = run_dir / "predictions" / "input_ablation.jsonl"
    path.write_text(path.read_text() + json.dumps({"group": "x", "answers": {}, "note": "hf_" + "Z9" * 17}) + "\n")
    update_manifest(run_dir)


def private_key(run_dir):
    path = run_dir / "datasets" / "input_ablation" / "statistics.json"
    statistics = json.loads(path.read_text())
    path.write_text(json.dumps({**statistics, "note": "-----BEGIN RSA PRIVATE KEY-----"}))
    update_manifest(run_dir)


def bad_name(run_dir):
    path = run_dir / "recipe.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "name": "mine and yours"}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (unfinished, ["is unfinished: evaluate not done", "Run its recipe again"]),
        (no_manifest, ["is no run"]),
        (cut_short, ["lora/adapter_model.safetensors has", "cut short", "Run its recipe again"]),
        (tampered, ["explainer/config.json has", "changed since; put it back, or delete it. Run its recipe again"]),
        (lost, ["input_ablation/test.parquet has 0 bytes", "lost"]),
        (results_of_other_tasks, ["results.json has no scores of input_ablation", "run the recipe again"]),
        (no_scores, ["has no scores of input_ablation"]),
        (other_rows, ["test.parquet has", "its statistics say"]),
        (local_path, ["adapter_config.json names /home/someone/models/tiny", "a path of this machine"]),
        (local_path_in_a_sentence, ["results.json names /home/someone/texts.jsonl", "a path of this machine"]),
        (local_path_in_rows, ["selfexplain--tiny/test.parquet name /home/someone/saes", "Build the dataset again"]),
        (secret, ["run/predictions/input_ablation.jsonl holds a Hugging Face token", "revoke it"]),
        (private_key, ["statistics.json holds a private key"]),
        (bad_name, ["lab/mine and yours-selfexplainer is no name", "Change `name` in the recipe"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_refused(run_dir, tmp_path, damage, words):
    damage(run_dir)
    with pytest.raises(SelfExplainError) as error:
        plan(run_dir, tmp_path)
    assert all(word in str(error.value) for word in words), error.value
    assert "Z9Z9" not in str(error.value)


def test_files_over_the_limits_of_the_hub(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "MAX_FILE_BYTES", 1000)
    with pytest.raises(SelfExplainError, match="Save it in smaller shards"):
        plan(finished, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(planning, "MAX_FILES_IN_DIRECTORY", 2)
    shutil.rmtree(tmp_path / "staging")
    with pytest.raises(SelfExplainError, match="more than 2 files"):
        plan(finished, tmp_path)
