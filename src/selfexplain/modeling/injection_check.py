"""Check that a loaded explainer reads its vectors as it did when it was saved.

An explainer that lost its LoRA weights, or writes its vectors under a different contract, still answers fluently. So
each explainer is saved with a few golden questions, its answers to them and their log-probabilities, and must reproduce
the log-probabilities when it is loaded.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired

import torch
from pydantic import BaseModel, Field
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import TypedDict  # pydantic needs this one on Python 3.11

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base import GREEDY
from selfexplain.target.untrusted import read_json, report_errors
from selfexplain.tasks import TASKS, free_question, input_ablation
from selfexplain.tasks.question import Question

if TYPE_CHECKING:
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.modeling.repository import ExplainerFiles

logger = logging.getLogger(__name__)

JSON_FILE = "injection_check.json"
TENSOR_FILE = "injection_check.safetensors"

TOLERANCE = {"float32": 0.002, "float16": 0.05, "bfloat16": 0.2, "int8": 0.4, "nf4": 2.0}
"""Precision -> nats per token by which log-probabilities may differ between machines, kernels and precisions.

The difference is averaged over the answers to all golden questions. Of the precisions at saving and at loading, the
larger tolerance applies.
"""

MIN_EFFECT = 1e-4
"""Nats per token by which other vectors must change the log-probabilities.

