"""Test recipes: files and names, overrides, sections of registered tasks, and errors."""

from dataclasses import dataclass, replace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import TASK_CONFIGS, FeatureConfig
from selfexplain.runs.recipe import (
    Expected,
    Recipe,
    describe_packaged,
    dump_recipe,
    load_recipe,
    packaged_recipes,
    read_resolved,
    recipe_type,
)
from selfexplain.tasks import TASKS
from selfexplain.tiny.plugin import TinyTargetRecipe

MINIMAL = """
name: mine
description: A test.
expected: {minutes: 1, memory_gb: 1}
target: selfexplain/tiny
corpus: selfexplain/tiny-world
"""
REQUIRED = {"local_model": ["target=models/mine", "corpus=texts.txt"]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def with_line(path, line):
    path.write_text(MINIMAL + line + "\n")
    return path


@pytest.mark.parametrize("name", [path.stem for path in packaged_recipes()])
def test_packaged_recipes_load_and_read_back_equal(name, tmp_path):
    recipe = load_recipe(name, REQUIRED.get(name, []))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(recipe))
    assert load_recipe(resolved) == recipe
    assert recipe.name == name
    assert describe_packaged()[name] == (recipe.description, recipe.expected.summary)


def test_the_cheapest_recipe_is_listed_first():
    names = list(describe_packaged())
    assert names[0] == "quickstart" and names.index("llama_3.2_1b") < names.index("paper_ablation_qwen3_8b")


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_a_packaged_recipe_is_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name).name == "quickstart"


def test_a_file_takes_precedence_over_the_packaged_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    assert load_recipe("quickstart.yaml").name == "mine"


def test_the_kind_selects_the_dataclass():
    assert isinstance(load_recipe("quickstart"), Recipe)
    assert isinstance(load_recipe("tiny_target"), TinyTargetRecipe)


def test_overrides_are_yaml_and_apply_to_sections(path):
    recipe = load_recipe(
        path, ["evaluation.batch_size=7", "tasks=[input_ablation]", "explainer=null", "seed=3", "expected.minutes=1e-1"]
    )
    assert recipe.evaluation.batch_size == 7
    assert recipe.tasks == ("input_ablation",)
    assert recipe.explainer is None
    assert recipe.seed == 3
    assert recipe.expected.minutes == 0.1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("traget: x", ["'traget'", "'target'"]),
        ("evaluation: {bach_size: 8}", ["'evaluation.bach_size'", "'evaluation.batch_size'"]),
        ("batch_sizes: 8", ["'batch_sizes'", ".batch_size'"]),
    ],
)
def test_the_error_for_an_unknown_key_names_the_nearest_one(path, line, words):
    with pytest.raises(SelfExplainError, match="does not exist") as error:
        load_recipe(with_line(path, line))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluation: {batch_size: many}", ["evaluation.batch_size", "'many'", "integer"]),
        ("training: {lora: {target_modules: 3}}", ["training.lora.target_modules is 3", "string"]),
        ("seed: 1.5", ["seed", "1.5", "integer"]),
        ("seed: true", ["seed", "True", "integer"]),
        ("dtype: float8", ["dtype", "'float8'", "'float32'"]),
        ("tasks: [input_ablatoin]", ["no task 'input_ablatoin'", "Did you mean 'input_ablation'"]),
        ("tasks: [3]", ["tasks.0 is 3", "string"]),
        ("tasks: 3", ["tasks is 3", "array"]),
        ("tasks: []", ["tasks", "at least one"]),
        ("tasks: [input_ablation, input_ablation]", ["each task once"]),
        ("evaluation: 3", ["evaluation", "3", "object"]),
    ],
)
def test_the_error_for_an_invalid_value_names_key_value_and_expected_type(path, line, words):
    with pytest.raises(SelfExplainError, match=r"mine\.yaml") as error:
        load_recipe(with_line(path, line))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("target.name=x", "target is a value, not a section"),
        ("tasks=[", "not valid YAML"),
        ("evaluation.seeds=1", "recipe key 'evaluation.seeds' does not exist"),
    ],
)
def test_invalid_overrides_are_refused(path, override, words):
    with pytest.raises(SelfExplainError, match=words):
        load_recipe(path, [override])


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a b", "<script>", "''"])
def test_a_name_that_is_not_a_file_name_is_refused(path, name):
    with pytest.raises(SelfExplainError, match=r"name: '.*' is not a valid name\. Expected at most 96"):
        load_recipe(path, [f"name={name}"])
    with pytest.raises(SelfExplainError, match="is not a valid name"):
        load_recipe("tiny_target", [f"name={name}"])


