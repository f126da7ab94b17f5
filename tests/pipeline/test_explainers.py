"""Models of a recipe are loaded with its options: trusted code and devices."""

import pytest

from explainers import with_own_code
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.repository import ExplainerFiles
from selfexplain.pipeline.explainers import load_explainer, load_options, load_target_of, load_untrained
from selfexplain.pipeline.preflight import check_training
from selfexplain.pipeline.steps import RecipeSteps
from selfexplain.runs.recipe import load_recipe

SPLIT = "device_map={model.embed_tokens: cpu, model.layers: cpu, model.norm: cpu, lm_head: cpu, model.rotary_emb: cpu}"


def recipe_of(directory, *values):
    return load_recipe("quickstart", [f"target={directory}", f"corpus={directory}/texts.txt", *values])


@pytest.fixture
def own_dir(target_dir):
    return with_own_code(target_dir)


def test_trusted_code_runs_wherever_the_recipe_loads_a_model(own_dir, tmp_path):
    recipe = recipe_of(own_dir, "trust_remote_code=true")
    target = load_target_of(recipe)
    check_training(recipe, target)
    check_training(recipe_of("selfexplain/tiny", f"explainer={own_dir}", "trust_remote_code=true"), target)
    saved = tmp_path / "saved"
    SelfExplainerForCausalLM.from_base(
        str(own_dir), trust_remote_code=True, lora={"rank": 2, "alpha": 4}
    ).save_pretrained(saved)
    config = ExplainerFiles("saved", str(saved), {}).config(trust_remote_code=True)
    for explainer in (load_explainer(recipe, str(saved)), load_untrained(recipe, config)):
        assert type(explainer.language_model).__name__ == "OwnForCausalLM"


def test_code_is_not_trusted_by_default(own_dir):
    recipe = recipe_of(own_dir)
    with pytest.raises(SelfExplainError, match="set trust_remote_code to true"):
        load_target_of(recipe)
    assert "trust_remote_code" not in RecipeSteps(recipe, own_dir / "run").identity
    trusting = RecipeSteps(recipe_of(own_dir, "trust_remote_code=true"), own_dir / "run")
    assert trusting.identity["trust_remote_code"] == "true"


def test_a_base_with_its_own_code_is_not_saved_inside_an_explainer(own_dir, tmp_path):
    explainer = SelfExplainerForCausalLM.from_base(str(own_dir), trust_remote_code=True, lora={"rank": 2, "alpha": 4})
    with pytest.raises(SelfExplainError, match="runs code of its own repository"):
        explainer.merge_and_save(tmp_path / "merged")


@pytest.mark.parametrize("value", ["device_map=cpu", "device_map=auto", "device_map={'': cpu}", SPLIT])
def test_models_are_placed_by_the_device_map(target_dir, tmp_path, value):
    recipe = recipe_of(target_dir, value)
    target = load_target_of(recipe)
    assert load_options(recipe)["device_map"] == recipe.device_map
    plain = load_target_of(recipe_of(target_dir)).model
    ids = plain.dummy_inputs["input_ids"]
    assert (target.model(ids).logits == plain(ids).logits).all()


def test_a_device_map_needs_one_process(target_dir, monkeypatch):
    from selfexplain.pipeline import explainers

    state = type("State", (), {"num_processes": 2, "device": "cpu"})
    monkeypatch.setattr(explainers, "process_state", lambda: state)
    with pytest.raises(SelfExplainError, match="device_map is 'auto', but there are 2 processes"):
        load_target_of(recipe_of(target_dir, "device_map=auto"))


def test_an_unknown_device_is_refused(target_dir):
    with pytest.raises(SelfExplainError, match=r"device_map is 'gpu'\. Expected auto"):
        recipe_of(target_dir, "device_map=gpu")
