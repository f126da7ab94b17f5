"""Run the interventions of a dataset again, one by one and the plain way, and compare."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import is_whole
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.target.ablation import answers
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.load import Target, load_target

MAX_DISAGREEING = 0.02  # below float32 padding and batching move near-ties


@dataclass(frozen=True)
class Disagreement:
    """A row that a plain run does not confirm."""

    split: str
    row: int
    stored: str
    found: str


@dataclass(frozen=True)
class CheckResult:
    """How many rows were run again, which of them came out otherwise, and whether that is too many."""

    target: str
    n_rows: int
    disagreements: list[Disagreement]
    passed: bool


def check_dataset(directory: Path, n_rows: int = 100, seed: int = 0, target: Target | None = None) -> CheckResult:
    """Compare the files with their hashes, and a sample of rows with what the target does now.

    Args:
        n_rows: rows of all splits together; interventions only, descriptions have no outcome to run again.
        target: by default the model that the rows name is loaded.

    Raises:
        SelfExplainError: no dataset, a file that is not as it was written, or rows without an intervention.
    """
    if (directory / "manifest.json").is_file() and not is_whole(directory):
        raise SelfExplainError(
            f"{directory}: a file is not what was written there (its SHA-256 differs): build it anew."
        )
    rows = [
        (split, index, row) for split in SPLITS for index, row in enumerate(read_rows(directory / f"{split}.parquet"))
    ]
    if "changed" not in rows[0][2]:
        raise SelfExplainError(f"{directory} holds descriptions of features: there is no intervention to run again.")
    if target is None:
        statistics = json.loads((directory / "statistics.json").read_text(encoding="utf-8"))
        row = rows[0][2]
        options = {"quantization_config": quantized} if (quantized := statistics.get("target_quantization")) else {}
        target = load_target(row["target_model"], row["target_revision"], statistics["target_dtype"], **options)
    run = _patched if "position" in rows[0][2] else _ablated
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n_rows]
    disagreements = []
    for split, index, row in tqdm([rows[i] for i in sorted(chosen)], desc="running again", unit="row"):
        stored, found = run(target, row)
        if stored != found:
            disagreements.append(Disagreement(split, index, stored, found))
    allowed = 0 if target.model.dtype == torch.float32 else MAX_DISAGREEING * len(chosen)
    return CheckResult(target.name, len(chosen), disagreements, len(disagreements) <= allowed)


def _patched(target: Target, row: Mapping[str, Any]) -> tuple[str, str]:
    """Stored and found output of a patching row, before and after the patch."""
    vector = torch.as_tensor(np.asarray(row["activations"][0], np.float32), device=target.model.device)

    def write(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, row["position"]] = vector.to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    clean = _next_token(target, row["prompt_ids"])
    blocks = decoder_blocks(target.model)
    with ExitStack() as stack:
        for layer in row["layers"]:
            stack.callback(blocks[layer].register_forward_hook(write).remove)
        patched = _next_token(target, row["prompt_ids"])
    decode = target.tokenizer.decode
    stored = f"{row['clean_output']!r} -> {row['patched_output']!r}"
    return stored, f"{decode([clean])!r} -> {decode([patched])!r}"


def _ablated(target: Target, row: Mapping[str, Any]) -> tuple[str, str]:
    """Stored and found output of an ablation row, with the removed span and without it.

    Rows of old datasets do not say what took its place, nor what counted as the answer: nothing, and the next token.
    """
    begin, end = row["removed_span"]
    texts = row["target_prompt"], row["target_prompt"][:begin] + row.get("replacement", "") + row["target_prompt"][end:]
    if row.get("answered_by") == "likelihood":
        found = [answer.output for text in texts for answer in answers(target, [text], [row["choices"]], "likelihood")]
    else:
        found = [target.tokenizer.decode([_next_token(target, target.encode(text))]).strip() for text in texts]
    return f"{row['full_output']!r} -> {row['ablated_output']!r}", f"{found[0]!r} -> {found[1]!r}"


@torch.no_grad()
def _next_token(target: Target, ids: Sequence[int]) -> int:
    logits = target.model(input_ids=torch.tensor([list(ids)], device=target.model.device), use_cache=False).logits
    return int(logits[0, -1].argmax())
