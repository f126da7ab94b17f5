"""Settings: what results depend on, and where tables are read from."""

from dataclasses import dataclass

from selfexplain.groundtruth.config import (
    TASK_CONFIGS,
    AblationConfig,
    FeatureConfig,
    PairSource,
    PatchingConfig,
    QuestionSource,
    result_settings,
    source_path,
)
from selfexplain.tasks import BUILT_IN


def test_settings_that_only_change_the_speed_are_left_out():
    fast, slow = FeatureConfig(endpoint_concurrency=99, endpoint_timeout=1.0), FeatureConfig()
    assert result_settings(fast) == result_settings(slow)
    assert result_settings(FeatureConfig(n_top=3)) != result_settings(slow)


def test_the_table_of_a_task_is_found_in_its_settings():
    assert source_path(PatchingConfig(source=PairSource(path="pairs.csv"))) == "pairs.csv"
    assert source_path(AblationConfig(source=QuestionSource(path="cais/mmlu"))) == "cais/mmlu"
    assert source_path(FeatureConfig(pairs=PairSource(path="facts.json"))) == "facts.json"
    assert source_path(FeatureConfig()) is None


def test_a_task_without_a_table_has_no_path():
    @dataclass(frozen=True)
    class Settings:
        n: int = 1

    assert source_path(Settings()) is None


def test_every_built_in_task_has_settings():
    assert [TASK_CONFIGS[task.name] for task in BUILT_IN] == [FeatureConfig, PatchingConfig, AblationConfig]
