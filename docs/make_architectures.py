"""Check every type of causal language model in transformers with a tiny random model, and write docs/architectures.md.

For each type: the captured residual stream equals `hidden_states`, and patched outputs equal those of full forward
passes with plain hooks; or the model is refused by name. Takes a few minutes: `python docs/make_architectures.py`.
"""

import argparse
import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from selfexplain.errors import SelfExplainError
from selfexplain.target.architecture import check_architecture
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.capture import capture
from selfexplain.target.load import Target
from selfexplain.target.patching import Patch, run_patches

PAGE = Path(__file__).parent / "architectures.md"

HEAD = """# Supported architectures

<!-- Written by docs/make_architectures.py. -->

All types of causal language models in transformers {version}, each as a tiny random model. *exact, resumed*: the captured residual stream equals `hidden_states`, and outputs of patches
that resume at the patched block equal those of full forward passes. *exact, full passes*: resuming is not exact for this type, which is detected at the start of a run, so every patch is a
full forward pass. *refused*: loading the target stops with this message. *not built*: this page's script has no tiny configuration for the type, so nothing is known about it.

{counts}

| type | class | outcome |
|---|---|---|
"""

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 32, 4, 4, 512, 128
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "emb_dim", "embed_dim"), WIDTH),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "input_size", "embedding_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size", "dim_ff"), 2 * WIDTH),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "shared_intermediate_size", "intermediate_size_mlp"), 64),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers",), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads",), HEADS),
    **dict.fromkeys(("num_key_value_heads", "multi_query_group_num", "n_head_kv", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "kv_channels", "v_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "index_head_dim"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(
        ("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "moe_num_shared_experts"), 1
    ),
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size"), 8),
    "hidden_size_per_layer_input": 8,
    "rotary_dim": 4,
    "query_pre_attn_scalar": 8,
    "num_kv_shared_layers": 0,
    "altup_num_inputs": 2,
    "laurel_rank": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_expand": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "is_decoder": True,
}
WHOLE_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}}
EXTRA: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("deepseek_v3", "youtu", "axk1", "longcat_flash"), WHOLE_ROPE),
    "falcon": {"alibi": False},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "codegen": {"n_ctx": CONTEXT},
    "xlnet": {"d_inner": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "zamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "persimmon": {"num_key_value_heads": 4},
}


def tiny_config(model_type: str) -> Any:
    """A configuration of a type with small numbers; parts of composite configurations are small as well."""
    kind = CONFIG_MAPPING[model_type]
    values: dict[str, Any] = {}
    default = kind()
    for name, part in default.sub_configs.items():
        value = getattr(default, name, None)
        sub_type = getattr(value, "model_type", None) or getattr(part, "model_type", "")
        if sub_type in CONFIG_MAPPING:
            values[name] = tiny_config(sub_type).to_dict()
    known = set(default.to_dict()) | set(default.attribute_map)
    values |= {name: value for name, value in SMALL.items() if name in known}
    for name in ("rope_parameters", "layer_types"):
        if name == "layer_types" and getattr(default, name, None):
            kinds = list(dict.fromkeys(default.layer_types))
            values[name] = (kinds * LAYERS)[:LAYERS] if len(kinds) > 1 else kinds * LAYERS
    values |= EXTRA.get(model_type, {})
    while True:
        try:
            return kind(**values)
        except AttributeError as error:  # computed from other values
            name = next((name for name in values if f"'{name}'" in str(error)), None)
            name = "layer_types" if name is None and "has no setter" in str(error) else name
            if name not in values:
                raise
            del values[name]


def full_pass(model: Any, ids: list[int], patch: Patch | None) -> torch.Tensor:
    """Next-token log-probabilities `(vocabulary,)` from one forward pass with plain hooks."""

    def write(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, list(patch.positions)] = patch.vectors  # type: ignore[union-attr]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    blocks = decoder_blocks(model)
    handles = [blocks[layer].register_forward_hook(write) for layer in (patch.layers if patch else ())]
    try:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def check(model_type: str) -> tuple[str, str]:
    """The class and the outcome of one type."""
    torch.manual_seed(0)
    name = str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
    try:
        config = tiny_config(model_type)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        ids = [[1, *torch.randint(3, VOCABULARY, (n,)).tolist()] for n in (11, 7)]
        model(input_ids=torch.tensor([ids[0]]), use_cache=False)
    except SelfExplainError:
        raise
    except Exception as error:
        return name, f"not built: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
    try:
        check_architecture(model, model_type)
    except SelfExplainError as error:
        return type(model).__name__, f"refused: {error}"
    target = Target(model, None, model_type)  # type: ignore[arg-type]
    layers = list(range(target.n_layers))
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids[0]]), output_hidden_states=True, use_cache=False).hidden_states
    captured = capture(model, torch.tensor([ids[0]]), layers)
    for layer in layers[:-1]:
        if not torch.equal(captured[layer], states[layer + 1]):
            return type(model).__name__, f"**wrong**: captured layer {layer} differs from hidden_states"
    scale = captured.std()
    patches = [
        Patch(prompt, patched, positions, torch.randn(len(positions), target.d_model) * scale * 3)
        for prompt in (0, 1)
        for patched in ((0,), (1, 2), (target.n_layers - 1,))
        for positions in ((0,), (3, 4), (-1,))
    ]
    results = run_patches(target, ids, patches)
    worst = 0.0
    for patch, token, log_prob in zip(patches, results.ids.tolist(), results.log_probs.tolist(), strict=True):
        expected = full_pass(model, ids[patch.prompt], patch)
        worst = max(worst, abs(float(expected.max()) - log_prob), float(expected.max() - expected[token]))
    if worst > 1e-3:
        return type(model).__name__, f"**wrong**: log-probabilities differ by {worst:.2g}"
    return type(model).__name__, "exact, resumed" if results.method == "resumed" else "exact, full passes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="types to print; without any, the page is written for all types")
    chosen = parser.parse_args().types
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING if not chosen else logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    rows = []
    for model_type in chosen or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            name, outcome = check(model_type)
        except Exception as error:
            name, outcome = "?", f"**error**: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(model_type, name, outcome, sep=" | ", flush=True)
        rows.append((model_type, name, outcome))
    if chosen:
        return
    counts = Counter(outcome.partition(":")[0] for *_, outcome in rows)
    summary = ", ".join(f"{outcome}: {n}" for outcome, n in counts.most_common())
    lines = [f"| {kind} | {name} | {outcome.replace('|', '/')} |\n" for kind, name, outcome in rows]
    PAGE.write_text(HEAD.format(version=transformers.__version__, counts=f"{summary}.") + "".join(lines))


if __name__ == "__main__":
    main()
