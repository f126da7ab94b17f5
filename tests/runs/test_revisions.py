"""A run stays with the commits that it found when it first started."""

import json

import pytest

from selfexplain.runs import revisions
from selfexplain.runs.recipe import load_recipe
from selfexplain.runs.revisions import pin

FIRST, LATER = "a" * 40, "b" * 40


@pytest.fixture
def recipe():
    values = [
        "target=lab/target",
        "explainer=lab/other",
        "corpus=lab/texts",
        "activation_patching.source.path=lab/facts",
    ]
    return load_recipe("local_model", values)


def test_a_branch_becomes_a_commit_and_stays_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_commit", lambda *_: FIRST)
    pinned, found = pin(recipe, tmp_path)
    assert pinned.target_revision == pinned.explainer_revision == FIRST
    assert pinned.corpus_options.revision == pinned.activation_patching.source.revision == FIRST
    models, datasets = ("target", "other"), ("texts", "facts")
    assert found == {f"model lab/{name}@main": FIRST for name in models} | {
        f"dataset lab/{name}@main": FIRST for name in datasets
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"revisions": found}))
    monkeypatch.setattr(revisions, "_commit", lambda *_: LATER)
    assert pin(recipe, tmp_path) == (pinned, found)


def test_a_commit_and_what_is_no_hub_id_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_commit", lambda *_: pytest.fail("asked"))
    values = ["target=selfexplain/tiny", "explainer=lab/other", f"explainer_revision={LATER}", "corpus=texts.txt"]
    recipe = load_recipe("local_model", values)
    assert pin(recipe, tmp_path) == (recipe, {})


def test_a_model_and_a_dataset_of_one_name_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "_commit", lambda kind, name, revision: {"model": FIRST, "dataset": LATER}[kind])
    pinned, _ = pin(load_recipe("local_model", ["target=lab/one", "corpus=lab/one"]), tmp_path)
    assert (pinned.target_revision, pinned.corpus_options.revision) == (FIRST, LATER)


def test_a_release_of_saes_and_an_export_are_written_down(tmp_path, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(revisions, "_commit", lambda kind, name, revision: asked.append((kind, name)) or FIRST)
    values = ["evaluation.endpoint=https://example.org/v1", "evaluation.endpoint_model=judge"]
    recipe = load_recipe("gemma_2_2b", values)
    _, found = pin(recipe, tmp_path)
    assert ("model", "google/gemma-scope-2b-pt-res") in asked
    assert found["saes google/gemma-scope-2b-pt-res@main"] == FIRST
    exported = {"neuronpedia layer_4/width_16k/canonical": "0" * 64}
    (tmp_path / "manifest.json").write_text(json.dumps({"revisions": found | exported}))
    monkeypatch.setattr(revisions, "_commit", lambda *_: LATER)
    assert pin(recipe, tmp_path)[1] == found | exported
    assert f"moved from {FIRST} to {LATER}" in caplog.text


def test_without_a_network_the_cache_is_asked(recipe, tmp_path, monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--lab--target" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text(FIRST)
    pinned, found = pin(recipe, tmp_path)
    assert pinned.target_revision == FIRST and found == {"model lab/target@main": FIRST}
    assert pinned.explainer_revision is None and "lab/other" in caplog.text
