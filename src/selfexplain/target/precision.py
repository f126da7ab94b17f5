"""Compute in float32 with a model of lower precision."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Make `model` compute in float32 inside the block.

    The weights of each module are converted while it runs and restored afterwards, so there is never a second copy of
    the whole model. Quantised weights stay as they are, but their matrix products are computed in float32 as well.
    """
    original: dict[nn.Module, dict[str, nn.Parameter]] = {}
    quantized = [module for module in model.modules() if getattr(module, "compute_dtype", None) is not None]
    compute_dtypes = [module.compute_dtype for module in quantized]

    def widen(module, args):
        low = {name: p for name, p in module._parameters.items() if p is not None and p.is_floating_point()}
        original[module] = low
        for name, p in low.items():  # new parameters, because other threads may read the original ones
            module._parameters[name] = nn.Parameter(p.data.float(), requires_grad=False)

    def restore(module, args, output):
        module._parameters.update(original.pop(module))

    with ExitStack() as stack:
        if model.dtype != torch.float32:
            for module, dtype in zip(quantized, compute_dtypes, strict=True):
                setattr(module, "compute_dtype", torch.float32)  # noqa: B010 - mypy expects Tensor or Module
                stack.callback(setattr, module, "compute_dtype", dtype)
            for module in model.modules():
                if any(True for _ in module.parameters(recurse=False)):
                    stack.callback(module.register_forward_pre_hook(widen).remove)
                    stack.callback(module.register_forward_hook(restore, always_call=True).remove)
        yield
