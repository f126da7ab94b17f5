"""Activation patching: replace or add vectors inside the target and read the next-token distribution.

A patch changes nothing before the first patched token and nothing below the first patched block. Therefore each prompt
is run once, and a patch resumes at its first block, on the tokens from its first position on (see `resume.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import Site, decoder_blocks, site_module
from selfexplain.target.capture import check_layers
from selfexplain.target.load import Target
from selfexplain.target.resume import CleanRun, clean_run, full_forward, resume
from selfexplain.target.sweep import SweepResults, run_sweep

Operation = Literal["replace", "add"]


@dataclass(frozen=True)
class Patch:
    """Vectors to write at some token positions of one prompt, the same vectors at each layer.

    Attributes:
        prompt: index of the prompt.
        layers: blocks at which the vectors are written; -1 is the last block.
        positions: token indices; -1 is the last token.
        vectors: one vector per position, `(len(positions), d)`.
    """

    prompt: int
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    vectors: Tensor


def run_patches(
    target: Target,
    prompts: Sequence[Sequence[int]],
    patches: Sequence[Patch],
    site: Site = "residual",
    operation: Operation = "replace",
    progress: str | None = None,
) -> SweepResults:
    """Run each patch separately and read the target's next token, with and without the patch.

    A patch that changes nothing (it writes exactly the values of the clean run, or adds zeros) gets exactly the clean
    result of its prompt.

    Args:
        prompts: token ids of each prompt.
        patches: patches to run.
        site: output that the vectors replace or are added to: that of the block, of its attention or of its MLP.
        operation: whether vectors replace the output or are added to it.
        progress: label of the progress bar; None for no bar.

    Raises:
        SelfExplainError: a prompt, layer or position does not exist, a prompt exceeds the context, or vectors have a
            different shape or are not finite in the target's dtype.
    """
    target = target.private()
    n_layers, d_model = target.n_layers, target.d_model
    resolve = cache(lambda layers: tuple(sorted(set(check_layers(layers, n_layers)))))
    resolved = []
    for index, patch in enumerate(patches):
        _check(patch, index, prompts, d_model)
        n = len(prompts[patch.prompt])
        positions = tuple(position % n for position in patch.positions)
        resolved.append(Patch(patch.prompt, resolve(tuple(patch.layers)), positions, patch.vectors))
    blocks = decoder_blocks(target.model)
    modules = {n: site_module(blocks[n], site) for n in sorted({n for patch in resolved for n in patch.layers})}
    work = _Patches(target, prompts, resolved, modules, site, operation)
    return run_sweep(target, prompts, work, len(patches), progress)


def _check(patch: Patch, index: int, prompts: Sequence[Sequence[int]], d_model: int) -> None:
    if not 0 <= patch.prompt < len(prompts):
        raise SelfExplainError(
            f"Patch {index} is on prompt {patch.prompt}, but {len(prompts)} prompts were given. Prompts are "
            "counted from 0."
        )
    n = len(prompts[patch.prompt])
    positions = {position % n for position in patch.positions if -n <= position < n}
    if not positions or len(positions) != len(patch.positions):
        raise SelfExplainError(
            f"Patch {index} has positions {list(patch.positions)}. Prompt {patch.prompt} has tokens 0 to {n - 1}; give "
            "at least one of them, each at most once."
        )
    if patch.vectors.shape != (len(positions), d_model):
        raise SelfExplainError(
            f"Patch {index} has vectors of shape {tuple(patch.vectors.shape)}; expected {(len(positions), d_model)}: "
            f"one vector of width {d_model} per position."
        )


@dataclass(frozen=True)
class _Patches:
    """The patches as the interventions of a sweep."""

    target: Target
    prompts: Sequence[Sequence[int]]
    patches: Sequence[Patch]
    modules: Mapping[int, nn.Module]
    site: Site
    operation: Operation

    def place(self, index: int) -> tuple[int, tuple[int, ...], int, int]:
        patch = self.patches[index]
        return patch.prompt, patch.layers, min(patch.positions), len(self.prompts[patch.prompt])

    def clean(self, prompts: Sequence[int], cached: bool) -> CleanRun:
        return clean_run(self.target.model, [self.prompts[i] for i in prompts], list(self.modules), self.site, cached)

    def logits(self, clean: CleanRun, rows: Tensor, indices: Sequence[int], resumed: bool) -> Tensor:
        model, layers = self.target.model, self.patches[indices[0]].layers
        start = min(min(self.patches[i].positions) for i in indices) if resumed else 0
        n, positions, vectors = self._writes(indices)
        hook = _writing(n, positions - start, vectors, self.operation)
        hooks = [(self.modules[layer], hook) for layer in layers]
        if not resumed:
            return full_forward(model, [self.prompts[self.patches[i].prompt] for i in indices], hooks)[:, 0]
        after = layers[0] if self.site == "residual" else layers[0] - 1
        end = clean.lengths[rows]
        tokens = clean.input_ids[rows, start : int(end.max())]
        return resume(model, clean, rows, start, after, tokens, end[:, None] - 1 - start, hooks)[:, 0]

    def idle(self, clean: CleanRun, rows: Tensor, indices: Sequence[int]) -> Tensor:
        n, positions, vectors = self._writes(indices)
        changes = torch.zeros(len(n), dtype=torch.bool)
        for layer in self.patches[indices[0]].layers:
            neutral = clean.outputs[layer]
            if self.operation == "add":
                neutral = torch.zeros_like(neutral)
            unchanged = neutral[rows.cpu()[n].to(neutral.device), positions.to(neutral.device)]
            changes |= (unchanged != vectors.to(unchanged)).any(-1).cpu()
        return torch.zeros(len(indices)).index_add(0, n, changes.float()) == 0

    def _writes(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """All vectors to write: number of the patch within `indices` `(W,)`, position `(W,)`, vector `(W, d)`."""
        patches = [self.patches[i] for i in indices]
        n = torch.tensor([row for row, patch in enumerate(patches) for _ in patch.positions])
        positions = torch.tensor([position for patch in patches for position in patch.positions])
        vectors = torch.cat([patch.vectors for patch in patches])
        not_finite = (~vectors.to(self.target.model.dtype).isfinite().all(-1)).nonzero()
        if len(not_finite):
            raise SelfExplainError(
                f"Patch {indices[int(n[not_finite[0, 0]])]} has a vector that is not finite in "
                f"{self.target.model.dtype}. Give finite values within the range of this dtype."
            )
        return n, positions, vectors


def _writing(n: Tensor, positions: Tensor, vectors: Tensor, operation: Operation):
    """A forward hook that writes `vectors (W, d)` at rows `n (W,)` and `positions (W,)` of a module's output."""

    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        index = (n.to(hidden.device), positions.to(hidden.device))
        hidden = hidden.index_put(index, vectors.to(hidden), accumulate=operation == "add")
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook
