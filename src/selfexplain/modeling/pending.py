"""Vectors that wait to be written into the residual stream. They belong to one forward pass, not to the model.

Hooks receive a module, its input and its output, but not the arguments of the forward pass that they run in. A context
variable carries these: each thread and each asyncio task has its own value, and nested calls restore the outer one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_CHECKPOINT_ATTRIBUTES = ("_gradient_checkpointing_func", "checkpoint_fn")
"""Where transformers and torch's `CheckpointWrapper` keep the function that runs a module under checkpointing."""


class Write(NamedTuple):
    """Vectors and where they are written.

    Attributes:
        rows: batch row of each vector, `(N,)`.
        positions: token position of each vector, `(N,)`.
        vectors: `(N, d_explainer)`.
    """

    rows: Tensor
    positions: Tensor
    vectors: Tensor

    def to(self, device: torch.device) -> "Write":
        return Write(*(tensor.to(device) for tensor in self))


@dataclass
class PendingWrites:
    """What the hooks of one model write during one forward pass. Each part is taken once.

    Attributes:
        owner: key of the model that the vectors were given to. Other models that run meanwhile write nothing.
        markers: markers, written to the input of block 0.
        vectors: mapped vectors, written at the site of the injection contract.
    """

    owner: object
    markers: Write | None = None
    vectors: Write | None = None

    def take_markers(self) -> Write | None:
        taken, self.markers = self.markers, None
        return taken

    def take_vectors(self) -> Write | None:
        taken, self.vectors = self.vectors, None
        return taken


_PENDING: ContextVar[PendingWrites | None] = ContextVar("selfexplain_pending_writes", default=None)


class _Running:
    """The number of forward passes with vectors that run now in any thread, which compiled code depends on.

    `torch.compile` cannot trace a `ContextVar`. Forward passes with vectors run as they are, and while there are none,
    there is nothing to trace.
    """

    count = 0
    lock = Lock()


def nothing_pends() -> bool:
    """Whether compiled code can leave out the hooks."""
    return torch.compiler.is_compiling() and not _Running.count


@torch.compiler.disable
def uncompiled(function: Callable[[], Any]) -> Any:
    """Call a function without compiling it."""
    return function()


def pending(owner: object) -> PendingWrites:
    """The pending writes of `owner` in the forward pass that runs now; without any, an empty record."""
    writes = _PENDING.get()
    return writes if writes is not None and writes.owner is owner else PendingWrites(owner)


@contextmanager
def writing_pending(writes: PendingWrites | None) -> Iterator[None]:
    """Set the pending writes of the forward passes inside the block; None means that nothing is written."""
    if writes is None and nothing_pends():
        yield
        return
    before = _enter(writes)
    try:
        yield
    finally:
        _leave(writes, before)


@torch.compiler.disable
def _enter(writes: PendingWrites | None) -> PendingWrites | None:
    before = _PENDING.get()
    _PENDING.set(writes)
    if writes is not None:
        with _Running.lock:
            _Running.count += 1
    return before


@torch.compiler.disable
def _leave(writes: PendingWrites | None, before: PendingWrites | None) -> None:
    _PENDING.set(before)
    if writes is not None:
        with _Running.lock:
            _Running.count -= 1


class _OwnWrites:
    """A checkpoint function whose recomputations write the vectors of their own forward pass.

    The backward pass may run in a different thread, and after other forward passes.
    """

    def __init__(self, checkpoint: Callable):
        self.checkpoint = checkpoint

    def __call__(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        writes = _PENDING.get()
        kept = writes and replace(writes)  # `writes` itself loses what `function` takes

        def run(*inner: Any, **options: Any) -> Any:
            with writing_pending(kept and replace(kept)):
                return function(*inner, **options)

        return self.checkpoint(run, *args, **kwargs)


def recompute_with_own_writes(model: nn.Module) -> None:
    """Make activation checkpointing inside `model` keep the pending writes of each forward pass for its recomputation.

    transformers calls hooks outside of the checkpoint and does not need this. Models with their own code, and torch's
    `CheckpointWrapper`, call them inside.
    """
    for module in model.modules():
        for name in _CHECKPOINT_ATTRIBUTES:
            function = vars(module).get(name)
            if function is not None and not isinstance(function, _OwnWrites):
                setattr(module, name, _OwnWrites(function))
