"""Find the parts of a causal language model by their structure, independent of the architecture's name."""

import inspect
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError
from selfexplain.target.private_copy import private_copy

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Site = Literal["residual", "attention", "mlp"]


def backbone(model: "PreTrainedModel") -> nn.Module:
    """The model without its head: the module that maps embeddings to final hidden states.

    Of a multimodal model, the text decoder.
    """
    if model.config.get_text_config() is model.config and hasattr(model, model.base_model_prefix):
        return getattr(model, model.base_model_prefix)
    return model.get_decoder()


def decoder_blocks(model: "PreTrainedModel") -> nn.ModuleList:
    """The decoder blocks in order: the only `ModuleList` of the backbone whose length is the number of layers.

    Raises:
        SelfExplainError: the backbone has no such list, or more than one.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if len(lists) != 1:
        raise SelfExplainError(
            f"{type(model).__name__} has {len(lists)} lists of {n_layers} modules; expected exactly one, the decoder "
            "blocks. Choose a decoder-only causal language model."
        )
    return lists[0]


def context_length(config: "PreTrainedConfig") -> int:
    """The maximum number of tokens that the model can read.

    For a model without position embeddings (BLOOM), the length that it was trained on, or 2048 if that is unknown.
    """
    text = config.get_text_config()
    return getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None) or 2048


def execution_device(module: nn.Module) -> torch.device:
    """The device on which a module runs. accelerate keeps offloaded weights on the meta device until then."""
    parameter = next(module.parameters())
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return parameter.device if device is None or not parameter.is_meta else torch.device(device)


@torch.no_grad()
def embedding_site(model: "PreTrainedModel") -> tuple[float, nn.Module | None]:
    """How the backbone transforms `inputs_embeds` before block 0, measured by running it up to block 0.

    Some architectures scale embeddings (Granite), some normalise them (BLOOM), and some only add position embeddings,
    which are ignored here.

    Returns:
        The scaling factor, and the normalising module or None. Block 0 reads the input embedding times the factor, or
        the output of the module.

    Raises:
        SelfExplainError: embeddings are transformed in an unsupported way.
    """
    found = norms_before_blocks(model)
    model = private_copy(model).eval()  # no dropout; other threads may run the model meanwhile
    embeddings = model.get_input_embeddings()
    weight, device = embeddings.weight, execution_device(embeddings)
    try:
        ids = torch.zeros(1, 1, dtype=torch.long, device=device)
        embedded = embeddings(ids)  # (1, 1, d)
        read = _entering_block_0(model, input_ids=ids)
        ramp = torch.arange(3, dtype=weight.dtype, device=device)[:, None, None]
        zero, one, two = _entering_block_0(model, inputs_embeds=ramp.expand(3, *embedded.shape[1:]).contiguous())
        same = torch.allclose(read, _entering_block_0(model, inputs_embeds=embedded), rtol=1e-2, atol=1e-3)
        norms = norms_before_blocks(model)
        normed = len(norms) == 1 and torch.allclose(read, norms[0](embedded).float(), rtol=1e-2, atol=1e-3)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SelfExplainError(
            f"{type(model).__name__} does not run on input embeddings ({error}). Choose a base model that accepts "
            "`inputs_embeds`."
        ) from error
    factor = (one - zero).mean()
    if same and factor > 1e-3 and torch.allclose(two - one, factor.expand_as(one), rtol=1e-2):
        return round(factor.item(), 6), None
    if same and normed:
        return 1.0, found[0]
    raise SelfExplainError(
        f"{type(model).__name__} transforms input embeddings before block 0 by more than a factor, a norm and position "
        "embeddings, so vectors cannot be written there. Choose a different base model."
    )


class _ReachedBlock0(Exception):
    """Raised to end a forward pass before block 0."""


def _entering_block_0(model: "PreTrainedModel", **inputs: Tensor) -> Tensor:
    """The input of block 0, `(B, T, d)` float32."""
    seen: list[Tensor] = []

    def stop(module, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _ReachedBlock0

    handle = decoder_blocks(model)[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        backbone(model)(use_cache=False, **inputs)
    except _ReachedBlock0:
        pass
    finally:
        handle.remove()
    return seen[0].float()


def norms_before_blocks(model: "PreTrainedModel") -> list[nn.Module]:
    """The normalising modules next to the decoder blocks that come before them."""
    blocks = decoder_blocks(model)
    siblings = next(found for m in backbone(model).modules() if blocks in (found := list(m.children())))
    return [m for m in siblings[: siblings.index(blocks)] if "Norm" in type(m).__name__]


def attention_and_mlp(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The attention and the MLP of a block: its two children with weight matrices. Only the attention has a cache.

    None if the block is not built of exactly one attention and one MLP.
    """
    parts = [child for child in block.children() if any(p.ndim > 1 for p in child.parameters())]
    parts.sort(key=_keeps_cache, reverse=True)
    return (parts[0], parts[1]) if [_keeps_cache(part) for part in parts] == [True, False] else None


def attention_modules(model: nn.Module) -> list[str]:
    """The names, relative to their block, of all attention modules that have a weight matrix.

    Raises:
        SelfExplainError: a block is not built of one attention and one MLP.
    """
    names: dict[str, None] = {}
    for block in decoder_blocks(model):
        parts = attention_and_mlp(block)
        if parts is None:
            raise SelfExplainError(
                f"{type(block).__name__} is not built of one attention and one MLP. Set target_modules to the names of "
                "linear modules."
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

    The output of a part is taken before the norm or multiplier that some architectures apply to it. If a part receives
    the residual stream and adds it itself (BLOOM), the module is its last linear layer.

    Raises:
        SelfExplainError: the block is not built of one attention and one MLP.
    """
    if site == "residual":
        return block
    parts = attention_and_mlp(block)
    if parts is None:
        raise SelfExplainError(
            f"{type(block).__name__} is not built of one attention and one MLP. Use site='residual' instead."
        )
    part = parts[("attention", "mlp").index(site)]
    if "residual" in _arguments(part):
        return [module for module in part.modules() if isinstance(module, nn.Linear)][-1]
    return part


def _keeps_cache(part: nn.Module) -> bool:
    return not {"past_key_values", "layer_past"}.isdisjoint(_arguments(part))


def _arguments(module: nn.Module) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)
