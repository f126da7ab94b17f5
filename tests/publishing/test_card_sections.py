"""Card sections of tasks: registered, generic, and from another distribution."""

import pytest

from selfexplain.publishing.card_sections import CARD_SECTIONS, CardSection, Usage, templates_of
from selfexplain.publishing.markdown import fragment
from selfexplain.tasks import BUILT_IN, TASKS, Task

USAGE = Usage(target_argument="", reads_target=True, has_tokenizer=True, load_rows='"datasets/x"')
TASK = Task(
    name="section_test",
    asks="what happens",
    short_question="What happens?",
    columns={"text": "text"},
    query_columns=("text",),
    metrics=("exact_match",),
    headline="exact_match",
    correct_when="exact match",
    dataset_name="selfexplain-section-test",
    split_unit="text",
)


@pytest.mark.parametrize("task", BUILT_IN, ids=lambda task: task.name)
def test_built_in_tasks_describe_all_their_columns(task):
    assert task.name in CARD_SECTIONS
    rows = fragment(task.name, "columns").splitlines()
    described = [name for row in rows for name in row.split("|")[1].strip().split(", ")]
    assert set(described) >= {name for name in task.columns if name != "hinted"}
    assert all(row.count("|") == 3 for row in rows)
    assert fragment(task.name, "construction") and fragment(task.name, "limits").startswith("- ")


def test_task_without_a_section_gets_the_generic_macros(monkeypatch):
    monkeypatch.setitem(TASKS._values, TASK.name, TASK)
    assert templates_of(TASK.name) == ("tasks/generic.md.jinja",)
    assert fragment(TASK.name, "columns") == "| text | text, part of the question |"
    assert 'load_dataset("datasets/x", split="test")[0]' in fragment(TASK.name, "usage", {}, USAGE)
    assert fragment(TASK.name, "imports", USAGE) == "from datasets import load_dataset"
    assert fragment(TASK.name, "limits") == ""


def test_section_of_another_distribution_overrides_some_macros(monkeypatch, tmp_path):
    path = tmp_path / "mine.md.jinja"
    path.write_text("{% macro construction(task) %}Made for {{ task.title }}.{% endmacro %}")
    monkeypatch.setitem(TASKS._values, TASK.name, TASK)
    monkeypatch.setitem(CARD_SECTIONS._values, TASK.name, CardSection(str(path)))
    assert fragment(TASK.name, "construction") == "Made for section test."
    assert fragment(TASK.name, "columns") == "| text | text, part of the question |"  # the generic macro


def test_missing_template_is_reported():
    with pytest.raises(FileNotFoundError, match=r"tasks/absent\.md\.jinja does not exist"):
        CardSection("tasks/absent.md.jinja")


def test_unknown_macro_is_reported():
    with pytest.raises(LookupError, match="No card template defines the macro 'absent'"):
        fragment("input_ablation", "absent")
