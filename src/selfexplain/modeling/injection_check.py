"""Proof that injection is live: golden vectors, and what the explainer said of them when it was saved.

An explainer that lost its LoRA weights, or reads its vectors under another convention, still answers fluently. So each
one is saved with a few questions, its answers and their log-probabilities, and has to reproduce them when it is loaded.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from selfexplain.errors import SelfExplainError
from selfexplain.tasks import free_question, input_ablation
from selfexplain.tasks.question import Question

if TYPE_CHECKING:
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.modeling.repository import Repository

logger = logging.getLogger(__name__)

JSON_FILE = "injection_check.json"
TENSOR_FILE = "injection_check.safetensors"
# Nats a token, on average over the golden answers, by which log-probabilities may differ between machines, kernels and
# precisions: the looser of the one it was saved in and the one it is loaded in.
TOLERANCE = {"float32": 0.002, "float16": 0.05, "bfloat16": 0.2, "int8": 0.4, "nf4": 2.0}
# Below this, other vectors change nothing: the batch is one and the same, so a dead injection gives almost exactly 0.
LIVE = 1e-4
N_ROWS, N_TOKENS = 4, 12
TEXT = "The capital of France is Paris, and the capital of Japan is Tokyo."


@dataclass(frozen=True)
class Golden:
    """What an explainer has to reproduce.

    Attributes:
        rows: questions, as `SelfExplainerProcessor` takes them.
        input_ids: each question's, as the tokenizer encoded it.
        answers: token ids of greedy answers, `(N, N_TOKENS)`.
        log_probs: of these tokens, `(N, N_TOKENS)`, nats.
        precision: of the base then, a key of `TOLERANCE`.
    """

    rows: list[dict]
    input_ids: list[list[int]]
    answers: Tensor
    log_probs: Tensor
    precision: str


def precision(base: PreTrainedModel) -> str:
    """The base's, a key of `TOLERANCE`."""
    if getattr(base, "is_loaded_in_4bit", False):
        return "nf4"
    if getattr(base, "is_loaded_in_8bit", False):
        return "int8"
    return str(base.dtype).removeprefix("torch.")


@torch.no_grad()
def make(explainer: "SelfExplainerForCausalLM") -> Golden:
    """Ask the golden questions: `explainer.golden_rows`, or a few about the explainer's layers."""
    rows = explainer.golden_rows or _questions(explainer)
    pad = explainer._processor.tokenizer.pad_token_id or 0
    encoded = [_encoded(explainer, row) for row in rows]
    inputs = _batch(explainer, encoded, rows)
    generated = explainer.generate(
        **inputs, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS, do_sample=False, num_beams=1,
        pad_token_id=pad,
    )  # fmt: skip
    answers = generated[:, inputs["input_ids"].shape[1] :].cpu()
    ids = [ids for ids, _ in encoded]
    return Golden(rows, ids, answers, _score(explainer, rows, answers), precision(explainer.language_model))


@torch.no_grad()
def check(explainer: "SelfExplainerForCausalLM", golden: Golden) -> None:
    """Ask again, with the golden vectors, with others' vectors and with zeros.

    Raises:
        SelfExplainError: the tokenizer, the log-probabilities or the effect of the vectors are not what they were.
    """
    ids = [_encoded(explainer, row)[0] for row in golden.rows]
    if ids != golden.input_ids:
        row = next(index for index, (now, then) in enumerate(zip(ids, golden.input_ids, strict=True)) if now != then)
        raise SelfExplainError(
            f"injection check: the tokenizer encodes the golden question {row} as {len(ids[row])} tokens "
            f"{_excerpt(ids[row], golden.input_ids[row])} where the explainer was saved with "
            f"{len(golden.input_ids[row])} {_excerpt(golden.input_ids[row], ids[row])}: vectors would go to other "
            "places. Load the explainer with the tokenizer that it was saved with."
        )
    takes_vectors = any(row["activations"] for row in golden.rows)
    variants = [golden.rows, _zeroed(golden.rows), _shuffled(golden.rows)] if takes_vectors else [golden.rows]
    rows = [row for variant in variants for row in variant]
    scored = _score(explainer, rows, golden.answers.repeat(len(variants), 1))
    real, *others = scored.chunk(len(variants))
    now = precision(explainer.language_model)
    tolerance = max(TOLERANCE[golden.precision], TOLERANCE[now])
    gap = (real - golden.log_probs).abs().mean().item()
    if not gap <= tolerance:  # a NaN is no pass
        raise SelfExplainError(
            f"injection check: the golden answers differ from what they were by {gap:.3g} nats a token; "
            f"{tolerance:g} are allowed (saved in {golden.precision}, loaded in {now}). The LoRA weights, the adapter, "
            "the injection contract or the base are not those that it was saved with. Get the repository and the base "
            "at their recorded revisions again; check_injection=False loads it all the same."
        )
    moved = max(((real - other).abs().mean().item() for other in others), default=1.0)
    if moved < LIVE:
        raise SelfExplainError(
            f"injection check: zero and shuffled vectors give the same log-probabilities as the real ones (they move "
            f"them by {moved:.2g} nats a token): the vectors are not read, and every answer is invented. Look whether "
            "the contract in config.json is the one it was trained with; check_injection=False loads it all the same."
        )


