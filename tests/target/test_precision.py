"""Computing in float32 what a model of less precision leaves open."""

import torch
from bitsandbytes.nn import Linear4bit

from selfexplain.target.precision import in_float32


def test_a_quantized_model_computes_in_float32_while_it_is_open():
    layer = Linear4bit(8, 8, compute_dtype=torch.bfloat16)
    model = torch.nn.Sequential(layer)
    model.dtype = torch.bfloat16
    with in_float32(model):
        assert layer.compute_dtype == torch.float32
    assert layer.compute_dtype == torch.bfloat16
