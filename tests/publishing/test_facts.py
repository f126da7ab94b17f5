"""`card.json`: what it contains, and how files of earlier versions are read."""

import json
from dataclasses import dataclass, field

import pytest

from publishing.small_run import small_results, small_statistics, write_small_run
from selfexplain.errors import SelfExplainError
from selfexplain.publishing.facts import DatasetFacts, changed_settings, flatten, read_facts, source_of
from selfexplain.runs.recipe import load_recipe
from selfexplain.runs.run_directory import RunDirectory


@pytest.fixture
def facts(tmp_path):
    return read_facts(RunDirectory(write_small_run(tmp_path)), "activation_patching")


def test_facts_are_read_from_the_files_of_a_run(facts):
    assert facts.recipe.run == {
        "recipe": "small",
        "target": "selfexplain/tiny",
        "explainer": "selfexplain/tiny",
        "seed": 3,
    }
    assert (facts.recipe.source, facts.recipe.source_revision) == ("lab/facts", "0123abc")
    assert facts.recipe.changed_settings["n_pairs"] == 10
    assert facts.recipe.changed_settings["source.kind"] == "pairs"
    assert "max_text_tokens" not in facts.recipe.changed_settings
    assert (facts.example.prompt, facts.example.completion) == ("p", "c")
    assert facts.statistics.splits["train"].rows == 4
    assert not facts.has_vectors_file and facts.prefix == ""


def test_facts_read_back_equal(facts, tmp_path):
    path = tmp_path / "card.json"
    facts.write(path)
    assert DatasetFacts.read(path) == facts
    assert json.loads(path.read_text())["schema_version"] == 1


def test_counts_are_sorted_into_tables_and_numbers(facts):
    assert facts.change_counts == {"patches_by_token_type": {"last": {"unchanged": 30, "changed": 10}}}
    assert facts.tables == {
        "patches_by_token_type": {"last": {"unchanged": 30, "changed": 10}},
        "rows_by_cell": {f"cell {n}": {"": n} for n in range(7)},
    }
    assert facts.numbers == {
        "patches": 1234,
        "changed_share": 0.48123,
        "note": "a|b",
        "balance.lookup_rule_accuracy": 0.5,
        "balance.lookup_rule_macro_f1": 0.25,
    }


def test_file_without_a_version_is_migrated(tmp_path):
    """Version 0 contained the whole recipe; it named its fields `vectors_apart` and `recipe`."""
    recipe = {
        "name": "old", "seed": 5, "target": "lab/base", "explainer": None, "corpus": "corpus.jsonl",
        "corpus_options": {"revision": None},
        "activation_patching": {"n_pairs": 7, "source": {"path": "lab/facts", "revision": "abc"}},
    }  # fmt: skip
    data = {
        "name": "lab--base",
        "recipe": recipe,
        "statistics": small_statistics(),
        "result": small_results()["tasks"]["activation_patching"],
        "versions": {"torch": "2.0"},
        "example": {"prompt": "p", "completion": "c"},
        "vectors_apart": True,
        "task": "activation_patching",
        "licences": {"lab/base": "mit"},
    }
    path = tmp_path / "card.json"
    path.write_text(json.dumps(data))
    facts = DatasetFacts.read(path)
    assert facts.recipe.run == {"recipe": "old", "target": "lab/base", "explainer": "lab/base", "seed": 5}
    assert (facts.recipe.source, facts.recipe.source_revision) == ("lab/facts", "abc")
    assert facts.recipe.changed_settings == {"n_pairs": 7, "source.path": "lab/facts", "source.revision": "abc"}
    assert facts.has_vectors_file and facts.prefix == "lab--base/"
    assert facts.licences == {"lab/base": "mit"}
    recipe["activation_patching"]["source"]["path"] = None
    path.write_text(json.dumps(data))
    assert DatasetFacts.read(path).recipe.source == "corpus.jsonl"


def test_file_of_a_newer_version_is_refused(facts, tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps({**facts.to_data(), "schema_version": 2}))
    with pytest.raises(SelfExplainError, match="schema version 2"):
        DatasetFacts.read(path)


def test_source_is_the_table_or_else_the_corpus():
    recipe = load_recipe("quickstart", ["corpus=texts.jsonl", "activation_patching.source.path=lab/facts"])
    assert source_of(recipe, "activation_patching") == ("lab/facts", None)
    assert source_of(recipe, "feature_description") == ("texts.jsonl", None)
    assert source_of(recipe, "input_ablation") == ("texts.jsonl", None)


@dataclass(frozen=True)
class Inner:
    path: str | None = None


@dataclass(frozen=True)
class Settings:
    layers: tuple[int, ...] = (1, 2)
    n: int = 3
    inner: Inner = field(default_factory=Inner)


def test_changed_settings_have_dotted_names():
    settings = {"layers": [1, 2], "n": 4, "inner": {"path": "x"}, "unknown": 0}
    assert changed_settings(settings, Settings()) == {"n": 4, "inner.path": "x", "unknown": 0}
    assert changed_settings({"layers": [1, 2], "n": 3, "inner": {"path": None}}, Settings()) == {}


def test_nested_mappings_are_flattened():
    assert dict(flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]})) == {"a.b": 1, "a.c.d": 2, "e": [3]}
