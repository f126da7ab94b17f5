"""Recipes: files and names, overrides, and what bad ones are told."""

import pytest

from selfexplain.tiny.plugin import TinyTargetRecipe

from selfexplain.errors import SelfExplainError
from selfexplain.runs.recipe import (
    Recipe,
    describe_packaged,
    dump_recipe,
    load_recipe,
    packaged_recipes,
)

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
    assert describe_packaged()[name] == (recipe.description, recipe.expected.told)


def test_the_cheapest_recipe_is_named_first():
    names = list(describe_packaged())
    assert names[0] == "quickstart" and names.index("llama_3.2_1b") < names.index("paper_ablation_qwen3_8b")


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_a_packaged_recipe_is_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name).name == "quickstart"


def test_a_file_goes_before_the_packaged_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    assert load_recipe("quickstart.yaml").name == "mine"


def test_kind_decides_the_schema():
    assert isinstance(load_recipe("quickstart"), Recipe)
    assert isinstance(load_recipe("tiny_target"), TinyTargetRecipe)


def test_overrides_reach_sections_and_are_yaml(path):
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
def test_an_unknown_key_names_the_nearest(path, line, words):
    with pytest.raises(SelfExplainError, match="unknown key") as error:
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
        ("tasks: [patching]", ["tasks.0", "'patching'", "'activation_patching'"]),
        ("tasks: []", ["tasks", "at least one"]),
        ("evaluation: 3", ["evaluation", "3", "object"]),
    ],
)
def test_a_wrong_value_names_key_value_and_what_was_expected(path, line, words):
    with pytest.raises(SelfExplainError) as error:
        load_recipe(with_line(path, line))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("target.name=x", "target holds a value"),
        ("tasks=[", "not YAML"),
        ("evaluation.seeds=1", "unknown key 'evaluation.seeds'"),
    ],
)
def test_bad_overrides(path, override, words):
    with pytest.raises(SelfExplainError, match=words):
        load_recipe(path, [override])


def test_missing_values_show_the_full_command():
    with pytest.raises(SelfExplainError) as error:
        load_recipe("local_model", ["seed=1"])
    assert "selfexplain run local_model seed=1 target=DIR corpus=FILE" in str(error.value)


def test_a_missing_recipe_lists_the_packaged_ones():
    with pytest.raises(SelfExplainError, match=r"no such file.*quickstart"):
        load_recipe("recipes/none.yaml")


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SelfExplainError, match=r"broken\.yaml"):
        load_recipe(path)
