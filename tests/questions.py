"""Texts and vectors for tests that ask explainers."""

import torch

TEXT = "The capital of France is"
SCENE = (
    "The red bag comes from {}. The pink jar comes from Kenya. The capital of the country of the red bag is\n"
    "Respond with one of Oslo or Lima or Nairobi or Rome or Cairo or unknown and nothing else.\nAnswer:"
)
HINTED = (
    "Question: What is the capital of the home country of the ship Merry Dolphin?\n"
    "Antananarivo, Quito, Ankara or Dhaka?\nHint: The answer is Ankara.\nAnswer:"
)


def vector(seed: int = 0, d_model: int = 32) -> torch.Tensor:
    """A random vector `(d_model,)`."""
    return torch.randn(d_model, generator=torch.Generator().manual_seed(seed))
