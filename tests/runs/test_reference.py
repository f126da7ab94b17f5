"""Test the generated reference of recipe keys."""

from pathlib import Path

import pytest

from selfexplain.runs.recipe import RECIPE_KINDS, dotted_keys
from selfexplain.runs.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "recipe_reference.md"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m selfexplain.runs.reference > docs/recipe_reference.md"
    )


@pytest.mark.parametrize("kind", ["explainer", "tiny_target"])
def test_every_key_is_described(kind):
    lines = {line.split("|")[1].strip(): line for line in render().splitlines() if line.startswith("| `")}
    for key, _, _ in dotted_keys(RECIPE_KINDS[kind](())):
        meaning = lines[f"`{key}`"].split(" | ")[-1].removesuffix(" |")
        assert len(meaning) > 5, f"{key} has no description"


def test_types_and_defaults_are_those_of_the_dataclasses():
    page = render()
    assert "| `training.epochs` | number | `10` |" in page
    assert "| `target` | text | required |" in page
    assert "| `dtype` | `float32` or `float16` or `bfloat16` | `float32` |" in page
    assert "| `comparison.shares` | list of number | `[]` |" in page
