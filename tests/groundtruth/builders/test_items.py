"""The builder of independent items: which builder settings select, and messages about items."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders import BUILDERS
from selfexplain.groundtruth.builders.items import keep_all, report_items
from selfexplain.groundtruth.builders.transluce import PublishedRows
from selfexplain.groundtruth.config import TASK_CONFIGS, AblationConfig, PairSource, PatchingConfig, QuestionSource
from selfexplain.tasks import BUILT_IN, TASKS


def test_every_built_in_task_has_a_builder_for_its_settings():
    for task in BUILT_IN:
        assert BUILDERS[task.name].config_class is TASK_CONFIGS[task.name]


@pytest.mark.parametrize(
    ("task", "config_class", "source"),
    [("activation_patching", PatchingConfig, PairSource), ("input_ablation", AblationConfig, QuestionSource)],
)
def test_published_rows_have_their_own_builder(task, config_class, source):
    builder = BUILDERS[task]
    assert builder.for_config(config_class()) is builder
    published = builder.for_config(config_class(source=source(kind="transluce")))
    assert isinstance(published, PublishedRows) and published.config_class is config_class
    assert published.for_config(config_class()) is published


@pytest.mark.parametrize("task", ["activation_patching", "input_ablation"])
def test_the_columns_for_the_draw_are_columns_of_the_task(task):
    columns = BUILDERS[task].columns_for_draw(TASKS[task])
    assert set(columns) - {"group"} <= set(TASKS[task].columns) and {"group", "changed"} <= set(columns)


def test_all_rows_are_kept_by_default():
    assert keep_all(None, [{}, {}, {}], seed=0) == ([0, 1, 2], {"rows": 3})


def test_missing_and_skipped_items_are_reported(caplog):
    report_items("some task", "pairs", 5, 5, {"too long": 0})
    assert not caplog.records
    report_items("some task", "pairs", 4, 5, {"too long": 1})
    assert "some task: found 4 of 5 requested pairs. 1 skipped: too long" in caplog.text
    with pytest.raises(SelfExplainError, match=r"the source contains no pairs .* 2 skipped: too long\. Use a"):
        report_items("some task", "pairs", 0, 5, {"too long": 2})
    with pytest.raises(SelfExplainError, match="The source is empty"):
        report_items("some task", "pairs", 0, 5, {})
