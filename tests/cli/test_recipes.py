"""Test `selfexplain recipes`."""


def test_recipes_are_listed_with_time_and_memory(invoke):
    lines = invoke("recipes").stdout
    assert lines.startswith("quickstart\n") and "About 6 minutes and 4 GB of memory on 2 CPU cores." in lines


def test_one_recipe_is_shown_with_its_estimated_memory(invoke):
    result = invoke("recipes", "quickstart", "training.batch_size=64")
    assert result.exit_code == 0, result.output
    assert "On a GPU: " in result.stdout and "training: " in result.stdout
    assert "ground truth: " in result.stdout


def test_a_recipe_whose_models_are_not_available_has_no_estimate(invoke):
    result = invoke("recipes", "qwen3_0.6b")
    assert result.exit_code == 0 and "The memory cannot be estimated" in result.stdout
