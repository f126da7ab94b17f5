"""Explainers of tiny random bases, in the form that the common tests of transformers expect of a model."""

from typing import Any

import torch
from transformers import AutoConfig

from battery import CONFIGS
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM, SelfExplainerModel

BASES = ("llama", "gemma2", "gemma3_text", "gpt2")
SMALL = {"num_hidden_layers": 2, "n_layer": 2, "vocab_size": 99}


class ExplainerTester:
    """Configurations and inputs of one kind of explainer.

    Args:
        parent: test case.
        base: model type of the base, a key of `battery.CONFIGS`.
        vectors: whether the inputs contain vectors.
        injection: fields of the injection contract.
    """

    base_model_class = SelfExplainerModel
    causal_lm_class = SelfExplainerForCausalLM
    batch_size, seq_length, is_training = 13, 7, True

    def __init__(self, parent: Any, base: str, vectors: bool, injection: dict | None = None):
        self.parent, self.base, self.vectors, self.injection = parent, base, vectors, injection
        text = self._config().text_config
        self.hidden_size, self.num_hidden_layers = text.hidden_size, text.num_hidden_layers
        self.num_attention_heads, self.vocab_size = text.num_attention_heads, text.vocab_size

    def get_config(self) -> SelfExplainerConfig:
        """The configuration with the vocabulary size that the training tests read from its top level."""
        config = self._config()
        config.vocab_size = config.text_config.vocab_size
        return config

    def _config(self) -> SelfExplainerConfig:
        known = CONFIGS[self.base]
        changes = {name: value for name, value in SMALL.items() if name in known}
        return SelfExplainerConfig(
            text_config=AutoConfig.for_model(self.base, **(known | changes)), injection=self.injection
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[SelfExplainerConfig, dict[str, torch.Tensor]]:
        shape = (self.batch_size, self.seq_length)
        generator = torch.Generator().manual_seed(0)
        inputs = {
            "input_ids": torch.randint(3, self.vocab_size, shape, generator=generator),
            "attention_mask": torch.ones(shape, dtype=torch.long),
        }
        return self._config(), inputs | (self._vector_inputs(generator) if self.vectors else {})

    def _vector_inputs(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Two vectors per row, at tokens 2 and 4, each between two markers."""
        slots = (self.batch_size, 2)
        positions = torch.tensor([[2, 4]]).expand(slots).clone()
        return {
            "activations": torch.randn(*slots, self.hidden_size, generator=generator),
            "activation_mask": torch.ones(slots, dtype=torch.bool),
            "activation_layers": torch.tensor([[0, 1]]).expand(slots).clone(),
            "activation_positions": positions,
            "marker_positions": torch.stack([positions - 1, positions + 1], dim=-1),
        }
