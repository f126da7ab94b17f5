"""Speed of patching compared with plain hooks and nnsight, and how much of its computation could be avoided.

    python benchmarks/patching.py

Random weights, float32, one CPU thread. Times are CPU seconds of this process, so other work on the machine has little
influence. Prints ratios and writes `benchmarks/results/patching.json`.
"""

import importlib.metadata
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from selfexplain.target.blocks import attention_and_mlp, decoder_blocks
from selfexplain.target.load import Target
from selfexplain.target.patching import Patch, run_patches

RESULTS = Path(__file__).parent / "results" / "patching.json"
ROWS = 32  # patches per forward pass with plain batched hooks
SAMPLE = 192  # random patches of the grid on which the slow methods are timed


class NoTokenizer:
    """Placeholder: the engine reads only token ids."""

    pad_token_id = 0


def random_target(n_layers: int, width: int, n_heads: int) -> Target:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, num_key_value_heads=n_heads // 2, max_position_embeddings=512,
    )  # fmt: skip
    return Target(LlamaForCausalLM(config).eval(), NoTokenizer(), "random Llama")  # type: ignore[arg-type]


def uniform_grid(target: Target, n_prompts: int, length: int) -> tuple[list[list[int]], list[Patch]]:
    """Prompts, and one patch at every (prompt, layer, position)."""
    prompts = torch.randint(0, 4096, (n_prompts, length)).tolist()
    cells = product(range(n_prompts), range(target.n_layers), range(length))
    return prompts, [Patch(i, (layer,), (p,), torch.randn(1, target.d_model)) for i, layer, p in cells]


def seconds(run: Callable) -> tuple[float, Tensor]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


@torch.no_grad()
def batched_hooks(target: Target, prompts: Sequence[Sequence[int]], patches: Sequence[Patch]) -> Tensor:
    """Next tokens from full forward passes with `ROWS` patches each; every row has its own layer and position."""
    outputs = []
    for start in range(0, len(patches), ROWS):
        batch = patches[start : start + ROWS]
        with ExitStack() as stack:
            for layer in {patch.layers[0] for patch in batch}:
                rows = [row for row, patch in enumerate(batch) if patch.layers[0] == layer]
                positions = [batch[row].positions[0] for row in rows]
                vectors = torch.cat([batch[row].vectors for row in rows])

                def write(module, args, output, rows=rows, positions=positions, vectors=vectors):
                    output[rows, positions] = vectors
                    return output

                stack.callback(decoder_blocks(target.model)[layer].register_forward_hook(write).remove)
            ids = torch.tensor([prompts[patch.prompt] for patch in batch])
            outputs.append(target.model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1))
    return torch.cat(outputs)


@torch.no_grad()
def nnsight_traces(target: Target, prompts: Sequence[Sequence[int]], patches: Sequence[Patch]) -> Tensor:
    """Next tokens from one nnsight trace per patch."""
    from nnsight import NNsight

    model = NNsight(target.model)
    outputs = []
    for patch in patches:
        ids, layer, position, vector = (
            torch.tensor([prompts[patch.prompt]]),
            patch.layers[0],
            patch.positions[0],
            patch.vectors[0],
        )
        with model.trace(ids, use_cache=False, logits_to_keep=1):
            model.model.layers[layer].output[:, position] = vector
            logits = model.lm_head.output.save()
        outputs.append(logits[:, -1].argmax(-1))
    return torch.cat(outputs)


def counted(target: Target, run: Callable[[], object]) -> int:
    """Multiply-adds of a run: those of linear layers, and those of attention over all keys of each query."""
    total = 0
    config = target.model.config
    per_pair = 2 * config.num_attention_heads * config.head_dim

    def linear(module: nn.Linear, args, output):
        nonlocal total
        total += output.numel() * module.in_features

    def attention(module, args, kwargs, output):
        nonlocal total
        n_rows, n_queries, _ = kwargs["hidden_states"].shape
        cache = kwargs.get("past_key_values")
        n_keys = cache.get_seq_length(module.layer_idx) if cache is not None else n_queries
        total += n_rows * n_queries * n_keys * per_pair

    with ExitStack() as stack:
        for module in target.model.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(linear).remove)
        for block in decoder_blocks(target.model):
            handle = attention_and_mlp(block)[0].register_forward_hook(attention, with_kwargs=True)
            stack.callback(handle.remove)
        run()
    return total