All variants are scored in one batch, so without injection the difference is almost exactly 0.
"""

N_ROWS, N_TOKENS = 4, 12
MAX_ROWS, MAX_TOKENS, MAX_PROMPT_TOKENS = 64, 64, 65_536
"""Largest number of golden questions, of tokens of each answer, and of tokens of all questions together."""

TEXT = "The capital of France is Paris, and the capital of Japan is Tokyo."


class _Row(TypedDict):
    """A golden question in `JSON_FILE`; its vectors are in `TENSOR_FILE`."""

    prompt: Annotated[str, Field(max_length=262_144)]
    placeholder_offsets: Annotated[list[int], Field(max_length=256)]
    activation_layers: Annotated[list[int], Field(max_length=256)]
    template_spans: NotRequired[list[tuple[int, int]]]


class _Saved(BaseModel):
    """The content of `JSON_FILE`."""

    precision: Literal["float32", "float16", "bfloat16", "int8", "nf4"]
    rows: Annotated[list[_Row], Field(max_length=MAX_ROWS)]
    input_ids: Annotated[list[list[int]], Field(max_length=MAX_ROWS)]


@dataclass(frozen=True)
class Golden:
    """What a loaded explainer must reproduce.

    Attributes:
        rows: questions in the form that `SelfExplainerProcessor` takes.
        input_ids: token ids of each question when it was saved.
        answers: token ids of greedy answers, `(N, N_TOKENS)`.
        log_probs: log-probabilities of these tokens, `(N, N_TOKENS)`, nats.
        precision: precision of the base when it was saved, a key of `TOLERANCE`.
    """

    rows: list[dict]
    input_ids: list[list[int]]
    answers: Tensor
    log_probs: Tensor
    precision: str


def precision(base: PreTrainedModel) -> str:
    """Return the precision of a base, a key of `TOLERANCE`."""
    if getattr(base, "is_loaded_in_4bit", False):
        return "nf4"
    if getattr(base, "is_loaded_in_8bit", False):
        return "int8"
    return str(base.dtype).removeprefix("torch.")


@torch.no_grad()
def make(explainer: "SelfExplainerForCausalLM") -> Golden:
    """Answer the golden questions: `explainer.golden_rows`, or generated ones if it has none."""
    rows = (explainer.golden_rows or _questions(explainer))[:MAX_ROWS]
    pad = explainer._processor.tokenizer.pad_token_id or 0
    encoded = [explainer._processor.encode_row(row) for row in rows]
    inputs = _batch(explainer, encoded, rows)
    length = {"max_new_tokens": N_TOKENS, "min_new_tokens": N_TOKENS}
    generated = explainer.generate(**inputs, **(GREEDY | length), pad_token_id=pad)
    answers = generated[:, inputs["input_ids"].shape[1] :].cpu()
    ids = [ids for ids, _ in encoded]
    return Golden(rows, ids, answers, score(explainer, rows, answers), precision(explainer.language_model))


@torch.no_grad()
def check(explainer: "SelfExplainerForCausalLM", golden: Golden) -> None:
    """Score the saved answers again: with the golden vectors, with zero vectors and with shuffled vectors.

    Raises:
        SelfExplainError: the token ids or the log-probabilities changed, or the vectors have no effect.
    """
    _check_tokens(explainer, golden)
    has_vectors = any(row["activations"] for row in golden.rows)
    variants = [golden.rows, _zeroed(golden.rows), _shuffled(golden.rows)] if has_vectors else [golden.rows]
    rows = [row for variant in variants for row in variant]
    scored = score(explainer, rows, golden.answers.repeat(len(variants), 1))
    real, *others = scored.chunk(len(variants))
    current = precision(explainer.language_model)
    tolerance = max(TOLERANCE[golden.precision], TOLERANCE[current])
    gap = (real - golden.log_probs).abs().mean().item()
    if not gap <= tolerance:  # NaN fails too
        raise SelfExplainError(
            f"Injection check: the log-probabilities of the saved answers changed by {gap:.3g} nats per token, but "
            f"only {tolerance:g} are allowed (saved in {golden.precision}, loaded in {current}). The LoRA weights, the "
            "adapter, the injection contract or the base are not those that the explainer was saved with. Download the "
            "explainer and its base again at their recorded revisions. To load it anyway, pass check_injection=False."
        )
    effect = max(((real - other).abs().mean().item() for other in others), default=1.0)
    if effect < MIN_EFFECT:
        raise SelfExplainError(
            "Injection check: zero and shuffled vectors give the same log-probabilities as the real vectors (the "
            f"difference is {effect:.2g} nats per token), so the explainer does not read its vectors and its answers "
            "are invented. Check that the contract in config.json is the one that it was trained with. To load it "
            "anyway, pass check_injection=False."
        )


def _check_tokens(explainer: "SelfExplainerForCausalLM", golden: Golden) -> None:
    """Check that the tokenizer encodes the golden questions as it did when the explainer was saved."""
    for index, (row, expected) in enumerate(zip(golden.rows, golden.input_ids, strict=True)):
        ids, _ = explainer._processor.encode_row(row)
        if ids != expected:
            raise SelfExplainError(
                f"Injection check: the tokenizer encodes golden question {index} as {len(ids)} tokens "
                f"{_excerpt(ids, expected)}, but the explainer was saved with {len(expected)} tokens "
                f"{_excerpt(expected, ids)}, so vectors would be written at different positions. Load the explainer "
                "with the tokenizer that it was saved with."
            )


def write(explainer: "SelfExplainerForCausalLM", directory: Path) -> None:
    """Write the golden questions and the explainer's answers to them."""
    explainer.eval()
    golden = make(explainer)
    try:
        check(explainer, golden)
    except SelfExplainError as error:
        logger.warning("The explainer was saved, but loading it will fail: %s", error)
    fields = ("prompt", "placeholder_offsets", "template_spans", "activation_layers")
    text = {
        "precision": golden.precision,
        "rows": [{name: row[name] for name in fields if name in row} for row in golden.rows],
        "input_ids": golden.input_ids,
    }
    (directory / JSON_FILE).write_text(json.dumps(text) + "\n", encoding="utf-8")
    vectors = [torch.as_tensor(vector, dtype=torch.float32) for row in golden.rows for vector in row["activations"]]
    tensors = {"answers": golden.answers, "log_probs": golden.log_probs}
    if vectors:
        tensors["vectors"] = torch.stack(vectors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / TENSOR_FILE)


def delete(directory: Path) -> None:
    """Delete the golden questions of an explainer that was saved in a directory before."""
    for name in (JSON_FILE, TENSOR_FILE):
        (directory / name).unlink(missing_ok=True)


def read(files: "ExplainerFiles") -> Golden | None:
    """Read the golden questions of a saved explainer; None if it was saved without them.

    Raises:
        SelfExplainError: the two files do not match, or one is missing or damaged.
    """
    path = files.find(JSON_FILE)
    if path is None:
        return None
    tensors = files.tensors(TENSOR_FILE)
    text = read_json(path, f"{files.name}: {JSON_FILE}")
    with report_errors(
        f"{files.name}: {JSON_FILE} and {TENSOR_FILE} do not match",
        "Save or download the explainer again. To load it without reading these files, pass check_injection=False.",
    ):
        saved = _Saved.model_validate(text)
        answers, log_probs = tensors["answers"], tensors["log_probs"]
        vectors = list(tensors.get("vectors", ()))
        n_vectors = sum(len(row["placeholder_offsets"]) for row in saved.rows)
        if not len(saved.rows) == len(saved.input_ids) == len(answers) or answers.shape != log_probs.shape:
            raise ValueError("The numbers of questions and answers differ")
        if n_vectors != len(vectors):
            raise ValueError(f"The questions have {n_vectors} placeholders, but there are {len(vectors)} vectors")
        if answers.dtype != torch.int64 or answers.ndim != 2 or answers.shape[1] > MAX_TOKENS:
            raise ValueError(f"The answers are {answers.dtype} {tuple(answers.shape)}, expected token ids")
        if sum(map(len, saved.input_ids)) > MAX_PROMPT_TOKENS:
            raise ValueError(f"The questions have more than {MAX_PROMPT_TOKENS} tokens")
        remaining = iter(vectors)
        rows = [
            dict(row) | {"activations": [next(remaining) for _ in row["placeholder_offsets"]]} for row in saved.rows
        ]
        return Golden(rows, saved.input_ids, answers, log_probs.float(), saved.precision)


