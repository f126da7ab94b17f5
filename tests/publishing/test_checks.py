"""What is refused before the first request to the Hub."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from hub.published import update_manifest
from selfexplain.errors import SelfExplainError
from selfexplain.publishing import checks
from selfexplain.publishing.checks import check_limits, check_organisation, check_secrets, check_text
from selfexplain.publishing.plan import make_plan
from selfexplain.publishing.repositories import PublishedFile, PublishedRepository


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def unfinished(run_dir):
    edit_json(run_dir / "manifest.json", lambda manifest: manifest["stages"]["evaluate"].update(status="stopped"))


def evaluated_only(run_dir):
    edit_json(run_dir / "manifest.json", lambda manifest: manifest["stages"].pop("train"))


def no_manifest(run_dir):
    (run_dir / "manifest.json").unlink()


def truncated(run_dir):
    path = run_dir / "explainer" / "lora" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def changed_file(run_dir):
    path = run_dir / "explainer" / "config.json"
    path.write_text(path.read_text() + " ")


def deleted_rows(run_dir):
    (run_dir / "datasets" / "input_ablation" / "test.parquet").unlink()


def task_without_results(run_dir):
    edit_json(run_dir / "results.json", lambda results: results["tasks"].pop("input_ablation"))
    update_manifest(run_dir)


def explainer_without_scores(run_dir):
    edit_json(run_dir / "results.json", lambda results: results["tasks"]["input_ablation"]["scores"].pop("explainer"))
    update_manifest(run_dir)


def rows_of_another_split(run_dir):
    directory = run_dir / "datasets" / "input_ablation"
    shutil.copy(directory / "train.parquet", directory / "test.parquet")
    update_manifest(run_dir)


def local_path(run_dir):
    path = run_dir / "explainer" / "lora" / "adapter_config.json"
    path.write_text(path.read_text().replace("selfexplain/tiny", "/home/someone/models/tiny"))
    update_manifest(run_dir)


def local_path_in_a_sentence(run_dir):
    def add_path(results):
        results["environment"]["versions"]["texts"] = "made of '/home/someone/texts.jsonl'."

    edit_json(run_dir / "results.json", add_path)
    update_manifest(run_dir)


def local_path_in_rows(run_dir):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (run_dir / "datasets" / "feature_description").glob("t*.parquet"):
        rows = pq.read_table(path)
        index = rows.schema.get_field_index("sae_release")
        names = pa.array(["/home/someone/saes"] * len(rows), rows.schema.field(index).type)
        pq.write_table(rows.set_column(index, rows.schema.field(index), names), path)
    update_manifest(run_dir)


def token_in_predictions(run_dir):
    path = run_dir / "predictions" / "input_ablation.jsonl"
    first, *rest = path.read_text().splitlines()
    line = json.dumps({**json.loads(first), "completion": "hf_" + "Z9" * 17})
    path.write_text("\n".join([line, *rest]) + "\n")
    update_manifest(run_dir)


def private_key(run_dir):
    edit_json(
        run_dir / "datasets" / "input_ablation" / "statistics.json",
        lambda statistics: statistics.update(note="-----BEGIN RSA PRIVATE KEY-----"),
    )
    update_manifest(run_dir)


def invalid_name(run_dir):
    path = run_dir / "recipe.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "name": "mine--yours"}))


def trusted_code(run_dir):
    path = run_dir / "recipe.yaml"
    path.write_text(path.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (trusted_code, ["was run with trust_remote_code=true", "Such a run is not published"]),
        (unfinished, ["is not finished: evaluate not done", "Run the recipe again"]),
        (evaluated_only, ["evaluated 'selfexplain/tiny' and did not train an explainer", "Publish the run"]),
        (no_manifest, ["is not a run"]),
        (truncated, ["lora/adapter_model.safetensors has", "deleted or truncated", "Run the recipe again"]),
        (changed_file, ["explainer/config.json has", "was changed: restore or delete it. Run the recipe again"]),
        (deleted_rows, ["input_ablation/test.parquet has 0 bytes", "deleted"]),
        (task_without_results, ["results.json has no scores of input_ablation", "Run the recipe again"]),
        (explainer_without_scores, ["has no scores of input_ablation"]),
        (rows_of_another_split, ["test.parquet has", "its statistics count"]),
        (local_path, ["adapter_config.json contains /home/someone/models/tiny", "a path on this machine"]),
        (local_path_in_a_sentence, ["results.json contains /home/someone/texts.jsonl", "a path on this machine"]),
        (local_path_in_rows, ["selfexplain--tiny/test.parquet contain /home/someone/saes", "Build the dataset again"]),
        (token_in_predictions, ["run/predictions/input_ablation.jsonl contains a Hugging Face token", "revoke it"]),
        (private_key, ["statistics.json contains a private key"]),
        (
            invalid_name,
            ["lab/mine--yours-selfexplainer is not a valid repository id", "Change `name` in the recipe"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_run_is_refused(run_dir, tmp_path, damage, words):
    damage(run_dir)
    with pytest.raises(SelfExplainError, match=r".") as error:
        make_plan(run_dir, "lab", tmp_path / "staging")
    assert all(word in str(error.value) for word in words), error.value
    assert "Z9Z9" not in str(error.value)
    assert "staging" not in str(error.value)  # errors name the file of the run, not its copy


@pytest.mark.parametrize("org", ["", "a/b", "a b", "-a"])
def test_invalid_organisation_is_refused(org):
    with pytest.raises(SelfExplainError, match="expected the name of an organisation or user"):
        check_organisation(org)


@pytest.mark.parametrize("org", ["my-lab", "a", "user_1"])
def test_valid_organisation_is_accepted(org):
    check_organisation(org)


def token_in_rows(run_dir):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run_dir / "datasets" / "input_ablation" / "test.parquet"
    rows = pq.read_table(path)
    index = rows.schema.get_field_index("prompt")
    prompts = pa.array([f"é\nmyhf_{'Z9' * 17}"] * len(rows), rows.schema.field(index).type)
    pq.write_table(rows.set_column(index, rows.schema.field(index), prompts), path)
    update_manifest(run_dir)


def token_in_weights(run_dir):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = run_dir / "explainer" / "lora" / "adapter_model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    save_file(load_file(path), path, {**metadata, "note": "hf_" + "Z9" * 17})
    update_manifest(run_dir)


def token_in_figure(run_dir):
    from PIL import Image, PngImagePlugin

    path = run_dir / "figures" / "summary.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "hf_" + "Z9" * 17, zip=True)
    with Image.open(path) as image:
        image.save(path, pnginfo=info)
    update_manifest(run_dir)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (token_in_rows, "test.parquet contains a Hugging Face token"),
        (token_in_weights, "adapter_model.safetensors contains a Hugging Face token"),
        (token_in_figure, "summary.png contains a Hugging Face token .text of the image."),
    ],
)
def test_planted_token_is_found(run_dir, tmp_path, plant, words):
    plant(run_dir)
    with pytest.raises(SelfExplainError, match=words) as error:
        make_plan(run_dir, "lab", tmp_path / "staging")
    assert "Z9Z9" not in str(error.value)


def test_secrets_in_names_are_found(tmp_path):
    (tmp_path / "hf").write_text("words")
    token = "hf_" + "Z9" * 17
    for path, name in ((f"{token}/x", "x"), ("x", f"my{token}.png")):
        with pytest.raises(SelfExplainError, match="name of a published file or directory contains a Hugging") as error:
            check_secrets(PublishedFile(path, tmp_path / "hf"), tmp_path / name)
        assert "Z9Z9" not in str(error.value)


def test_home_directory_that_is_part_of_links_is_not_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/datasets")
    card = tmp_path / "card.md"
    card.write_text("[rows](https://huggingface.co/datasets/lab/rows)")
    check_text(PublishedFile("card.md", card), card)
    card.write_text("made in /datasets/mine")
    with pytest.raises(SelfExplainError, match="contains /datasets, a path on this machine"):
        check_text(PublishedFile("card.md", card), card)


def test_text_that_looks_like_a_path_is_accepted_in_a_vocabulary(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('["./word"]')
    check_text(PublishedFile("tokenizer.json", path), path)
    with pytest.raises(SelfExplainError, match=r"contains \./word"):
        check_text(PublishedFile("config.json", path), path)


def repository(name: str, *paths: Path) -> PublishedRepository:
    return PublishedRepository("model", name, "explainer", tuple(PublishedFile(path.name, path) for path in paths))


def test_limits_of_the_hub(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"0" * 1000)
    check_limits(repository("lab/x", *paths))
    monkeypatch.setattr(checks, "MAX_FILE_BYTES", 999)
    with pytest.raises(SelfExplainError, match="Save it in smaller shards"):
        check_limits(repository("lab/x", *paths))
    monkeypatch.undo()
    monkeypatch.setattr(checks, "MAX_FILES_IN_DIRECTORY", 2)
    check_limits(repository("lab/x", *paths[:2]))
    with pytest.raises(SelfExplainError, match="the root contains more than 2 files"):
        check_limits(repository("lab/x", *paths))


@pytest.mark.parametrize("name", ["a--b", "a..b", "-a", "a-", "a b", "x" * 97])
def test_invalid_repository_name_is_refused(name):
    with pytest.raises(SelfExplainError, match="is not a valid repository id"):
        check_limits(repository(f"lab/{name}"))
    check_limits(repository("lab/" + "x" * 96))
