"""Ground truth of activation patching.

`candidates` sweeps every (block of layers, token) of counterfactual pairs; `draw` keeps a balanced sample of its rows.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.balance import balanced
from selfexplain.groundtruth.config import PatchingConfig
from selfexplain.groundtruth.sources import Pair, Prompt
from selfexplain.groundtruth.sources.tokens import fits
from selfexplain.groundtruth.splits import by_split
from selfexplain.target.load import Target
from selfexplain.target.patching import Patch, run_patches
from selfexplain.target.resume import batches, clean_run
from selfexplain.tasks import activation_patching, outcome
from selfexplain.tasks.outcome import Outcome


def blocks_of_layers(n_layers: int, n_blocks: int) -> list[tuple[int, ...]]:
    """Cut the layers into contiguous blocks of nearly equal size."""
    if not 1 <= n_blocks <= n_layers:
        raise SelfExplainError(f"n_blocks is {n_blocks}; the target has {n_layers} layers.")
    edges = [round(i * n_layers / n_blocks) for i in range(n_blocks + 1)]
    return [tuple(range(a, b)) for a, b in pairwise(edges)]


@dataclass(frozen=True)
class TokenizedPair:
    """A pair as token ids, with the type and the aligned source position of each token."""

    pair: Pair
    ids: list[int]
    source_ids: list[int]
    token_types: list[str]
    source_positions: list[int | None]


def tokenize(target: Target, pair: Pair) -> TokenizedPair:
    """Tokens of both prompts; positions correspond before the subject, in it from its end, after it from the end.

    Raises:
        SelfExplainError: what keeps the pair from being patched, in a few words.
    """
    ids, spans = _encode(target, pair.clean)
    source_ids, source_spans = _encode(target, pair.source)
    begin, end = _subject_tokens(spans, pair.clean.subject)
    source_begin, source_end = _subject_tokens(source_spans, pair.source.subject)
    source_positions: list[int | None] = []
    for position in range(len(ids)):
        if position < begin:
            source_positions.append(position if position < source_begin else None)
        elif position < end:
            aligned = source_end - (end - position)
            source_positions.append(aligned if aligned >= source_begin else None)
        else:
            aligned = len(source_ids) - (len(ids) - position)
            source_positions.append(aligned if aligned >= source_end else None)
    return TokenizedPair(pair, ids, source_ids, _token_types(pair, ids, spans, begin, end), source_positions)


def _encode(target: Target, prompt: Prompt) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = target.tokenizer(prompt.text, return_offsets_mapping=True)
    if len(encoded["input_ids"]) > target.context_length:
        raise SelfExplainError("over the context")
    return encoded["input_ids"], encoded["offset_mapping"]


def _subject_tokens(spans: Sequence[tuple[int, int]], subject: tuple[int, int]) -> tuple[int, int]:
    inside = [i for i, (a, b) in enumerate(spans) if a < subject[1] and b > subject[0] and b > a]
    if not inside:
        raise SelfExplainError("subject not found")
    return inside[0], inside[-1] + 1


def _token_types(pair: Pair, ids: Sequence[int], spans: Sequence[tuple[int, int]], begin: int, end: int) -> list[str]:
    """Without options: subject and other. With them also relation, the options, the instruction and the last token."""
    text, types = pair.clean.text, []
    if not pair.options:
        return ["subject" if begin <= i < end else "other" for i in range(len(ids))]
    kinds = ("original_option", "new_option", *["other_option"] * len(pair.options))
    listed = [
        (match.start(), match.end(), kind)
        for option, kind in zip(pair.options, kinds, strict=False)
        for match in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", text)
        if match.start() >= pair.clean.statement_end
    ]
    for i, (a, b) in enumerate(spans):
        of_option = [kind for first, last, kind in listed if a < last and b > first]
        if begin <= i < end:
            types.append("subject_final" if i == end - 1 else "subject")
        elif i == len(ids) - 1:
            types.append("last")
        elif b <= pair.clean.statement_end:
            types.append("before_subject" if i < begin else "relation")
        elif of_option:
            types.append(of_option[0])
        else:
            types.append("instruction")
    return types


def _longest_row(target: Target, pair: TokenizedPair, blocks: Sequence[tuple[int, ...]]) -> str:
    """A question about the pair and an answer to it, as long as they get."""
    token = max(target.tokenizer.batch_decode([[i] for i in pair.ids]), key=len)
    asked = [
        activation_patching.question(pair.pair.clean.text, max(blocks, key=len), len(pair.ids), token, template).prompt
        for template in range(len(activation_patching.TEMPLATES))
    ]
    return max(asked, key=len) + outcome.render(Outcome(True, max([token, *pair.pair.options], key=len)))


def candidates(config: PatchingConfig, target: Target, pairs: Sequence[Pair], seed: int) -> tuple[list[dict], dict]:
    """Rows of every patch of these pairs, and counts of patches and of what was left out.

    Every block of layers is patched at every token that has a counterpart in the source prompt, with the mean over the
    block of what stands there, rounded as it will be stored. A row depends on its own pair and on `seed` alone.
    """
    blocks = blocks_of_layers(target.n_layers, config.n_blocks)
    counts = Counter(pairs=len(pairs))
    tokenized = []
    for given in pairs:
        try:
            tokenized.append(tokenize(target, given))
            if not fits(target, _longest_row(target, tokenized[-1], blocks)):
                tokenized.pop()
                raise SelfExplainError("over the context once an explainer is asked")
        except SelfExplainError as error:
            counts[f"pairs left out: {error}"] += 1
    means = source_means(target, [pair.source_ids for pair in tokenized], blocks)
    patches, sources = [], []
    for index, pair in enumerate(tokenized):
        finite = means[index].isfinite().all(-1).tolist()
        for b, layers in enumerate(blocks):
            for position, source in enumerate(pair.source_positions):
                if source is None:
                    counts["patches left out: no counterpart"] += 1
                elif not finite[b][source]:
                    counts["patches left out: vector not finite"] += 1
                else:
                    patches.append(Patch(index, layers, (position,), means[index][b, source, None]))
                    sources.append(source)
    results = run_patches(target, [pair.ids for pair in tokenized], patches, progress="activation patching")
    counts |= {
        "patches": len(patches),
        "patches checked": results.check.sampled,
        "patches checked that flip": round(results.check.flip_rate * results.check.sampled),
        "patches decided in float32": results.check.near_ties,
        "patches by full forward passes": len(patches) if results.method == "hooks" else 0,
    }
    said = cache(lambda token: target.tokenizer.decode([token]))
    tokens = [[said(i) for i in pair.ids] for pair in tokenized]
    rngs = [random.Random(f"{seed} {pair.pair.clean.text} {pair.pair.source.text}") for pair in tokenized]
    clean_ids, clean_log_probs = results.clean_ids.tolist(), results.clean_log_probs.tolist()
    rows = []
    for patch, source, patched_id, log_prob, kl in zip(
        patches, sources, results.ids.tolist(), results.log_probs.tolist(), results.kl.tolist(), strict=True
    ):
        pair, clean_id, position = tokenized[patch.prompt], clean_ids[patch.prompt], patch.positions[0]
        token = tokens[patch.prompt][position]
        template = rngs[patch.prompt].randrange(len(activation_patching.TEMPLATES))
        if not outcome.is_statable(said(patched_id)):
            counts["patches left out: no sentence can state the output"] += 1
            continue
        question = activation_patching.question(pair.pair.clean.text, patch.layers, position, token, template)
        rows.append({
            "prompt": question.prompt,
            "completion": outcome.render(Outcome(clean_id != patched_id, said(patched_id))),
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
            "clean_output": said(clean_id),
            "patched_output": said(patched_id),
            "clean_output_id": clean_id,
            "patched_output_id": patched_id,
            "changed": clean_id != patched_id,
            "clean_log_prob": clean_log_probs[patch.prompt],
            "patched_log_prob": log_prob,
            "kl": kl,
        })  # fmt: skip
    return rows, dict(counts)


def source_means(target: Target, prompts: Sequence[Sequence[int]], blocks: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Per prompt, the mean over each block of its layers' outputs, `(n_blocks, T, d)`.

    In float16, or in float32 where that does not hold one of the prompt's vectors.
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


def draw(config: PatchingConfig, rows: Sequence[Mapping], seed: int) -> tuple[list[int], dict]:
    """Indices of the rows kept, and statistics: half of them changed in every (token type, block) of each split, and as
    nearly as can be in each prompt.

    Of the rows, `group`, `target_prompt`, `token_type`, `layers` and `changed` are read.

    Raises:
        SelfExplainError: no rows, or no patch that changes an output.
    """
    if not rows:
        raise SelfExplainError(
            "no counterfactual pairs: the corpus gave none that this target would continue with the word swapped."
        )
    rng = random.Random(seed)
    drawn: list[int] = []
    for part in by_split([{"group": row["group"], "index": index} for index, row in enumerate(rows)], seed).values():
        drawn += balanced(
            [place["index"] for place in part],
            lambda i: activation_patching.cell(rows[i]),
            lambda i: rows[i]["changed"],
            max(2, round(config.n_rows * len(part) / len(rows))),
            rng,
            lambda i: rows[i]["target_prompt"],
        )
    if not drawn:
        raise SelfExplainError(f"{len(rows)} patches changed no output: take more pairs, or another source of pairs.")
    by_type = Counter((row["token_type"], row["changed"]) for row in rows)
    by_cell = Counter(activation_patching.cell(rows[i]) for i in drawn)
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
