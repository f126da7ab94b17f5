"""Build the rows of activation patching: patch every block of layers at every token of counterfactual pairs."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.balance import draw_balanced
from selfexplain.groundtruth.builders import transluce
from selfexplain.groundtruth.builders.alignment import AlignedPair, align
from selfexplain.groundtruth.builders.builder import register
from selfexplain.groundtruth.builders.items import Builder
from selfexplain.groundtruth.builders.pairs import NOUN, find_pairs
from selfexplain.groundtruth.config import PatchingConfig
from selfexplain.groundtruth.sources import Corpus, Pair, SourceItems
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.load import Target
from selfexplain.target.nexttoken import possible_next_tokens
from selfexplain.target.patching import Patch, run_patches
from selfexplain.target.resume import batches, clean_run
from selfexplain.target.sweep import SweepResults
from selfexplain.target.tokens import token_text
from selfexplain.tasks import activation_patching, outcome
from selfexplain.tasks.outcome import Outcome

Blocks = Sequence[tuple[int, ...]]


def blocks_of_layers(n_layers: int, n_blocks: int) -> list[tuple[int, ...]]:
    """Divide the layers into contiguous blocks of nearly equal size.

    Raises:
        SelfExplainError: there are fewer layers than blocks, or fewer than one block.
    """
    if not 1 <= n_blocks <= n_layers:
        raise SelfExplainError(
            f"n_blocks is {n_blocks}, but the target has {n_layers} layers. Set n_blocks to a number from 1 to "
            f"{n_layers}."
        )
    edges = [round(i * n_layers / n_blocks) for i in range(n_blocks + 1)]
    return [tuple(range(a, b)) for a, b in pairwise(edges)]


def find_items(config: PatchingConfig, target: Target, corpus: Corpus, seed: int) -> SourceItems[Pair]:
    """The counterfactual pairs, and counts of what was skipped."""
    return find_pairs(config.source, target, corpus, config.n_pairs, seed, config.max_text_tokens)


def compute_rows(config: PatchingConfig, target: Target, pairs: Sequence[Pair], seed: int) -> tuple[list[dict], dict]:
    """The rows of every patch of these pairs, and counts of patches and of what is left out.

    Every block of layers is patched at every token that has a counterpart in the source prompt. The vector is the mean
    of the counterpart's activations over the layers of the block, rounded to the stored precision. A row depends only
    on its own pair and on `seed`.
    """
    blocks = blocks_of_layers(target.n_layers, config.n_blocks)
    aligned, counts = _align_all(target, pairs, blocks)
    means = source_means(target, [pair.source_ids for pair in aligned], blocks)
    patches, sources = [], []
    for index, (pair, mean) in enumerate(zip(aligned, means, strict=True)):
        for block, position, source in _cells(pair, mean, counts):
            patches.append(Patch(index, blocks[block], (position,), mean[block, source, None]))
            sources.append(source)
    results = run_patches(target, [pair.ids for pair in aligned], patches, progress="activation patching")
    counts |= {
        "patches": len(patches),
        "patches checked": results.check.sampled,
        "patches checked that flip": round(results.check.flip_rate * results.check.sampled),
        "patches decided in float32": results.check.near_ties,
        "patches by full forward passes": len(patches) if results.method == "hooks" else 0,
    }
    rows = _rows(target, aligned, patches, sources, results, seed)
    statable = [row for row in rows if outcome.is_statable(row["patched_output"])]
    if len(statable) < len(rows):
        counts["patches left out: no sentence can state the output"] = len(rows) - len(statable)
    return statable, dict(counts)


def source_means(target: Target, prompts: Sequence[Sequence[int]], blocks: Blocks) -> list[Tensor]:
    """For each prompt, the mean of the layer outputs over each block, `(n_blocks, T, d)`.

    The means are float16, or float32 if one of the prompt's vectors exceeds the range of float16.
    """
    means: dict[int, Tensor] = {}
    layers = [layer for block in blocks for layer in block]
    for part in batches([(0, len(ids)) for ids in prompts], target.model.device):
        hidden = clean_run(target.model, [prompts[i] for i in part], layers, cached=False).hidden
        for row, index in enumerate(part):
            n = len(prompts[index])
            exact = torch.stack(
                [torch.stack([hidden[layer][row, :n].float().cpu() for layer in block]).mean(0) for block in blocks]
            )
            rounded = exact.half()
            means[index] = exact if (rounded.isinf() & exact.isfinite()).any() else rounded
    return [means[index] for index in range(len(prompts))]


def draw_rows(config: PatchingConfig, rows: Sequence[Mapping], seed: int) -> tuple[list[int], dict]:
    """Indices of the rows to keep, and statistics.

    Half of the rows are changed in every (token type, block of layers) of each split, and as nearly as possible in each
    prompt.

    Args:
        config: settings of the task.
        rows: candidates with the columns `group`, `target_prompt`, `token_type`, `layers` and `changed`.
        seed: seed of the splits and of the draw.

    Raises:
        SelfExplainError: there are no rows, or no patch changes an output.
    """
    if not rows:
        raise SelfExplainError(
            "There are no counterfactual pairs that can be patched in this target: every pair was left out, for "
            "example because its prompts do not fit into the context. Use shorter prompts "
            "(activation_patching.source) or a target with a longer context."
        )
    cell = activation_patching.cell
    drawn = draw_balanced(rows, config.n_rows, seed, cell, lambda row: row["target_prompt"], minimum=2)
    if not drawn:
        raise SelfExplainError(
            f"None of {len(rows)} patches changes the output. Request more pairs, or use a different source of pairs."
        )
    by_type = Counter((row["token_type"], row["changed"]) for row in rows)
    by_cell = Counter(cell(rows[i]) for i in drawn)
    return drawn, {
        "patches": len(rows),
        "patches_changed": sum(row["changed"] for row in rows) / len(rows),
        "rows": len(drawn),
        "rows_changed": sum(rows[i]["changed"] for i in drawn) / len(drawn),
        "patches_by_token_type": {
            t: {"unchanged": by_type[t, False], "changed": by_type[t, True]} for t in sorted({t for t, _ in by_type})
        },
        "rows_by_token_type_and_layers": {
            f"{t} {'-'.join(map(str, (layers[0], layers[-1])))}": n for (t, layers), n in sorted(by_cell.items())
        },
    }


def rerun(target: Target, row: Mapping[str, Any]) -> tuple[str, str]:
    """Stored and new outputs of a row, before and after the patch, from full forward passes with plain hooks."""
    vector = torch.as_tensor(np.asarray(row["activations"][0], np.float32), device=target.model.device)

    def write(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, row["position"]] = vector.to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    blocks = decoder_blocks(target.model)
    clean = possible_next_tokens(target, row["prompt_ids"])
    with ExitStack() as stack:
        for layer in row["layers"]:
            stack.callback(blocks[layer].register_forward_hook(write).remove)
        patched = possible_next_tokens(target, row["prompt_ids"])
    stored = (row["clean_output_id"], row["clean_output"]), (row["patched_output_id"], row["patched_output"])
    found = [
        text if token in possible else token_text(target.tokenizer, possible[0])
        for (token, text), possible in zip(stored, (clean, patched), strict=True)
    ]
    return " -> ".join(repr(text) for _, text in stored), " -> ".join(map(repr, found))


def _align_all(target: Target, pairs: Sequence[Pair], blocks: Blocks) -> tuple[list[AlignedPair], Counter[str]]:
    """The pairs that can be patched, and counts of the pairs and of those that are left out."""
    counts = Counter(pairs=len(pairs))
    aligned = []
    for pair in pairs:
        try:
            candidate = align(target, pair)
            if not fits(target, _longest_row(target, candidate, blocks)):
                raise SelfExplainError("question to the explainer longer than the context")
        except SelfExplainError as error:
            counts[f"pairs left out: {error}"] += 1
        else:
            aligned.append(candidate)
    return aligned, counts


def _longest_row(target: Target, pair: AlignedPair, blocks: Blocks) -> str:
    """An upper bound on the text of a question about the pair and its answer."""
    token = max((token_text(target.tokenizer, token) for token in pair.ids), key=len)
    layers = max(blocks, key=len)
    questions = [
        activation_patching.question(pair.pair.clean.text, layers, len(pair.ids), token, template).prompt
        for template in range(len(activation_patching.TEMPLATES))
    ]
    return max(questions, key=len) + outcome.render(Outcome(True, max([token, *pair.pair.options], key=len)))


def _cells(pair: AlignedPair, mean: Tensor, counts: Counter[str]) -> Iterator[tuple[int, int, int]]:
    """(block, position, source position) of every patch of a pair; what is left out is added to `counts`."""
    finite = mean.isfinite().all(-1).tolist()
    for block, is_finite in enumerate(finite):
        for position, source in enumerate(pair.source_positions):
            if source is None:
                counts["patches left out: no counterpart"] += 1
            elif not is_finite[source]:
                counts["patches left out: vector not finite"] += 1
            else:
                yield block, position, source


def _rows(
    target: Target,
    pairs: Sequence[AlignedPair],
    patches: Sequence[Patch],
    sources: Sequence[int],
    results: SweepResults,
    seed: int,
) -> list[dict[str, Any]]:
    """The rows of these patches, including those that do not change the output."""
    decode = cache(partial(token_text, target.tokenizer))
    tokens = [[decode(i) for i in pair.ids] for pair in pairs]
    rngs = [random.Random(f"{seed} {pair.pair.clean.text} {pair.pair.source.text}") for pair in pairs]
    clean_ids, clean_log_probs = results.clean_ids.tolist(), results.clean_log_probs.tolist()
    rows = []
    for patch, source, patched_id, log_prob, kl in zip(
        patches, sources, results.ids.tolist(), results.log_probs.tolist(), results.kl.tolist(), strict=True
    ):
        pair, clean_id, position = pairs[patch.prompt], clean_ids[patch.prompt], patch.positions[0]
        token = tokens[patch.prompt][position]
        template = rngs[patch.prompt].randrange(len(activation_patching.TEMPLATES))
        question = activation_patching.question(pair.pair.clean.text, patch.layers, position, token, template)
        rows.append({
            "prompt": question.prompt,
            "completion": outcome.render(Outcome(clean_id != patched_id, decode(patched_id))),
            "placeholder_offsets": list(question.placeholder_offsets),
            "activations": [patch.vectors[0].numpy()],
            "activation_layers": [patch.layers[0]],
            "group": pair.pair.clean.group,
            "target_prompt": pair.pair.clean.text,
            "prompt_ids": pair.ids,
            "prompt_tokens": tokens[patch.prompt],
            "source_prompt": pair.pair.source.text,
            "layers": list(patch.layers),
            "position": position,
            "token": token,
            "token_type": pair.token_types[position],
            "source_position": source,
            "clean_output": decode(clean_id),
            "patched_output": decode(patched_id),
            "clean_output_id": clean_id,
            "patched_output_id": patched_id,
            "changed": clean_id != patched_id,
            "clean_log_prob": clean_log_probs[patch.prompt],
            "patched_log_prob": log_prob,
            "kl": kl,
        })  # fmt: skip
    return rows


BUILDER: Builder[PatchingConfig, Pair] = Builder(
    config_class=PatchingConfig,
    item_type=Pair,
    noun=NOUN,
    n_items=lambda config: config.n_pairs,
    items_per_shard=128,
    find_items=find_items,
    rows=compute_rows,
    draw_rows=draw_rows,
    draw_columns=("target_prompt", "token_type", "layers", "changed"),
    n_rows=lambda config: config.n_rows,
    rerun=rerun,
    published={"transluce": transluce.PublishedRows(PatchingConfig, transluce.read_patching)},
)
register(activation_patching.TASK, BUILDER)
