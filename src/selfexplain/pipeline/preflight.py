"""Check before the first step that a base can be trained, because ground truth for it can take hours."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.runs.recipe import Recipe
from selfexplain.target.load import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_training(recipe: Recipe, target: Target) -> None:
    """Check that the explainer's base has what training needs.

    If the base is not the target, its structure is built from its configuration without weights.

    Raises:
        SelfExplainError: the tokenizer has no end token, or the base lacks the injection's block, the modules that LoRA
            adapts, or an embedding site that vectors can be written to.
    """
    from selfexplain.target.blocks import decoder_blocks, embedding_site

    name = recipe.explainer or recipe.target
    base, tokenizer = (
        (target.model, target.tokenizer) if recipe.explainer in (None, recipe.target) else _skeleton(recipe)
    )
    if tokenizer.eos_token_id is None:
        raise SelfExplainError(
            f"The tokenizer of {name!r} has no end-of-sequence token, which ends every answer. Set eos_token in its "
            "tokenizer_config.json, or choose a different base."
        )
    recipe.injection.check(len(decoder_blocks(base)))
    _check_lora_modules(base, recipe.training.lora.target_modules, name)
    if base is target.model:
        embedding_site(base)


def _skeleton(recipe: Recipe) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The explainer's base on the meta device, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from selfexplain.target.load import target_shape
    from selfexplain.target.tokenizer_files import load_tokenizer

    name, revision, trust = str(recipe.explainer), recipe.explainer_revision, recipe.trust_remote_code
    target_shape(name, revision, trust)  # reports what is wrong with the name or the kind of model
    path = bundled.resolve(name)
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    return model, load_tokenizer(name, path, trust, revision=revision)


def _check_lora_modules(base: "PreTrainedModel", modules: str | Sequence[str], name: str) -> None:
    from selfexplain.target.blocks import attention_modules

    if modules == "attention":
        attention_modules(base)
    if modules in ("attention", "all-linear"):
        return
    names = [path for path, _ in base.named_modules()]
    if isinstance(modules, str):
        missing = [] if any(re.fullmatch(modules, path) for path in names) else [modules]
    else:
        missing = [part for part in modules if not any(f".{path}".endswith(f".{part}") for path in names)]
    if missing:
        linear = sorted({path.rpartition(".")[2] for path, module in base.named_modules() if _is_linear(module)})
        raise SelfExplainError(
            f"training.lora.target_modules has {', '.join(map(repr, missing))}, but no module of {name!r} has such a "
            f"name. Its linear modules are {', '.join(linear)}."
        )


def _is_linear(module: object) -> bool:
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2 and "Embedding" not in type(module).__name__
