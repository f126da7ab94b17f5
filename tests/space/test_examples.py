"""Example questions."""

import json

import pytest

from examples import EXAMPLE_SOURCES, N_HELD_OUT, held_out_examples, read_examples
from selfexplain.errors import SelfExplainError
from selfexplain.tasks import TASKS


def patching_row(group, changed, text="The capital of Peru is"):
    return {"target_prompt": text, "source_prompt": "The capital of Cuba is", "layers": [2, 3], "position": 4,
            "source_position": 3, "token_type": "subject_final", "group": group, "changed": changed}  # fmt: skip


def test_without_a_file_or_rows_the_fallbacks_are_used(show, tmp_path):
    examples = read_examples(tmp_path / "examples.json", {}, show.target)
    assert examples == {task: source.fallback for task, source in EXAMPLE_SOURCES.items()}
    assert all(task in TASKS for task in examples)


def test_curated_examples_come_before_held_out_rows(show, tmp_path):
    curated = {"text": "Oslo", "layer": 1, "token": 0, "note": "A city"}
    path = tmp_path / "examples.json"
    path.write_text(json.dumps({"tasks": {"feature_description": [curated]}}))
    rows = {"activation_patching": [patching_row("a", True), patching_row("b", False)]}
    examples = read_examples(path, rows, show.target)
    assert [example.text for example in examples["feature_description"]] == ["Oslo"]
    assert [example.source_token for example in examples["activation_patching"]] == [3, 3]


def test_a_damaged_file_is_an_error(show, tmp_path):
    path = tmp_path / "examples.json"
    path.write_text("[]")
    with pytest.raises(SelfExplainError, match="expected an object"):
        read_examples(path, {}, show.target)


def test_held_out_rows_alternate_between_changed_and_unchanged_with_one_row_per_group(show):
    rows = [patching_row(f"group {n}", changed=n < 5, text=f"The capital of Peru is {n}") for n in range(10)]
    rows.insert(1, patching_row("group 0", True, "The same group"))
    examples = held_out_examples(EXAMPLE_SOURCES["activation_patching"], rows, show.target)
    assert [example.text[-1] for example in examples] == ["0", "5", "1", "6"] and len(examples) == N_HELD_OUT


def test_rows_that_are_too_long_for_the_demo_are_left_out(show):
    long = "Peru " * 200
    rows = [patching_row("a", True, long), patching_row("b", True), patching_row("c", False)]
    examples = held_out_examples(EXAMPLE_SOURCES["activation_patching"], rows, show.target)
    assert [example.text for example in examples] == ["The capital of Peru is"] * 2
