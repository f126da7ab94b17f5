"""Test that a run keeps the commits that its first start found."""

import pytest

from selfexplain.runs import revisions
from selfexplain.runs.manifest import RunManifest
from selfexplain.runs.recipe import load_recipe
from selfexplain.runs.revisions import pin

FIRST, LATER = "a" * 40, "b" * 40


def write_manifest(run_dir, commits):
    RunManifest(identity={}, seed=0, versions={}, revisions=commits).write(run_dir / "manifest.json")


@pytest.fixture
def recipe():
    values = [
        "target=lab/target",
        "explainer=lab/other",
        "corpus=lab/texts",
        "activation_patching.source.path=lab/facts",
    ]
    return load_recipe("local_model", values)


def test_a_branch_is_replaced_by_a_commit_that_later_starts_keep(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_commit", lambda *_: FIRST)
    pinned, commits = pin(recipe, tmp_path)
    assert pinned.target_revision == pinned.explainer_revision == FIRST
    assert pinned.corpus_options.revision == pinned.activation_patching.source.revision == FIRST
    models, datasets = ("target", "other"), ("texts", "facts")
    assert commits == {f"model lab/{name}@main": FIRST for name in models} | {
        f"dataset lab/{name}@main": FIRST for name in datasets
    }
    write_manifest(tmp_path, commits)
    monkeypatch.setattr(revisions, "_commit", lambda *_: LATER)
    assert pin(recipe, tmp_path) == (pinned, commits)


def test_commits_and_names_that_are_not_hub_ids_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_commit", lambda *_: pytest.fail("the Hub was asked"))
    values = ["target=selfexplain/tiny", "explainer=lab/other", f"explainer_revision={LATER}", "corpus=texts.txt"]
    recipe = load_recipe("local_model", values)
    assert pin(recipe, tmp_path) == (recipe, {})


def test_a_model_and_a_dataset_with_the_same_name_have_different_commits(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_commit", lambda kind, name, revision: {"model": FIRST, "dataset": LATER}[kind])
    pinned, _ = pin(load_recipe("local_model", ["target=lab/one", "corpus=lab/one"]), tmp_path)
    assert (pinned.target_revision, pinned.corpus_options.revision) == (FIRST, LATER)


def test_an_sae_release_and_an_export_are_recorded(tmp_path, monkeypatch, caplog):
    requests = []
    monkeypatch.setattr(revisions, "_commit", lambda kind, name, revision: requests.append((kind, name)) or FIRST)
    values = ["evaluation.endpoint=https://example.org/v1", "evaluation.endpoint_model=judge"]
    recipe = load_recipe("gemma_2_2b", values)
    _, commits = pin(recipe, tmp_path)
    assert ("model", "google/gemma-scope-2b-pt-res") in requests
    assert commits["saes google/gemma-scope-2b-pt-res@main"] == FIRST
    exported = {"neuronpedia layer_4/width_16k/canonical": "0" * 64}
    write_manifest(tmp_path, commits | exported)
    monkeypatch.setattr(revisions, "_commit", lambda *_: LATER)
    assert pin(recipe, tmp_path)[1] == commits | exported
    assert f"has moved from {FIRST} to {LATER}" in caplog.text


def test_without_a_network_the_cache_is_read(recipe, tmp_path, monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--lab--target" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text(FIRST)
    pinned, commits = pin(recipe, tmp_path)
    assert pinned.target_revision == FIRST and commits == {"model lab/target@main": FIRST}
    assert pinned.explainer_revision is None and "lab/other" in caplog.text