def test_the_error_for_missing_values_contains_the_full_command():
    with pytest.raises(SelfExplainError, match="selfexplain run local_model seed=1 target=DIR corpus=FILE"):
        load_recipe("local_model", ["seed=1"])


def test_the_error_for_a_missing_recipe_lists_the_packaged_ones():
    with pytest.raises(SelfExplainError, match=r"does not exist.*quickstart"):
        load_recipe("recipes/none.yaml")


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "\x00"])
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SelfExplainError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_resolved_recipe_has_to_be_of_an_explainer(tmp_path):
    path = tmp_path / "recipe.yaml"
    with pytest.raises(SelfExplainError, match="does not exist"):
        read_resolved(path)
    path.write_text(dump_recipe(load_recipe("tiny_target")))
    with pytest.raises(SelfExplainError, match=r"kind 'tiny_target'\. Expected kind 'explainer'"):
        read_resolved(path)


@pytest.mark.parametrize(
    ("expected", "summary"),
    [
        (Expected(minutes=6, memory_gb=4), "About 6 minutes and 4 GB of memory on 2 CPU cores."),
        (Expected(minutes=1, memory_gb=0.5), "About 1 minute and 0.5 GB of memory on 2 CPU cores."),
        (
            Expected(minutes=720, memory_gb=14, hardware="a GPU", measured=False),
            "About 12 hours and 14 GB of memory on a GPU (an estimate).",
        ),
    ],
)
def test_the_requirements_of_a_recipe_are_one_sentence(expected, summary):
    assert expected.summary == summary


@dataclass(frozen=True)
class SentimentConfig:
    n_rows: int = 50


@pytest.fixture
def fourth_task(monkeypatch):
    """A task that a plug-in registers, with its own settings."""
    task = replace(TASKS["input_ablation"], name="continuation_sentiment")
    monkeypatch.setitem(TASKS._values, task.name, task)
    monkeypatch.setitem(TASK_CONFIGS._values, task.name, SentimentConfig)
    return task.name


def test_a_registered_task_gets_a_section(path, fourth_task, tmp_path):
    recipe = load_recipe(with_line(path, f"tasks: [{fourth_task}]\n{fourth_task}: {{n_rows: 100}}"))
    assert isinstance(recipe, Recipe) and recipe.tasks == (fourth_task,)
    assert recipe.settings(fourth_task) == SentimentConfig(n_rows=100)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(recipe))
    assert load_recipe(resolved) == recipe
    assert recipe_type() is recipe_type([fourth_task]) is type(recipe)
    assert recipe_type(["tasks", "seed"]) is Recipe


def test_a_registered_task_has_default_settings(path, fourth_task):
    assert load_recipe(with_line(path, f"tasks: [{fourth_task}]")).settings(fourth_task) == SentimentConfig()
    assert load_recipe(path).settings(fourth_task) == SentimentConfig()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("continuation_sentiment: {n_row: 100}", "Did you mean 'continuation_sentiment.n_rows'"),
        ("continuation_sentment: {n_rows: 100}", "Did you mean 'continuation_sentiment'"),
        ("continuation_sentiment: {n_rows: many}", "continuation_sentiment.n_rows is 'many'"),
        ("tasks: [continuation_sentimen]", "Did you mean 'continuation_sentiment'"),
    ],
)
def test_errors_name_the_section_of_a_registered_task(path, fourth_task, line, words):
    with pytest.raises(SelfExplainError, match=words):
        load_recipe(with_line(path, line))


def test_settings_are_found_by_task_and_by_type(path):
    recipe = load_recipe(path, ["tasks=[input_ablation]", "input_ablation.n_rows=7"])
    assert recipe.settings("input_ablation").n_rows == 7
    assert recipe.find_settings(FeatureConfig) is None
    assert load_recipe(path).find_settings(FeatureConfig) == FeatureConfig()
    with pytest.raises(SelfExplainError, match="no task 'none'"):
        recipe.settings("none")


def test_the_recipe_of_an_earlier_run_is_read_with_the_present_names_of_its_keys(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(load_recipe("quickstart", ["training.activation_checkpointing=true"])))
    path.write_text(path.read_text().replace("activation_checkpointing", "gradient_checkpointing"))
    recipe = read_resolved(path)
    assert recipe.training.activation_checkpointing
    with pytest.raises(SelfExplainError, match=r"gradient_checkpointing.*Did you mean"):
        load_recipe(path)
