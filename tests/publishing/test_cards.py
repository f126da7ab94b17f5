"""Cards that a reader and the Hub understand, from the files of a run alone."""

import json
import re
from dataclasses import replace
from html import escape

import pytest
import yaml
from huggingface_hub import RepoCard
from markdown_it import MarkdownIt

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.cards import (
    Licence,
    _code,
    dataset_card,
    model_card,
    read_configuration,
    sections,
    write_cards,
)
from selfexplain.publishing.names import Names

SCORE = {"value": 0.71234, "ci95": [0.6, 0.8]}
LIFT = {"difference": 0.4, "ci95": [0.3, 0.5], "p_value": 0.001}


@pytest.fixture
def run_dir(tmp_path):
    """A finished run of one task, with a base model in a local directory."""
    import datasets

    from selfexplain.training.config import TrainingConfig

    training = {key: value for key, value in vars(TrainingConfig()).items() if isinstance(value, int | float | str)}
    changed = next(key for key, value in training.items() if isinstance(value, float))
    recipe = {
        "name": "small",
        "seed": 3,
        "target": "selfexplain/tiny",
        "corpus": "corpus.jsonl",
        "corpus_options": {"revision": None},
        "tasks": ["activation_patching"],
        "activation_patching": {"n_pairs": 10, "source": {"path": "lab/facts", "revision": "0123abc"}},
        "training": {**training, changed: 0.123},
    }
    results = {
        "schema_version": 1,
        "tasks": {
            "activation_patching": {
                "n_test": 50,
                "n_groups": 20,
                "counts": {"changed": 24, "unchanged": 26},
                "unparsable": {"explainer": 2, "shuffled_vector": 1},
                "scores": {
                    "explainer": {"exact_match": SCORE, "has_changed_macro_f1": SCORE},
                    "shuffled_vector": {"exact_match": {"value": 0.3, "ci95": [0.2, 0.4]}},
                    "lookup_rule": {"has_changed_macro_f1": {"value": 0.5, "ci95": [0.4, 0.6]}},
                },
                "comparisons": {"explainer - shuffled_vector": {"exact_match": LIFT}},
            }
        },
        "environment": {"versions": {"torch": "2.13.0"}, "device": "cpu", "seed": 3, "seconds": {"train": 12.5}},
    }
    config = {
        "base_model_name_or_path": "selfexplain/tiny",
        "base_model_revision": None,
        "target": {"revision": None},
        "injection": {"site": "block_output", "block": 1, "scale": None},
    }
    data = tmp_path / "datasets" / "activation_patching"
    data.mkdir(parents=True)
    for split, n in (("train", 4), ("validation", 1), ("test", 2)):
        datasets.Dataset.from_list([row("a", False), row("longer", True)][:n] * (n // 2 or 1)).to_parquet(
            data / f"{split}.parquet"
        )
    (data / "statistics.json").write_text(
        json.dumps(
            {
                "patches": 1234,
                "changed_share": 0.48123,
                "note": "a|b",
                "balance": {"token_type": 0.5},
                "words": list("abcdefghij"),
                "patches_by_token_type": {"last": {"unchanged": 30, "changed": 10}},
                "splits": {"train": {"rows": 4}, "validation": {"rows": 1}, "test": {"rows": 2}},
            }
        )
    )
    (tmp_path / "explainer").mkdir()
    (tmp_path / "explainer" / "config.json").write_text(json.dumps(config))
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (tmp_path / "changed").write_text(changed)
    return tmp_path


def row(text, changed):
    """A question of activation patching."""
    place = {"layers": [2, 3], "position": 4, "source_position": 5, "changed": changed}
    return {"prompt": "p", "completion": "c", "target_prompt": f'"{text}"', "source_prompt": "s", **place}


def front_matter(path):
    return RepoCard.load(path).data.to_dict()


def test_model_card_metadata(run_dir):
    write_cards(run_dir)
    data = front_matter(run_dir / "explainer" / "README.md")
    assert data["library_name"] == "transformers"
    assert data["base_model"] == "selfexplain/tiny" and data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["selfexplain-patching"]
    metrics = {
        metric["type"]: metric["value"] for entry in data["model-index"][0]["results"] for metric in entry["metrics"]
    }
    assert metrics == {"exact_match": 0.7123, "has_changed_macro_f1": 0.7123}


def test_a_local_base_is_no_name_on_the_hub(run_dir):
    config = run_dir / "explainer" / "config.json"
    config.write_text(config.read_text().replace("selfexplain/tiny", "/data/models/base"))
    write_cards(run_dir)
    assert "base_model" not in front_matter(run_dir / "cards" / "model_card.md")


def test_model_card_text(run_dir):
    write_cards(run_dir)
    card = (run_dir / "cards" / "model_card.md").read_text()
    assert card == (run_dir / "explainer" / "README.md").read_text()
    lines = card.splitlines()
    assert "| explainer | 0.712 [0.600, 0.800] | 0.712 [0.600, 0.800] |" in lines
    assert "| lookup rule |  | 0.500 [0.400, 0.600] |" in lines
    assert "| explainer - shuffled vector | 0.400 [0.300, 0.500] |  |" in lines
    assert "| site | block_output |" in lines
    assert "| versions.torch | 2.13.0 |" in lines
    assert "explain_patch" in card and "explain_ablation" not in card
    settings = card.split("Settings that differ from the defaults:")[1].split("## Provenance")[0]
    rows = [line for line in settings.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {(run_dir / 'changed').read_text()} | 0.123 |"]


def test_the_lines_to_copy_are_python(run_dir):
    write_cards(run_dir)
    for card in ("model_card", "activation_patching"):
        code = (run_dir / "cards" / f"{card}.md").read_text().split("```python\n")[1].split("```")[0]
        compile(code, card, "exec")
    model_card = (run_dir / "cards" / "model_card.md").read_text()
    asked = "patch = explainer.explain_patch(text, vector, layers=[2, 3], position=4)"
    assert all(line in model_card for line in (r'text = "\"longer\""', "[:, 5].mean(0)", asked))  # the one that changes


def test_dataset_loads_with_its_card_and_without_its_statistics(run_dir, tmp_path):
    from datasets import load_dataset

    write_cards(run_dir)
    directory = run_dir / "datasets" / "activation_patching"
    for index in range(4):  # left to itself, `datasets` takes the most frequent kind of file for the data
        (directory / f"statistics_{index}.json").write_text("{}")
    data = load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in data.items()} == {"train": 4, "validation": 1, "test": 2}
    assert data["train"].column_names[:2] == ["prompt", "completion"]


def test_dataset_card_text(run_dir):
    write_cards(run_dir)
    path = run_dir / "datasets" / "activation_patching" / "README.md"
    assert path.read_text() == (run_dir / "cards" / "activation_patching.md").read_text()
    lines = path.read_text().splitlines()
    assert "| changed share | 0.4812 |" in lines and "| train | 4 |" in lines and r"| note | a\|b |" in lines
    assert "| patches | 1,234 |" in lines and "| balance.token type | 0.5 |" in lines
    assert not any(line.startswith("| words") for line in lines)  # long lists are left to statistics.json
    assert "| lookup rule on the test split, has changed macro F1 | 0.500 [0.400, 0.600] |" in lines
    assert (
        "| last | 30 | 10 |" in lines
        and "![How many interventions change the output](activation_patching.png)" in lines
    )
    assert (path.parent / "activation_patching.png").stat().st_size > 1000
    assert "| n_pairs | 10 |" in lines
    assert any(line.startswith("| clean_log_prob") for line in lines)
    assert not any(line.startswith("| scoring_exemplars") for line in lines)


def test_a_run_that_trained_nothing_has_no_model_card(run_dir):
    (run_dir / "explainer" / "config.json").unlink()
    (run_dir / "explainer").rmdir()
    write_cards(run_dir)
    assert {path.name for path in (run_dir / "cards").iterdir()} == {
        "activation_patching.md",
        "activation_patching.png",
    }


def test_writing_twice_changes_nothing(run_dir):
    write_cards(run_dir)
    first = (run_dir / "cards" / "model_card.md").read_bytes()
    write_cards(run_dir)
    assert (run_dir / "cards" / "model_card.md").read_bytes() == first


def test_a_published_card_speaks_of_repositories_and_inherits_its_licence(run_dir):
    names = Names("lab")
    licence = Licence("other", "meadow", "https://example.org/meadow")
    card = model_card(run_dir, "figures/", names, licence)
    data = RepoCard(card).data
    assert data.datasets == ["lab/selfexplain-patching"] and data.license_name == "meadow"
    assert 'from_pretrained("lab/small-selfexplainer")' in card
    assert "![Scores on held-out questions, with controls](figures/summary.png)" in card
    assert "https://huggingface.co/spaces/lab/small-explainer" in card


def test_a_dataset_card_tells_of_every_target(run_dir):
    own = replace(read_configuration(run_dir, "activation_patching"), name="lab--mine")
    other = replace(own, name="lab--other", recipe={**own.recipe, "target": "lab/other"}, vectors_apart=True)
    card = dataset_card("activation_patching", [own, other], Names("lab"))
    configs = RepoCard(card).data.to_dict()["configs"]
    assert [config["config_name"] for config in configs] == ["lab--mine", "lab--other", "lab--other-vectors"]
    assert configs[1]["data_files"][0] == {"split": "train", "path": "lab--other/train.parquet"}
    assert not any("default" in config for config in configs)
    assert 'load_dataset("lab/selfexplain-patching", "lab--mine")' in card
    assert "[lab/other](https://huggingface.co/lab/other)" in card


def test_cards_of_a_real_run(finished):
    """Nothing is left unrendered, tables have one width, and the first rows are shown with their answers."""
    results = json.loads((finished / "results.json").read_text())
    for path in (finished / "cards").glob("*.md"):
        text = path.read_text()
        assert "{{" not in text and "{%" not in text and "None" not in text
        body = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
        for table in re.findall(r"(?:^\|.*\n)+", body, re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table
    card = (finished / "cards" / "model_card.md").read_text()
    row = json.loads((finished / "predictions" / "activation_patching.jsonl").read_text().splitlines()[0])
    assert row["prompt"].strip() in card
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    assert f"<td><code>{escape(row['completion'])}</code></td>" in page  # no tag, as `<<<Lima>>>` would be
    for task, result in results["tasks"].items():
        for metric, score in result["scores"]["explainer"].items():
            low, high = score["ci95"]
            assert f"{score['value']:.3f} [{low:.3f}, {high:.3f}]" in card, (task, metric)


@pytest.mark.parametrize("text", ["`", "a|b", "``a` b", "<<<Lima>>>", "*a* _b_"])
def test_an_answer_in_a_table_is_shown_letter_by_letter(text):
    page = MarkdownIt().enable("table").render(f"|a|\n|---|\n| {_code(text)} |\n")
    assert f"<code>{escape(text)}</code>" in page


def test_an_unfinished_run_is_named(run_dir):
    (run_dir / "results.json").write_text('{"tasks":')
    with pytest.raises(SelfExplainError, match=r"results\.json"):
        write_cards(run_dir)
    (run_dir / "results.json").unlink()
    with pytest.raises(SelfExplainError, match="finish the run"):
        write_cards(run_dir)


def test_cards_name_what_the_rows_were_made_from_and_its_licence(run_dir):
    found = read_configuration(run_dir, "activation_patching")
    card = dataset_card("activation_patching", [replace(found, licences={"lab/facts": "mit"})])
    linked = "[lab/facts](https://huggingface.co/datasets/lab/facts) at 0123abc"
    assert f"Made from {linked}." in card and "- `lab/facts`: mit" in card.splitlines()
    assert f"activation patching on {linked}." in model_card(run_dir, "figures/")
    assert "corpus.jsonl" not in card
    recipe = {**found.recipe, "activation_patching": {"source": {"path": None, "revision": None}}}
    assert "Made from `corpus.jsonl`." in dataset_card("activation_patching", [replace(found, recipe=recipe)])


def test_sets_out_of_distribution_are_configurations_and_scores_of_their_own(run_dir):
    found = read_configuration(run_dir, "activation_patching")
    counts = {"activations": {"vectors": 9, "rows": 8}, "differences": {"vectors": 7, "rows": 7}}
    own = replace(found, statistics={**found.statistics, "out_of_distribution": counts})
    card = dataset_card(
        "feature_description",
        [replace(own, task="feature_description", recipe={**own.recipe, "feature_description": {}})],
    )
    configs = RepoCard(card).data.to_dict()["configs"]
    assert configs[1:] == [
        {"config_name": name, "data_files": [{"split": "test", "path": f"{name}.parquet"}]} for name in counts
    ]
    assert "| activations | 9 | 8 |" in card.splitlines() and "| differences | 7 | 7 |" in card.splitlines()

    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    results["tasks"]["activation_patching"]["out_of_distribution"] = {
        "differences": {**results["tasks"]["activation_patching"], "n_test": 7}
    }
    path.write_text(json.dumps(results))
    card = model_card(run_dir, "figures/")
    assert "### Scores: activation patching, differences\n\n7 rows in 20 groups" in card
    assert [name for name, _ in sections(results["tasks"])] == [
        "activation_patching",
        "activation_patching/differences",
    ]
