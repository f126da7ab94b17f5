"""Cards that a reader and the Hub understand, from the files of a run alone."""

import json

import pytest
import yaml

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.cards import write_cards

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
        "tasks": ["activation_patching"],
        "activation_patching": {"n_pairs": 10},
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
        "injection": {"site": "block_output", "block": 1, "scale": None},
    }
    data = tmp_path / "datasets" / "activation_patching"
    data.mkdir(parents=True)
    for split, n in (("train", 4), ("validation", 1), ("test", 2)):
        datasets.Dataset.from_list([{"prompt": "p", "completion": "c"}] * n).to_parquet(data / f"{split}.parquet")
    (data / "statistics.json").write_text(
        json.dumps({"rows": {"train": 4}, "changed_share": 0.48123, "note": "a|b", "words": list("abcdefghij")})
    )
    (tmp_path / "explainer").mkdir()
    (tmp_path / "explainer" / "config.json").write_text(json.dumps(config))
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (tmp_path / "changed").write_text(changed)
    return tmp_path


def front_matter(path):
    from huggingface_hub import RepoCard

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
    settings = card.split("Settings that differ from the defaults:")[1].split("## Results")[0]
    rows = [line for line in settings.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {(run_dir / 'changed').read_text()} | 0.123 |"]


def test_the_lines_to_copy_are_python(run_dir):
    write_cards(run_dir)
    for card in ("model_card", "activation_patching"):
        code = (run_dir / "cards" / f"{card}.md").read_text().split("```python\n")[1].split("```")[0]
        compile(code, card, "exec")


def test_dataset_loads_with_its_card_and_without_its_statistics(run_dir, tmp_path):
    from datasets import load_dataset

    write_cards(run_dir)
    directory = run_dir / "datasets" / "activation_patching"
    for index in range(4):  # left to itself, `datasets` takes the most frequent kind of file for the data
        (directory / f"statistics_{index}.json").write_text("{}")
    data = load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in data.items()} == {"train": 4, "validation": 1, "test": 2}
    assert data["train"].column_names == ["prompt", "completion"]


def test_dataset_card_text(run_dir):
    write_cards(run_dir)
    path = run_dir / "datasets" / "activation_patching" / "README.md"
    assert path.read_text() == (run_dir / "cards" / "activation_patching.md").read_text()
    lines = path.read_text().splitlines()
    assert "| changed share | 0.4812 |" in lines and "| rows.train | 4 |" in lines and r"| note | a\|b |" in lines
    assert "| words | a, b, c, d, e, f, g, h, ... (10 in all) |" in lines
    assert "n_pairs: 10" in lines
    assert any(line.startswith("| clean_log_prob") for line in lines)
    assert not any(line.startswith("| scoring_exemplars") for line in lines)


def test_a_run_that_trained_nothing_has_no_model_card(run_dir):
    (run_dir / "explainer" / "config.json").unlink()
    (run_dir / "explainer").rmdir()
    write_cards(run_dir)
    assert [path.name for path in (run_dir / "cards").iterdir()] == ["activation_patching.md"]


def test_writing_twice_changes_nothing(run_dir):
    write_cards(run_dir)
    first = (run_dir / "cards" / "model_card.md").read_bytes()
    write_cards(run_dir)
    assert (run_dir / "cards" / "model_card.md").read_bytes() == first


def test_an_unfinished_run_is_named(run_dir):
    (run_dir / "results.json").write_text('{"tasks":')
    with pytest.raises(SelfExplainError, match=r"results\.json"):
        write_cards(run_dir)
    (run_dir / "results.json").unlink()
    with pytest.raises(SelfExplainError, match="finish the run"):
        write_cards(run_dir)
