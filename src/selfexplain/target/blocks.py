"""Find the parts of a causal language model by structure, not by architecture name."""

import inspect
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Site = Literal["residual", "attention", "mlp"]


def backbone(model: "PreTrainedModel") -> nn.Module:
    """The stack without the head: what maps embeddings to the final hidden states."""
    return getattr(model, model.base_model_prefix)


def decoder_blocks(model: "PreTrainedModel") -> nn.ModuleList:
    """The decoder blocks in order: the one `ModuleList` of the backbone with as many entries as the config has layers.

    Raises:
        SelfExplainError: no such list, or more than one.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if len(lists) != 1:
        raise SelfExplainError(
            f"{type(model).__name__} has {len(lists)} lists of {n_layers} modules where one list of decoder blocks was "
            "expected. Only decoder-only causal language models can be explained."
        )
    return lists[0]


def context_length(config: "PreTrainedConfig") -> int:
    """Tokens that the model can read; of one without position embeddings (BLOOM) what it was trained on, or 2048."""
    text = config.get_text_config()
    return getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None) or 2048


@torch.no_grad()
def embedding_site(model: "PreTrainedModel") -> tuple[float, nn.Module | None]:
    """What the backbone does to `inputs_embeds` on the way to block 0, measured by running it that far.

    Some scale them (Granite), some normalise them (BLOOM), some only add position embeddings, which do not count here.

    Returns:
        The factor, and the module that normalises, or None. Behind that module, or times the factor, an input embedding
        is what block 0 reads.

    Raises:
        SelfExplainError: the way is another one.
    """
    embeddings = model.get_input_embeddings()
    weight = embeddings.weight
    training = model.training
    model.eval()  # no dropout
    try:
        ids = torch.zeros(1, 1, dtype=torch.long, device=weight.device)
        embedded = embeddings(ids)  # (1, 1, d)
        read = _entering_block_0(model, input_ids=ids)
        ramp = torch.arange(3, dtype=weight.dtype, device=weight.device)[:, None, None]
        zero, one, two = _entering_block_0(model, inputs_embeds=ramp.expand(3, *embedded.shape[1:]).contiguous())
        same = torch.allclose(read, _entering_block_0(model, inputs_embeds=embedded), rtol=1e-2, atol=1e-3)
        norms = [module for module in _before_blocks(model) if "Norm" in type(module).__name__]
        normed = len(norms) == 1 and torch.allclose(read, norms[0](embedded).float(), rtol=1e-2, atol=1e-3)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SelfExplainError(
            f"{type(model).__name__} does not run on input embeddings ({error}); an explainer's base has to."
        ) from error
    finally:
        model.train(training)
    factor = (one - zero).mean()
    if same and factor > 1e-3 and torch.allclose(two - one, factor.expand_as(one), rtol=1e-2):
        return round(factor.item(), 6), None
    if same and normed:
        return 1.0, norms[0]
    raise SelfExplainError(
        f"{type(model).__name__} changes input embeddings on their way to block 0 by more than a factor, a norm and "
        "position embeddings, so vectors cannot be written there. Choose another base."
    )


class _Arrived(Exception):
    """Ends a forward pass before block 0."""


def _entering_block_0(model: "PreTrainedModel", **inputs: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def stop(module, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Arrived

    handle = decoder_blocks(model)[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        backbone(model)(use_cache=False, **inputs)
    except _Arrived:
        pass
    finally:
        handle.remove()
    return seen[0].float()


def _before_blocks(model: "PreTrainedModel") -> list[nn.Module]:
    modules = list(backbone(model).children())
    return modules[: modules.index(decoder_blocks(model))]


def attention_and_mlp(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The two parts of a block that have weight matrices, the first of which keeps a cache; None where it is not so."""
    parts = [child for child in block.children() if any(p.ndim > 1 for p in child.parameters())]
    parts.sort(key=_keeps_cache, reverse=True)
    return (parts[0], parts[1]) if [_keeps_cache(part) for part in parts] == [True, False] else None


def attention_modules(model: nn.Module) -> list[str]:
    """Names, within its block, of every module with a weight matrix that belongs to the attention.

    Raises:
        SelfExplainError: blocks that are not built of one attention and one MLP.
    """
    names: dict[str, None] = {}
    for block in decoder_blocks(model):
        parts = attention_and_mlp(block)
        if parts is None:
            raise SelfExplainError(
                f"{type(block).__name__} is not built of one attention and one MLP: name the modules that get LoRA."
            )
        inside = set(parts[0].modules())
        names |= {
            name: None
            for name, module in block.named_modules()
            if module in inside and getattr(getattr(module, "weight", None), "ndim", 0) == 2
        }
    return list(names)


def site_module(block: nn.Module, site: Site) -> nn.Module:
    """The module whose output is a block's `site`: the block itself, its attention, or its MLP (or experts).

    The output of a part is what it computes, before the norm or multiplier that some architectures put behind it.
    Where a part is handed the residual stream and adds it itself (BLOOM), it is the output of its last linear layer.

    Raises:
        SelfExplainError: a block that is not built of one attention and one MLP.
    """
    if site == "residual":
        return block
    parts = attention_and_mlp(block)
    if parts is None:
        raise SelfExplainError(
            f"{type(block).__name__} is not built of one attention and one MLP: patch site='residual' instead."
        )
    part = parts[("attention", "mlp").index(site)]
    if "residual" in _arguments(part):
        return [module for module in part.modules() if isinstance(module, nn.Linear)][-1]
    return part


def _keeps_cache(part: nn.Module) -> bool:
    return not {"past_key_values", "layer_past"}.isdisjoint(_arguments(part))


def _arguments(module: nn.Module) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)
