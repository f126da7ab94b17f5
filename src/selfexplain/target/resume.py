"""Run many variants of a few prompts, and compute nothing twice that a variant shares with its prompt.

A clean run keeps keys, values and block outputs. A variant that differs from token `start` on runs on these tokens
alone, with the clean keys and values before them; one that differs after block `after` starts there. The blocks up to
that one are replaced by what they are known to return and the model itself runs the rest: no architecture's layers are
called by hand, so masks, rotary embeddings, sliding windows and experts stay the model's own business.

Batches are padded on the right and carry no mask, since no token of a causal model sees what comes after it. The head,
and the MLP of the last block, are applied only at the positions that are read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from selfexplain.target.blocks import Site, attention_and_mlp, decoder_blocks, site_module

MAX_ROWS = 256
MAX_TOKENS = 4096  # of a batch: a CPU's cache should hold them, and a small GPU their keys and values
PADDING = 1.06  # at most this many times the tokens that are needed
SMALL = 512  # tokens that a CPU runs in little more time than one: batches below that are filled up at any padding
SMALL_ELSEWHERE = 2048


@dataclass(frozen=True)
class CleanRun:
    """What a run of prompts, padded on the right, leaves for their variants.

    Attributes:
        input_ids: `(B, T)`.
        lengths: `(B,)`, tokens of each prompt.
        hidden: layer -> block output `(B, T, d)`, of the layers asked for.
        outputs: layer -> output of the site asked for, `(B, T, d)`; of the residual stream, these are `hidden`.
        keys, values: of each block, `(B, n_heads, T, d_head)`.
        in_tuples: whether blocks return tuples, whose first entry is their output.
        logits: of the next token, `(B, vocabulary)` float32.
    """

    input_ids: Tensor
    lengths: Tensor
    hidden: dict[int, Tensor]
    outputs: dict[int, Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    in_tuples: bool
    logits: Tensor


def batches(spans: Sequence[tuple[int, int]], device: torch.device, fill: bool = True) -> Iterator[list[int]]:
    """Indices of `(start, end)` spans of tokens, grouped so that they can run together from the least start on.

    Spans of like start and end go together: padding is at most `PADDING`, except that batches which cost little are
    filled up, unless `fill` is False.
    """
    on_cpu = device.type == "cpu"
    small = (SMALL if on_cpu else SMALL_ELSEWHERE) if fill else 0
    batch: list[int] = []
    first = last = needed = 0
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        start, end = spans[index]
        if batch:
            area = (len(batch) + 1) * (max(last, end) - first)
            padded = area > max(small, PADDING * (needed + end - start))
            if area > MAX_TOKENS or padded or len(batch) == MAX_ROWS:
                yield batch
                batch = []
        if not batch:
            first, last, needed = start, end, 0
        batch.append(index)
        last, needed = max(last, end), needed + end - start
    if batch:
        yield batch


def padded(prompts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Token ids `(B, T)`, padded on the right with each prompt's own last token: models warn of padding tokens."""
    longest = max(map(len, prompts))
    return torch.tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in prompts], device=device)


@torch.no_grad()
def clean_run(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    layers: Sequence[int] = (),
    site: Site = "residual",
    cached: bool = True,
) -> CleanRun:
    """Run prompts together, keeping the outputs of `site` at `layers`.

    Of another site than the residual stream, the outputs of the blocks before `layers` are kept too: a patch of that
    site resumes there. Without `cached` there are no keys and values, and nothing can resume.
    """
    blocks = decoder_blocks(model)
    lengths = torch.tensor([len(ids) for ids in prompts], device=model.device)
    input_ids = padded(prompts, model.device)
    hidden: dict[int, Tensor] = {}
    outputs = hidden if site == "residual" else {}
    forms: list[bool] = []
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(hooked(site_module(blocks[layer], site), _keep(outputs, layer)))
            if site != "residual" and layer:
                stack.enter_context(hooked(blocks[layer - 1], _keep(hidden, layer - 1)))
        stack.enter_context(hooked(blocks[0], lambda module, args, output: forms.append(isinstance(output, tuple))))
        stack.enter_context(_head_at(model, lengths[:, None] - 1))
        cache = DynamicCache() if cached else None
        logits = model(input_ids=input_ids, past_key_values=cache, use_cache=cached).logits[:, 0].float()
    keys, values = ([x.keys for x in cache.layers], [x.values for x in cache.layers]) if cache else ([], [])
    return CleanRun(input_ids, lengths, hidden, outputs, keys, values, forms[0], logits)