def _questions(explainer: "SelfExplainerForCausalLM") -> list[dict]:
    """Generate golden questions for an explainer that has no `golden_rows`.

    If none of its tasks has vectors, the questions are about a text. Otherwise they are about activations of the base
    if the base is the target, and about random vectors if it is not.
    """
    config = explainer.config
    tasks = [TASKS[name] for name in config.tasks if name in TASKS]
    if tasks and not any(task.has_vectors for task in tasks):
        return [_row(input_ablation.question(TEXT, removed), [], []) for removed in ("of Japan", None)]
    available = config.layers
    layers = sorted({available[round(i * (len(available) - 1) / (N_ROWS - 1))] for i in range(N_ROWS)})
    if not config.merged and config.target["model"] == config.base_model_name_or_path:
        vectors = explainer.capture(TEXT, layers)[:, -1].float().cpu()  # (n_layers, d)
    else:
        shape = (len(layers), config.adapter["d_target"])
        vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = []
    for index in range(N_ROWS):  # with fewer than N_ROWS layers, also the negated vectors
        layer, vector = layers[index % len(layers)], vectors[index % len(layers)]
        question = free_question.question(None, [layer], config.injection["template"])
        sign = -1.0 if index >= len(layers) else 1.0
        n = len(question.placeholder_offsets)
        rows.append(_row(question, [sign * vector] * n, [layer] * n))
    return rows


def _row(question: Question, vectors: Sequence[Tensor], layers: Sequence[int]) -> dict:
    return vars(question) | {"activations": vectors, "activation_layers": layers}


def _zeroed(rows: Sequence[dict]) -> list[dict]:
    """Return the rows with every vector replaced by zeros."""
    return [row | {"activations": [torch.zeros_like(torch.as_tensor(v)) for v in row["activations"]]} for row in rows]


def _shuffled(rows: Sequence[dict]) -> list[dict]:
    """Return the rows with every vector replaced by the next one, across rows."""
    vectors = [vector for row in rows for vector in row["activations"]]
    rolled = iter([*vectors[1:], *vectors[:1]])
    return [row | {"activations": [next(rolled) for _ in row["activations"]]} for row in rows]


def score(explainer: "SelfExplainerForCausalLM", rows: Sequence[dict], answers: Tensor) -> Tensor:
    """Return the log-probabilities of given answers.

    Args:
        explainer: explainer to score with.
        rows: N questions.
        answers: token ids of the answers, `(N, n_tokens)`.

    Returns:
        `(N, n_tokens)` float32 on the CPU, nats.
    """
    n = answers.shape[1]
    encoded = [explainer._processor.encode_row(row) for row in rows]
    answered = [(ids + answer.tolist(), slots) for (ids, slots), answer in zip(encoded, answers, strict=True)]
    inputs = _batch(explainer, answered, rows)
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # as generate counts them
    logits = explainer(**inputs, logits_to_keep=n + 1).logits[:, :-1].float()  # (N, n, vocabulary)
    return logits.log_softmax(-1).gather(-1, answers[..., None].to(logits.device))[..., 0].cpu()


def _batch(
    explainer: "SelfExplainerForCausalLM", encoded: Sequence[tuple[list[int], list[int]]], rows: Sequence[Mapping]
) -> dict[str, Tensor]:
    """Pad encoded questions, given as token ids and slots, into a batch on the explainer's device."""
    ids, positions = zip(*encoded, strict=True)
    batch = explainer._processor.collate(ids, positions, rows, left=True)
    return {name: tensor.to(explainer.device) for name, tensor in batch.items()}


def _excerpt(ids: Sequence[int], other: Sequence[int]) -> str:
    """Return four token ids from the first one on at which two sequences differ."""
    start = next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), min(len(ids), len(other)))
    return f"(...{list(ids[start : start + 4])}...)"