def write(explainer: "SelfExplainerForCausalLM", directory: Path) -> None:
    """Write the golden rows and what the explainer makes of them now."""
    explainer.eval()
    golden = make(explainer)
    try:
        check(explainer, golden)
    except SelfExplainError as error:
        logger.warning("saved, but it will be refused when it is loaded: %s", error)
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


def read(repository: "Repository") -> Golden | None:
    """The golden rows of a saved explainer; None where it has none.

    Raises:
        SelfExplainError: files that do not belong together.
    """
    path = repository.file(JSON_FILE)
    if path is None:
        return None
    tensors = repository.tensors(TENSOR_FILE)
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
        vectors = iter(tensors.get("vectors", ()))
        rows = [row | {"activations": [next(vectors) for _ in row["placeholder_offsets"]]} for row in text["rows"]]
        answers, log_probs = tensors["answers"], tensors["log_probs"]
        if not len(rows) == len(text["input_ids"]) == len(answers) or answers.shape != log_probs.shape:
            raise ValueError("other numbers of questions and answers")
        if text["precision"] not in TOLERANCE:
            raise ValueError(f"precision {text['precision']!r}")
        return Golden(rows, text["input_ids"], answers, log_probs, text["precision"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise SelfExplainError(
            f"{repository.given}: {JSON_FILE} and {TENSOR_FILE} do not belong together ({error!r}). "
            "Save or download it again; check_injection=False does not read them."
        ) from error


def _questions(explainer: "SelfExplainerForCausalLM") -> list[dict]:
    """Questions about activations of the base where that is the target, about drawn vectors otherwise."""
    config = explainer.config
    if config.tasks == ["input_ablation"]:
        return [_row(input_ablation.question(TEXT, removed), [], []) for removed in ("of Japan", None)]
    known = config.layers
    layers = sorted({known[round(i * (len(known) - 1) / (N_ROWS - 1))] for i in range(N_ROWS)})
    if not config.merged and config.target["model"] == config.base_model_name_or_path:
        vectors = explainer.capture(TEXT, layers)[:, -1].float().cpu()  # (n_layers, d)
    else:
        shape = (len(layers), config.adapter["d_target"])
        vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = []
    for index in range(N_ROWS):  # with few layers, several tokens or signs of one
        layer, vector = layers[index % len(layers)], vectors[index % len(layers)]
        question = free_question.question(None, [layer], config.injection["template"])
        sign = -1.0 if index >= len(layers) else 1.0
        n = len(question.placeholder_offsets)
        rows.append(_row(question, [sign * vector] * n, [layer] * n))
    return rows


def _row(question: Question, vectors: Sequence[Tensor], layers: Sequence[int]) -> dict:
    return vars(question) | {"activations": vectors, "activation_layers": layers}


def _zeroed(rows: Sequence[dict]) -> list[dict]:
    return [row | {"activations": [torch.zeros_like(torch.as_tensor(v)) for v in row["activations"]]} for row in rows]


def _shuffled(rows: Sequence[dict]) -> list[dict]:
    """Each vector takes the place of the next one, of whatever row."""
    vectors = [vector for row in rows for vector in row["activations"]]
    rolled = iter([*vectors[1:], *vectors[:1]])
    return [row | {"activations": [next(rolled) for _ in row["activations"]]} for row in rows]


def _score(explainer: "SelfExplainerForCausalLM", rows: Sequence[dict], answers: Tensor) -> Tensor:
    """Log-probabilities `(N, n_tokens)` of `answers (N, n_tokens)` to `rows`, on the CPU in float32."""
    n = answers.shape[1]
    encoded = [_encoded(explainer, row) for row in rows]
    answered = [(ids + answer.tolist(), at) for (ids, at), answer in zip(encoded, answers, strict=True)]
    inputs = _batch(explainer, answered, rows)
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # as generate counts them
    logits = explainer(**inputs, logits_to_keep=n + 1).logits[:, :-1].float()  # (N, n, vocabulary)
    return logits.log_softmax(-1).gather(-1, answers[..., None].to(logits.device))[..., 0].cpu()


def _encoded(explainer: "SelfExplainerForCausalLM", row: Mapping) -> tuple[list[int], list[int]]:
    return explainer._processor.encode(row["prompt"], row["placeholder_offsets"], row.get("template_spans", ()))


def _batch(
    explainer: "SelfExplainerForCausalLM", encoded: Sequence[tuple[list[int], list[int]]], rows: Sequence[Mapping]
) -> dict[str, Tensor]:
    ids, positions = zip(*encoded, strict=True)
    batch = explainer._processor.collate(ids, positions, rows, left=True)
    return {name: tensor.to(explainer.device) for name, tensor in batch.items()}


def _excerpt(ids: Sequence[int], other: Sequence[int]) -> str:
    start = next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), min(len(ids), len(other)))
    return f"(...{list(ids[start : start + 4])}...)"
