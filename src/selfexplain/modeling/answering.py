"""Generate answers to prepared questions in batches, with the log-probability of what each answer claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor

from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.modeling.base import GREEDY
from selfexplain.modeling.confidence import claim_log_prob
from selfexplain.modeling.explanation import Answer
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor, offsets_of, row_vectors
from selfexplain.target.blocks import context_length
from selfexplain.tasks.question import Question
from selfexplain.utils.arguments import as_integers, field_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NEW_TOKENS = 48
"""Maximum number of tokens of an answer, except for free questions."""


@dataclass(frozen=True)
class PreparedQuestion:
    """A tokenised question with its vectors.

    Attributes:
        ids: token ids of the prompt.
        positions: token position of each placeholder.
        row: `activations` and `activation_layers`, one per placeholder.
    """

    ids: list[int]
    positions: list[int]
    row: Mapping


class AnsweringMixin:
    """Answers prepared questions. `SelfExplainerForCausalLM` inherits these methods through `AskingMixin`."""

    if TYPE_CHECKING:
        config: Any
        processor: SelfExplainerProcessor | None
        device: torch.device
        generate: Any
        language_model: PreTrainedModel

    def answer(
        self,
        rows: Sequence[Mapping],
        batch_size: int = 64,
        progress: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> list[Answer]:
        """Answer ground-truth rows of any task by greedy decoding.

        Args:
            rows: rows with `prompt`, `placeholder_offsets`, `activations` and `activation_layers`, in any format of
                `datasets`. Other columns are not read.
            batch_size: maximum number of rows per batch.
            progress: label of the progress bar; None shows none.
            max_new_tokens: maximum number of tokens per answer.

        Raises:
            SelfExplainError: a row is invalid or longer than the context; the message contains its index.
        """
        prepared = []
        for index, row in enumerate(rows):
            with prefix_errors(f"Row {index}"):
                question = Question(field_of(row, "prompt"), tuple(offsets_of(row)))
                layers = as_integers(field_of(row, "activation_layers"), "activation_layers")
                prepared.append(self._prepare(question, field_of(row, "activations"), layers))
        return self._generate_answers(prepared, batch_size, progress, max_new_tokens)

    def _prepare(
        self, question: Question, vectors: Sequence[Tensor] | Tensor, layers: Sequence[int]
    ) -> PreparedQuestion:
        """Tokenise a question and check its vectors.

        Raises:
            SelfExplainError: the vectors do not fit the explainer, or the question does not fit in the context.
        """
        ids, positions = self._processor.encode(question.prompt, question.placeholder_offsets, question.template_spans)
        row = {"activations": vectors, "activation_layers": layers}
        checked, d_target = row_vectors(row, len(positions)), self.config.adapter["d_target"]
        if len(checked) and checked.shape[1] != d_target:
            raise SelfExplainError(
                f"A vector of shape {tuple(checked.shape[1:])} was given. This explainer reads vectors of shape "
                f"({d_target},)."
            )
        unreadable = sorted(set(layers) - set(self.config.layers))
        if unreadable:
            raise SelfExplainError(
                f"Vectors from layers {unreadable} were given. This explainer reads vectors from layers "
                f"{self.config.layers}."
            )
        prepared = PreparedQuestion(ids, positions, row)
        self._max_answer_tokens(prepared, 1)
        return prepared

    def _max_answer_tokens(self, prepared: PreparedQuestion, wanted: int) -> int:
        """The number of tokens that the answer may have: `wanted`, or fewer if the context holds fewer."""
        limit = context_length(self.config)
        if len(prepared.ids) >= limit:
            raise SelfExplainError(
                f"The question has {len(prepared.ids)} tokens. The context holds {limit} tokens, including the answer. "
                "Shorten the text."
            )
        return min(wanted, limit - len(prepared.ids))

    @torch.no_grad()
    def _generate_answers(
        self, prepared: Sequence[PreparedQuestion], batch_size: int, progress: str | None, max_new_tokens: int
    ) -> list[Answer]:
        """Answer questions by greedy decoding, in batches of similar length. Answers keep the order of the questions.

        All questions of a batch have the same maximum answer length, so that a long question does not shorten the
        answers to others.

        Raises:
            SelfExplainError: `batch_size` or `max_new_tokens` is not a positive integer.
        """
        for name, value in {"batch_size": batch_size, "max_new_tokens": max_new_tokens}.items():
            if not isinstance(value, int) or value < 1:
                raise SelfExplainError(f"{name} is {value!r}. Expected an integer of at least 1.")
        order = sorted(range(len(prepared)), key=lambda index: len(prepared[index].ids))
        answers: dict[int, Answer] = {}
        limits = [self._max_answer_tokens(prepared[index], max_new_tokens) for index in order]  # non-increasing
        with tqdm(total=len(prepared), desc=progress, unit="row", disable=progress is None, mininterval=2) as bar:
            start = 0
            while start < len(order):
                end = start + limits[start : start + batch_size].count(limits[start])
                indices = order[start:end]
                batch = self._generate_batch([prepared[index] for index in indices], limits[start])
                answers |= dict(zip(indices, batch, strict=True))
                bar.update(len(indices))
                start = end
        return [answers[index] for index in range(len(prepared))]

    def _generate_batch(self, prepared: Sequence[PreparedQuestion], max_new_tokens: int) -> list[Answer]:
        inputs = self._collate(prepared)
        recorder = _GreedyLogProbs()
        sequences = self.generate(
            **inputs, **GREEDY, **self._end_options, max_new_tokens=max_new_tokens,
            logits_processor=[recorder],
        )  # fmt: skip
        tokens = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        log_probs = torch.stack(recorder.steps, 1).tolist()
        return [self._read_tokens(*one) for one in zip(tokens, log_probs, strict=True)]

    @torch.no_grad()
    def _generate_freely(self, prepared: PreparedQuestion, options: Mapping[str, Any]) -> Answer:
        """Answer one question with any options of `generate`; greedy decoding by default."""
        fixed = {"return_dict_in_generate": True, "output_logits": True}
        merged = {**GREEDY, **self._end_options, **options, **fixed}
        generated = self.generate(**self._collate([prepared]), **merged)
        tokens = generated.sequences[0, len(prepared.ids) :]
        beams = generated.get("beam_indices")
        log_probs = [
            logits[0 if beams is None else beams[0, step]].float().log_softmax(-1)[token].item()
            for step, (logits, token) in enumerate(zip(generated.logits, tokens, strict=False))
        ]
        return self._read_tokens(tokens.tolist(), log_probs)

    def _collate(self, prepared: Sequence[PreparedQuestion]) -> dict[str, Tensor]:
        """A batch of questions, padded on the left, on the explainer's device."""
        batch = self._processor.collate(
            [one.ids for one in prepared], [one.positions for one in prepared], [one.row for one in prepared], left=True
        )
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _read_tokens(self, tokens: Sequence[int], log_probs: Sequence[float]) -> Answer:
        """Decode generated tokens up to and including the first end-of-text token."""
        tokenizer = self._processor.tokenizer
        ends = [position + 1 for position, token in enumerate(tokens) if token in self._end_ids]
        n_tokens = min(ends, default=len(tokens))
        prefixes = [tokenizer.decode(tokens[:end], skip_special_tokens=True) for end in range(n_tokens + 1)]
        pieces = [text[len(before) :] for before, text in pairwise(prefixes)]
        return Answer(prefixes[-1].strip(), claim_log_prob(pieces, log_probs[:n_tokens]))

    @property
    def _processor(self) -> SelfExplainerProcessor:
        if self.processor is None:
            raise SelfExplainError(
                "This explainer has no processor. Set explainer.processor = SelfExplainerProcessor(tokenizer)."
            )
        return self.processor

    @property
    def _end_options(self) -> dict[str, Any]:
        """Options of `generate` that end an answer."""
        return {"eos_token_id": self._end_ids, "pad_token_id": self._processor.tokenizer.pad_token_id or 0}

    @property
    def _end_ids(self) -> list[int]:
        """Token ids that end an answer: the tokenizer's end of text, and those of the base's generation settings.

        Chat models have a separate token for the end of a turn, which only the generation settings contain.
        """
        ends = self.language_model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return sorted({self._processor.tokenizer.eos_token_id, *ends} - {None})


class _GreedyLogProbs(LogitsProcessor):
    """Records the log-probability of the most likely token of each step, `(B,)`, which greedy decoding chooses.

    `generate` itself can only keep the logits of all steps, `(B, T, vocabulary)`.
    """

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores
