"""Decide in float32 what a model of less precision leaves open."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """While open, `model` computes in float32.

    Each module's own weights are widened while it runs and given back afterwards, so that no second copy of the model
    is held. Quantised weights stay as they are; what they are multiplied in is float32 too.
    """
    kept: dict[nn.Module, dict[str, Tensor]] = {}
    quantized = [module for module in model.modules() if getattr(module, "compute_dtype", None) is not None]
    computed_in = [module.compute_dtype for module in quantized]

    def widen(module, args):
        low = {name: p for name, p in module.named_parameters(recurse=False) if p.is_floating_point()}
        kept[module] = {name: p.data for name, p in low.items()}
        for p in low.values():
            p.data = p.data.float()

    def restore(module, args, output):
        for name, data in kept.pop(module).items():
            getattr(module, name).data = data

    with ExitStack() as stack:
        if model.dtype != torch.float32:
            for module, dtype in zip(quantized, computed_in, strict=True):
                setattr(module, "compute_dtype", torch.float32)  # noqa: B010 - what is no Tensor or Module
                stack.callback(setattr, module, "compute_dtype", dtype)
            for module in model.modules():
                if any(True for _ in module.parameters(recurse=False)):
                    stack.callback(module.register_forward_pre_hook(widen).remove)
                    stack.callback(module.register_forward_hook(restore, always_call=True).remove)
        yield
