"""What training would refuse is refused before the first step."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.pipeline.driver import run
from selfexplain.pipeline.preflight import check_training
from selfexplain.runs.recipe import load_recipe
from selfexplain.target.architecture import check_architecture
from selfexplain.target.load import Target


def recipe_of(directory, *values):
    return load_recipe("quickstart", [f"target={directory}", f"corpus={directory}/texts.txt", *values])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["injection.site=block_output", "injection.block=4"], "block"),
        (
            ["training.lora.target_modules=[q_proj, wqkv]"],
            "'wqkv', but no module of .* Its linear modules are down_proj",
        ),
        (["training.lora.target_modules=.*no_such"], "'.*no_such', but no module"),
    ],
)
@pytest.mark.parametrize("explainer", [True, False])
def test_settings_that_do_not_fit_the_base_raise_an_error(target, target_dir, values, message, explainer):
    recipe = (
        recipe_of("selfexplain/tiny", f"explainer={target_dir}", *values)
        if explainer
        else recipe_of(target_dir, *values)
    )
    with pytest.raises(SelfExplainError, match=message):
        check_training(recipe, target)


def test_a_base_without_an_end_token_raises_an_error(target, target_dir):
    target.tokenizer.eos_token, saved = None, target.tokenizer.eos_token
    try:
        with pytest.raises(SelfExplainError, match="no end-of-sequence token"):
            check_training(recipe_of(target_dir), target)
    finally:
        target.tokenizer.eos_token = saved


def test_the_settings_of_the_recipes_fit(target, target_dir):
    check_training(recipe_of(target_dir, "training.lora.target_modules=attention"), target)
    check_training(recipe_of(target_dir, "training.lora.target_modules=[q_proj]"), target)
    assert InjectionConfig().check(4) is None


def test_nothing_is_built_before_the_check(target_dir, tmp_path, monkeypatch):
    (target_dir / "texts.txt").write_text("One text.\n\nAnother text.\n")
    recipe = recipe_of(target_dir, "training.lora.target_modules=[nowhere]")
    with pytest.raises(SelfExplainError, match="'nowhere', but no module"):
        run(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.parquet")) and not (tmp_path / "run" / "manifest.json").exists()


def test_a_base_whose_embeddings_cannot_be_written_raises_an_error(target):
    """Training only: ground truth about such a target can be computed."""
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
    opt = OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16, pad_token_id=0, max_position_embeddings=64)).eval()
    check_architecture(opt, "opt")
    with pytest.raises(SelfExplainError, match="OPTForCausalLM"):
        check_training(recipe_of("opt"), Target(opt, target.tokenizer, "opt"))
