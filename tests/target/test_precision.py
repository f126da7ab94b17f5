"""Compute in float32 with models of lower precision."""

import torch
from bitsandbytes.nn import Linear4bit

from selfexplain.target.precision import in_float32


def test_a_quantised_model_computes_in_float32_inside_the_block():
    layer = Linear4bit(8, 8, compute_dtype=torch.bfloat16)
    model = torch.nn.Sequential(layer)
    model.dtype = torch.bfloat16
    with in_float32(model):
        assert layer.compute_dtype == torch.float32
    assert layer.compute_dtype == torch.bfloat16
