"""Run many variants of a few prompts without recomputing what a variant shares with its prompt.

A clean run keeps keys, values and block outputs. A variant that differs from token `start` on runs only on the tokens
from there on, with the clean keys and values of the tokens before. A variant that differs after block `after` starts at
the next block: the blocks up to `after` are replaced by their known outputs, and the model itself runs the rest. No
architecture's layers are called directly, so masks, rotary embeddings, sliding windows and experts work as the model
defines them.

Batches are padded on the right and need no mask, because in a causal model no token attends to later tokens. The head
and the MLP of the last block are applied only at the positions that are read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from selfexplain.target.blocks import Site, attention_and_mlp, decoder_blocks, site_module

MAX_ROWS = 256  # sequences per batch
MAX_TOKENS = 4096  # tokens per batch: they fit into a CPU's cache, and their keys and values into a small GPU
PADDING = 1.06  # maximum ratio of computed tokens to needed tokens
SMALL = 512  # on a CPU, batches of fewer tokens cost little, so they are filled up regardless of padding
SMALL_ELSEWHERE = 2048  # the same on other devices


@dataclass(frozen=True)
class CleanRun:
    """The results of a run of right-padded prompts that their variants reuse.

    Attributes:
        input_ids: token ids, `(B, T)`.
        lengths: number of tokens of each prompt, `(B,)`.
        hidden: layer -> block output `(B, T, d)`, for the layers at which variants resume.
        outputs: layer -> output of the patched site `(B, T, d)`. For the residual stream, the same as `hidden`.
        keys: keys of each block, `(B, n_heads, T, d_head)`.
        values: values of each block, `(B, n_heads, T, d_head)`.
        in_tuples: whether blocks return tuples whose first entry is the block output.
        logits: next-token logits, `(B, vocabulary)` float32.
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
    """Group token spans into batches that run together from their smallest start on.

    Spans of similar start and end share a batch.

    Args:
        spans: `(start, end)` token spans.
        fill: whether to fill up batches that are cheap to run even if padding exceeds `PADDING`.

    Yields:
        Indices of the spans of one batch.
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
    """Token ids `(B, T)`, padded on the right with each prompt's last token, because models warn about padding ids."""
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
    """Run prompts together and keep the outputs of `site` at `layers`.

    Args:
        prompts: token ids of each prompt.
        layers: layers whose outputs are kept.
        site: module whose outputs are kept. If it is not the residual stream, the outputs of the preceding blocks are
            kept as well, because patches of such a site resume there.
        cached: whether to keep keys and values. Without them no variant can resume.
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
    """Logits `(N, k, vocabulary)`, float32, of variants that share leading tokens and blocks with clean prompts.

    Args:
        clean: results of the clean run.
        rows: row of `clean` that each variant starts from, `(N,)`.
        start: number of leading tokens that every variant shares with its prompt.
        after: last block that every variant shares with its prompt; -1 for none.
        input_ids: tokens from `start` on, `(N, S)`.
        read: positions within `input_ids` whose logits are returned, `(N, k)`.
        hooks: forward hooks that are active while the model runs. Hooks of block `after` receive its clean output.
    """
    blocks = decoder_blocks(model)
    with ExitStack() as stack:
        if after >= 0:
            hidden = clean.hidden[after]
            shared = hidden[rows.to(hidden.device), start : start + input_ids.shape[1]]
            for layer in range(after + 1):
                stack.enter_context(
                    _replaced_forward(blocks[layer], lambda *_, **__: (shared, None) if clean.in_tuples else shared)
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
    """Logits `(B, k, vocabulary)`, float32, without reusing anything: slower, but correct for every architecture.

    Args:
        prompts: token ids of each prompt.
        hooks: forward hooks that are active while the model runs.
        read: positions whose logits are returned, `(B, k)`; None for the last position of each prompt.
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
    """Register a forward hook of `module` inside the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _keep(outputs: dict[int, Tensor], layer: int) -> Callable:
    """A forward hook that stores a module's output in `outputs[layer]`."""

    def hook(module, args, output):
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    return hook


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Replace the `forward` of `module` inside the block; its hooks still run."""
    original = module.__dict__.get("forward")  # set if accelerate has placed the model on several devices
    module.forward = forward
    try:
        yield
    finally:
        if original is None:
            del module.forward
        else:
            module.forward = original


def _prefix(clean: CleanRun, rows: Tensor, start: int, after: int) -> DynamicCache:
    """Clean keys and values of the first `start` tokens, `(N, n_heads, start, d_head)` for each block that runs."""
    cache = DynamicCache()
    if start:
        for layer, (keys, values) in enumerate(zip(clean.keys, clean.values, strict=True)):
            # The model reads the length of the cache from block 0, so block 0 always gets an entry.
            needed = rows if layer > after else rows[:1] if layer == 0 else rows[:0]
            needed = needed.to(keys.device)
            cache.update(keys[needed, :, :start], values[needed, :, :start], layer)
    return cache


@contextmanager
def _head_at(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Apply the head only at `positions (B, k)` inside the block, so logits are `(B, k, vocabulary)`."""
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (_at(args[0], positions),))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _last_mlp_at(block: nn.Module, positions: Tensor, hooked_modules: Sequence[nn.Module]) -> Iterator[None]:
    """Run the MLP of the last block only at `positions (B, k)` and return zeros elsewhere.

    This is skipped if a hook is on a module inside the MLP, because the hook would miss the other positions.
    """
    parts = attention_and_mlp(block)
    if parts is None or any(module in hooked_modules for module in list(parts[1].modules())[1:]):
        yield
        return
    forward = parts[1].forward

    def at_positions(hidden: Tensor, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
        read = _at(hidden, positions)
        returned = forward(read, *(_at(x, positions) for x in args))
        output = returned[0] if isinstance(returned, tuple) else returned  # experts can return router scores as well
        output = output.reshape(read.shape)  # and can merge rows and positions
        index = positions.to(output.device)[:, :, None].expand_as(output)
        everywhere = torch.zeros_like(hidden).scatter(1, index, output)
        return (everywhere, *returned[1:]) if isinstance(returned, tuple) else everywhere

    with _replaced_forward(parts[1], at_positions):
        yield


def _at(hidden: Tensor, positions: Tensor) -> Tensor:
    """Select positions `(B, k)` of `hidden (B, S, d)`: `(B, k, d)`."""
    index = positions.to(hidden.device)[:, :, None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index)
