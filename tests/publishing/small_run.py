"""The files of a finished run of one task, written without running anything."""

import json
from pathlib import Path

from selfexplain.runs.recipe import dump_recipe, load_recipe

SCORE = {"value": 0.71234, "ci95": [0.6, 0.8]}
DIFFERENCE = {"difference": 0.4, "ci95": [0.3, 0.5], "p_value": 0.001}


def write_small_run(root: Path) -> Path:
    """Write a run of activation patching on a table, with four training rows and two test rows."""
    import datasets

    settings = [
        "name=small", "seed=3", "corpus=corpus.jsonl", "tasks=[activation_patching]",
        "activation_patching.n_pairs=10", "activation_patching.source.kind=pairs",
        "activation_patching.source.path=lab/facts", "activation_patching.source.revision=0123abc",
        "training.learning_rate=0.123",
    ]  # fmt: skip
    (root / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart", settings)))
    (root / "results.json").write_text(json.dumps(small_results()))
    config = {
        "base_model_name_or_path": "selfexplain/tiny",
        "base_model_revision": None,
        "target": {"model": "selfexplain/tiny", "revision": None, "n_layers": 8, "d_model": 96},
        "injection": {"site": "block_output", "block": 1},
    }
    (root / "explainer").mkdir()
    (root / "explainer" / "config.json").write_text(json.dumps(config))
    data = root / "datasets" / "activation_patching"
    data.mkdir(parents=True)
    short, long = patching_row("a", changed=False), patching_row("longer", changed=True)
    for split, rows in {"train": [short, long] * 2, "validation": [short], "test": [short, long]}.items():
        datasets.Dataset.from_list(rows).to_parquet(data / f"{split}.parquet")
    (data / "statistics.json").write_text(json.dumps(small_statistics()))
    return root


def patching_row(text: str, changed: bool) -> dict:
    """A question of activation patching; the columns that cards read."""
    place = {"layers": [2, 3], "position": 4, "source_position": 5, "changed": changed}
    return {"prompt": "p", "completion": "c", "target_prompt": f'"{text}"', "source_prompt": "s", **place}


def small_results() -> dict:
    """`results.json` with one control and one rule."""
    return {
        "schema_version": 1,
        "recipe": "small",
        "target": {"name": "selfexplain/tiny"},
        "explainer": {"name": "selfexplain/tiny", "trained_here": True},
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
                "comparisons": {
                    "explainer - shuffled_vector": {"exact_match": DIFFERENCE},
                    "explainer - lookup_rule": {"has_changed_macro_f1": DIFFERENCE},
                },
            }
        },
        "environment": {"versions": {"torch": "2.13.0"}, "device": "cpu", "seed": 3, "seconds": {"train": 12.5}},
    }


def small_statistics() -> dict:
    """`statistics.json` with a number, a text, a list that is too long to show, and two tables."""
    return {
        "patches": 1234,
        "changed_share": 0.48123,
        "note": "a|b",
        "balance": {"lookup_rule_accuracy": 0.5, "lookup_rule_macro_f1": 0.25},
        "words": list("abcdefghij"),
        "patches_by_token_type": {"last": {"unchanged": 30, "changed": 10}},
        "rows_by_cell": {f"cell {n}": n for n in range(7)},
        "splits": {
            "train": {"rows": 4, "groups": 2},
            "validation": {"rows": 1, "groups": 1},
            "test": {"rows": 2, "groups": 2},
        },
    }
