"""Overrides from the command line: text is literal, everything else is YAML."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.runs.recipe import dump_recipe, load_recipe

BASE = ["target=x", "corpus=y"]


def load(*overrides):
    return load_recipe("local_model", [*BASE, *overrides])


@pytest.mark.parametrize(
    "text",
    [
        "~/models/mine",
        "texts #1.txt",
        "C: drive",
        "a: b",
        "my texts.txt",
        "modèle/größe 模型.txt",
        "org/Llama-3.2-1B",
        "org/1.0",
        "1.5",
        "null and void",
        "no",
        "- a",
        "@x",
        "{x}",
        "[a]",
        "%x",
        "*x",
        "a=b",
        "it's",
        "'a' and 'b'",
        "back\\slash",
    ],
)
def test_text_is_taken_literally(text, tmp_path):
    recipe = load(f"target={text}", f"corpus={text}", f"explainer={text}")
    assert (recipe.target, recipe.corpus, recipe.explainer) == (text, text, text)
    (tmp_path / "resolved.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_text_in_quotes_is_read_as_yaml():
    recipe = load("corpus='a # b'", 'input_ablation.source.system="two\\nlines"', "target=''")
    assert (recipe.corpus, recipe.input_ablation.source.system, recipe.target) == ("a # b", "two\nlines", "")


@pytest.mark.parametrize("text", ["null", "", "Null"])
def test_null_is_null_only_where_it_is_allowed(text):
    recipe = load(f"explainer={text}", f"corpus={text}")
    assert recipe.explainer is None and recipe.corpus == text


def test_hints_and_column_names_may_contain_any_character():
    source = "input_ablation.source"
    recipe = load(f"{source}.hints.answer=Hint: {{x}} is {{}} #1", f"{source}.columns.question=Q: 1.2 #")
    assert recipe.input_ablation.source.hints["answer"] == "Hint: {x} is {} #1"
    assert recipe.input_ablation.source.columns == {"question": "Q: 1.2 #"}
    assert "my.style" in load(f"{source}.hints.my.style={{}}").input_ablation.source.hints


def test_values_that_are_not_text_are_yaml():
    recipe = load(
        "seed=3", "training.lora.target_modules=[q_proj, v_proj]", "training.bf16=true", "training.epochs=1e1"
    )
    assert recipe.seed == 3 and recipe.training.lora.target_modules == ("q_proj", "v_proj")
    assert recipe.training.bf16 and recipe.training.epochs == 10
    assert load("training.lora.target_modules=attention").training.lora.target_modules == "attention"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("traget=a: b", "recipe key 'traget' does not exist. Did you mean 'target'"),
        ("seed=a: b: c", "The value of override 'seed=a: b: c' is not valid YAML"),
        ("seed=0x_", "is not a valid int"),
        ("seed=[[[[", "is not valid YAML"),
        ("corpus=\udce9t\udce9", "half of a surrogate pair"),
        ("training..epochs=3", "not of the form key=value"),
        ("dtype=float8", "dtype is 'float8'"),
        ("kind=none", "kind is 'none'"),
    ],
)
def test_invalid_overrides_are_refused(override, words):
    with pytest.raises(SelfExplainError, match=words):
        load(override)


@pytest.mark.parametrize("key", ["feature_description", "adapter"])
@pytest.mark.parametrize(("text", "layers"), [("3", (3,)), ("[1, 2]", (1, 2)), ("null", None)])
def test_layers_may_be_one_number_or_a_list(key, text, layers):
    assert getattr(load(f"{key}.layers={text}"), key).layers == layers


def test_layers_of_features_may_be_a_range_or_a_fraction():
    assert load("feature_description.layers=0-3").feature_description.layers == ("0-3",)
    assert load("feature_description.layers=0.5").feature_description.layers == (0.5,)
    with pytest.raises(SelfExplainError, match=r"feature_description\.layers"):
        load("feature_description.layers=true")


@pytest.mark.parametrize(
    "override",
    ["evaluation.batch_size=0", "training.batch_size=-1", "corpus_options.n_texts=0", "activation_patching.n_blocks=0",
     "training.epochs=0", "training.lora.dropout=2", "feature_description.n_activations=-1"],
)  # fmt: skip
def test_numbers_outside_of_their_bounds_are_refused(override):
    key, _, value = override.partition("=")
    with pytest.raises(SelfExplainError, match=rf"{key} is {value}\. Expected (greater|less) than"):
        load(override)
