"""Local paths are replaced by public names, and only where they are names."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.public_names import (
    base_of,
    choose_public_names,
    copy_with_public_names,
    is_local,
    read_config,
    replace_names,
    rewrite_json_files,
    strings_in,
)
from selfexplain.runs.run_directory import RunDirectory


def test_names_are_replaced_as_values_and_paths_everywhere():
    names = {"/data/mine": "me/mine", "./mine": "me/mine", "mine": "me/mine"}
    text = "name: mine\ntarget: mine\nsaes: /data/mine/saes\nnote: mine, /data/mine2 and a/./mine\n"
    assert replace_names(text, names) == (
        "name: mine\ntarget: me/mine\nsaes: me/mine/saes\nnote: mine, /data/mine2 and a/./mine\n"
    )
    assert replace_names('{"name": "mine", "word": "mine"}', names) == '{"name": "me/mine", "word": "mine"}'
    assert replace_names("mine", names, bare_anywhere=True) == "me/mine"
    assert replace_names(text, {}) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("selfexplain/tiny", False),  # reserved
        ("lab/model", False),
        ("model", True),
        ("./model", True),
        ("/data/model", True),
        ("there/model", True),  # a directory with the form of an id
    ],
)
def test_directories_are_local_names(tmp_path, monkeypatch, name, expected):
    (tmp_path / "there" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_local(name) is expected


def test_strings_of_nested_values():
    assert list(strings_in({"a": ["x", {"b": "y"}], "c": ("z", 1, None)})) == ["x", "y", "z"]


def test_reserved_and_hub_names_stay(finished):
    run = RunDirectory(finished)
    assert choose_public_names(run, run.read_recipe(), full=False, base=None) == {}


def test_typed_and_absolute_paths_get_the_same_public_name(run_dir):
    path = run_dir / "explainer" / "config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = config["target"]["model"] = "/data/models/mine"
    path.write_text(json.dumps(config))
    run = RunDirectory(run_dir)
    recipe = replace(run.read_recipe(), target="./mine", corpus="/data/texts/corpus.jsonl")
    expected = {"/data/models/mine": "me/mine", "./mine": "me/mine", "/data/texts/corpus.jsonl": "corpus.jsonl"}
    assert choose_public_names(run, recipe, full=False, base="me/mine") == expected
    merged = choose_public_names(run, recipe, full=True, base=None)
    assert merged["/data/models/mine"] == merged["./mine"] == "mine"


def test_base_that_others_can_load_keeps_its_name(finished):
    run = RunDirectory(finished)
    assert base_of(run) == "selfexplain/tiny"
    with pytest.raises(SelfExplainError, match=r"which others can load\. Omit --base"):
        choose_public_names(run, run.read_recipe(), full=False, base="someone/mine")


def test_base_must_be_an_id_on_the_hub(run_dir):
    path = run_dir / "explainer" / "config.json"
    path.write_text(path.read_text().replace('"selfexplain/tiny"', '"/data/models/mine"'))
    run = RunDirectory(run_dir)
    with pytest.raises(SelfExplainError, match="--base is 'mine', expected the id of a model on the Hub"):
        choose_public_names(run, run.read_recipe(), full=False, base="mine")
    with pytest.raises(SelfExplainError, match="is the directory /data/models/mine, which others cannot load"):
        choose_public_names(run, run.read_recipe(), full=False, base=None)


def test_damaged_configuration_is_reported(run_dir):
    (run_dir / "explainer" / "config.json").write_text("{")
    with pytest.raises(SelfExplainError, match=r"config\.json cannot be read .*Run the recipe again"):
        read_config(RunDirectory(run_dir))


def test_copy_links_unchanged_files_and_rewrites_names(run_dir, tmp_path):
    run = RunDirectory(run_dir)
    same = RunDirectory(tmp_path / "same")
    copy_with_public_names(run, same, {})
    assert same.recipe_path.is_symlink() and same.results_path.is_symlink()
    assert not same.manifest_path.exists()  # the manifest does not list itself

    renamed = RunDirectory(tmp_path / "renamed")
    copy_with_public_names(run, renamed, {"selfexplain/tiny": "me/mine"})
    assert renamed.read_recipe().target == "me/mine"
    before = pq.read_table(run.dataset("input_ablation").rows("test"))
    after = pq.read_table(renamed.dataset("input_ablation").rows("test"))
    assert set(after["target_model"].to_pylist()) == {"me/mine"}
    assert after.schema.equals(before.schema)
    assert after.drop_columns("target_model").equals(before.drop_columns("target_model"))
    assert run.read_recipe().target == "selfexplain/tiny"


def test_links_and_paths_outside_of_the_run_are_not_copied(run_dir, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    results = run_dir / "results.json"
    results.unlink()
    results.symlink_to(tmp_path / "secret.txt")
    copy = RunDirectory(tmp_path / "copy")
    with pytest.raises(SelfExplainError, match=r"results\.json is a symbolic link"):
        copy_with_public_names(RunDirectory(run_dir), copy, {})
    manifest = run_dir / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"results.json"', f'"{tmp_path}/secret.txt"'))
    with pytest.raises(SelfExplainError, match="is not a relative path inside the run directory"):
        copy_with_public_names(RunDirectory(run_dir), copy, {})


def test_column_of_strings_may_contain_paths_below_a_name(run_dir, tmp_path):
    run = RunDirectory(run_dir)
    path = run.dataset("feature_description").rows("test")
    rows = pq.read_table(path)
    index = rows.schema.get_field_index("sae_release")
    values = pa.array(["/data/mine/saes"] * len(rows), rows.schema.field(index).type)
    pq.write_table(rows.set_column(index, rows.schema.field(index), values), path)
    copy = RunDirectory(tmp_path / "copy")
    copy_with_public_names(run, copy, {"/data/mine": "mine"})
    assert set(pq.read_table(copy.dataset("feature_description").rows("test"))["sae_release"].to_pylist()) == {
        "mine/saes"
    }


def test_vocabulary_of_a_tokenizer_is_not_rewritten(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text('{"name": "./mine"}')
    rewrite_json_files(tmp_path, {"./mine": "me/mine"})
    assert (tmp_path / "config.json").read_text() == '{"name": "me/mine"}'
    assert (tmp_path / "tokenizer.json").read_text() == '{"name": "./mine"}'