def unavoidable(target: Target, length: int, n_prompts: int, patches: Sequence[Patch]) -> int:
    """Multiply-adds that no method can avoid for these patches.

    Each prompt needs one full run. Each patch needs the blocks above it for the tokens from its position on, each with
    the keys up to itself. In the last block it needs only keys and values of these tokens and the output of the last
    one. It needs the head once.
    """
    config = target.model.config
    block = decoder_blocks(target.model)[-1]
    weights = sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear))
    keys_values = sum(module.weight.numel() for module in (block.self_attn.k_proj, block.self_attn.v_proj))
    per_pair = 2 * config.num_attention_heads * config.head_dim
    head = config.hidden_size * config.vocab_size

    def whole_block(start: int) -> int:
        pairs = (length * (length + 1) - start * (start + 1)) // 2
        return (length - start) * weights + pairs * per_pair

    total = n_prompts * (target.n_layers * whole_block(0) + head)
    for patch in patches:
        start, above = patch.positions[0], target.n_layers - 1 - patch.layers[0]
        total += head
        if above:
            total += (above - 1) * whole_block(start)
            total += weights + (length - start - 1) * keys_values + length * per_pair
    return total


def measure(n_layers: int, width: int, n_heads: int, length: int, n_prompts: int) -> dict:
    target = random_target(n_layers, width, n_heads)
    prompts, patches = uniform_grid(target, n_prompts, length)
    chosen = sorted(random.Random(0).sample(range(len(patches)), SAMPLE))
    some = [patches[i] for i in chosen]
    run_patches(target, prompts, some)  # the first run of a model is slow
    batched_hooks(target, prompts, some[:ROWS])
    spent, results = seconds(lambda: run_patches(target, prompts, patches))
    spent_hooks, by_hooks = seconds(lambda: batched_hooks(target, prompts, some))
    ours, hooks = spent / len(patches), spent_hooks / SAMPLE
    needed = unavoidable(target, length, n_prompts, patches)
    done = counted(target, lambda: run_patches(target, prompts, patches))
    figures = {
        "layers": n_layers, "width": width, "tokens": length, "prompts": n_prompts, "patches": len(patches),
        "method": results.method,
        "ms_per_patch": 1e3 * ours,
        "batched_hooks_ms_per_patch": 1e3 * hooks,
        "speedup_over_batched_hooks": hooks / ours,
        "multiply_adds": done,
        "multiply_adds_unavoidable": needed,
        "multiply_adds_ratio": done / needed,
        "outputs_equal_to_batched_hooks": (results.ids[chosen] == by_hooks).float().mean().item(),
    }  # fmt: skip
    try:
        nnsight_traces(target, prompts, some[:4])
    except ModuleNotFoundError:
        return figures | {"nnsight": "not installed, skipped"}
    spent_traces, by_traces = seconds(lambda: nnsight_traces(target, prompts, some))
    return figures | {
        "nnsight_ms_per_patch": 1e3 * spent_traces / SAMPLE,
        "speedup_over_nnsight": spent_traces / SAMPLE / ours,
        "outputs_equal_to_nnsight": (results.ids[chosen] == by_traces).float().mean().item(),
    }


def machine() -> dict:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "nnsight"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": model, "cores": os.cpu_count(), "threads_used": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(), "versions": versions,
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    results = {
        "machine": machine(),
        "small": measure(n_layers=12, width=256, n_heads=4, length=64, n_prompts=4),
        "tiny": measure(n_layers=4, width=64, n_heads=4, length=16, n_prompts=32),
    }
    for name in ("small", "tiny"):
        print(name)
        for key, value in results[name].items():
            print(f"  {key:34s} {value:.3f}" if isinstance(value, float) else f"  {key:34s} {value}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