@torch.no_grad()
def resume(
    model: PreTrainedModel,
    clean: CleanRun,
    rows: Tensor,
    start: int,
    after: int,
    input_ids: Tensor,
    read: Tensor,
    hooks: Sequence[tuple[nn.Module, Callable]] = (),
) -> Tensor:
    """Logits `(N, k, vocabulary)`, float32, of variants that share their first tokens and blocks with clean prompts.

    Args:
        rows: `(N,)`, the prompt of `clean` that each variant starts from.
        start: how many tokens it shares, the same for all.
        after: the last block that it shares, -1 for none.
        input_ids: `(N, S)`, the tokens from `start` on.
        read: `(N, k)`, which of these positions are read.
        hooks: forward hooks, open while the model runs; those of block `after` see its clean output.
    """
    blocks = decoder_blocks(model)
    with ExitStack() as stack:
        if after >= 0:
            hidden = clean.hidden[after]
            shared = hidden[rows.to(hidden.device), start : start + input_ids.shape[1]]
            for layer in range(after + 1):
                stack.enter_context(
                    _computing(blocks[layer], lambda *_, **__: (shared, None) if clean.in_tuples else shared)
                )
        for module, hook in hooks:
            stack.enter_context(hooked(module, hook))
        stack.enter_context(_head_at(model, read))
        stack.enter_context(_last_mlp_at(blocks[-1], read, [module for module, _ in hooks]))
        cache = _prefix(clean, rows, start, after)
        return model(input_ids=input_ids, past_key_values=cache, use_cache=True).logits.float()


@torch.no_grad()
def full_forward(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    hooks: Sequence[tuple[nn.Module, Callable]] = (),
    read: Tensor | None = None,
) -> Tensor:
    """Logits `(B, k, vocabulary)`, float32, with nothing shared: slower, and right for any architecture.

    Args:
        read: `(B, k)`, the positions that are read; None for the last of each prompt.
    """
    if read is None:
        read = torch.tensor([[len(ids) - 1] for ids in prompts], device=model.device)
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.enter_context(hooked(module, hook))
        stack.enter_context(_head_at(model, read))
        return model(input_ids=padded(prompts, model.device), use_cache=False).logits.float()


@contextmanager
def hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    """While open, `hook` is a forward hook of `module`."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _keep(outputs: dict[int, Tensor], layer: int) -> Callable:
    def hook(module, args, output):
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    return hook


@contextmanager
def _computing(module: nn.Module, forward: Callable) -> Iterator[None]:
    """While open, `module` computes `forward` instead of its own; its hooks still run."""
    own = module.__dict__.get("forward")  # set where accelerate has placed a model on several devices
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _prefix(clean: CleanRun, rows: Tensor, start: int, after: int) -> DynamicCache:
    """Clean keys and values of the first `start` tokens, `(N, n_heads, start, d_head)` in each block that is run."""
    cache = DynamicCache()
    if start:
        for layer, (keys, values) in enumerate(zip(clean.keys, clean.values, strict=True)):
            needed = rows if layer > after else rows[:1] if layer == 0 else rows[:0]  # block 0 tells the cache's length
            needed = needed.to(keys.device)
            cache.update(keys[needed, :, :start], values[needed, :, :start], layer)
    return cache


@contextmanager
def _head_at(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """While open, the head is applied at `positions (B, k)` alone: logits are `(B, k, vocabulary)`."""
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (_at(args[0], positions),))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _last_mlp_at(block: nn.Module, positions: Tensor, hooked_modules: Sequence[nn.Module]) -> Iterator[None]:
    """While open, the MLP of `block`, the last, runs at `positions (B, k)` alone, and gives zeros elsewhere.

    Not so where a hook is inside of it and would miss the other positions.
    """
    parts = attention_and_mlp(block)
    if parts is None or any(module in hooked_modules for module in list(parts[1].modules())[1:]):
        yield
        return
    forward = parts[1].forward

    def at_positions(hidden: Tensor, *args: Tensor) -> Tensor:
        output = forward(*(_at(x, positions) for x in (hidden, *args)))
        index = positions.to(output.device)[:, :, None].expand_as(output)
        return torch.zeros_like(hidden).scatter(1, index, output)

    with _computing(parts[1], at_positions):
        yield


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    """`(B, S, d)` at positions `(B, k)`: `(B, k, d)`."""
    index = positions.to(hidden.device)[:, :, None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)
