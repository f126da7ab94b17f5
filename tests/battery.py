"""Tiny random models of all supported architectures: 4 blocks, width 32, vocabulary 512, context 128."""

from functools import cache
from typing import Any

_LLAMA = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA | {"sliding_window": 8},
    "mixtral": _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 8},
    "qwen3_moe": _LLAMA | _EXPERTS | {"head_dim": 8, "num_experts": 4},
    "gemma2": _LLAMA | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": _LLAMA | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "phi3": _LLAMA,
    "olmo2": _LLAMA,
    "smollm3": _LLAMA,
    "granite": _LLAMA | {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "gpt2": _GPT | {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128},
    "gpt_neox": {**_LLAMA, "num_key_value_heads": 4},
    "falcon": _GPT | {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "alibi": False},
    "bloom": _GPT | {"hidden_size": 32, "n_layer": 4, "n_head": 4},
}
ARCHITECTURES = tuple(CONFIGS)


@cache
def _state(architecture: str):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **CONFIGS[architecture])
    return config, AutoModelForCausalLM.from_config(config, dtype=torch.float32).state_dict()


def tiny_model(architecture: str, **options):
    """A new model with the same random weights on every call; `options` go to `from_config`."""
    from copy import deepcopy

    from transformers import AutoModelForCausalLM

    config, state = _state(architecture)
    model = AutoModelForCausalLM.from_config(deepcopy(config), **options)
    model.load_state_dict(state)
    return model.eval()
