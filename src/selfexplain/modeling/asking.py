"""The questions that can be put to an explainer."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor

from selfexplain.errors import SelfExplainError
from selfexplain.features.description import Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.modeling import verification
from selfexplain.modeling.confidence import claim_log_prob, confidence
from selfexplain.modeling.explanation import (
    AblationQuery,
    Answer,
    Explanation,
    FeatureQuery,
    PatchQuery,
    Query,
    Verification,
)
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor, naming, row_vectors
from selfexplain.target import capture as residual
from selfexplain.target.blocks import context_length
from selfexplain.target.load import Target
from selfexplain.tasks import activation_patching, feature_description, free_question, input_ablation, outcome
from selfexplain.tasks.question import Question

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NEW_TOKENS = 48
MAX_NEW_TOKENS_FREE = 128


@dataclass(frozen=True)
class _Asked:
    """A question ready to be answered: token ids of the prompt, and the vectors with their layers and positions."""

    ids: list[int]
    positions: list[int]
    row: Mapping


class AskingMixin:
    """Reads the target, asks the explainer, checks the answer; `SelfExplainerForCausalLM` has these methods.

    Where the explainer does not explain its own base, what reads the target takes it as `target=load_target(...)`.
    """

    if TYPE_CHECKING:
        config: Any
        processor: SelfExplainerProcessor | None
        device: torch.device
        generate: Any
        language_model: PreTrainedModel

        def as_target(self) -> AbstractContextManager[PreTrainedModel]: ...

    def capture(self, text: str, layers: Sequence[int], target: Target | None = None) -> Tensor:
        """The target's residual stream, `(n_layers, T, d)`: outputs of decoder blocks `layers` on `text`.

        Raises:
            SelfExplainError: an empty or over-long text, a layer that does not exist, or no target.
        """
        with self._run(target) as read:
            ids = torch.tensor([read.encode(text)], device=read.model.device)
            return residual.capture(read.model, ids, layers)[:, 0]

    def explain_feature(self, vector: Tensor, layer: int, template: int = 0) -> Explanation:
        """What inputs make a direction `(d,)` of the residual stream after block `layer` active?"""
        return self._explain([FeatureQuery(vector, layer, template)], named=False)[0]

    def explain_patch(
        self,
        text: str,
        vector: Tensor,
        layers: Sequence[int],
        position: int,
        template: int = 0,
        target: Target | None = None,
    ) -> Explanation:
        """If `vector (d,)` replaces the residual stream after each block of `layers` at token `position`, what happens?

        Args:
            text: what the target reads.
            position: token index, from 0, special tokens included; negative from the end.
        """
        return self._explain([PatchQuery(text, vector, layers, position, template)], target=target, named=False)[0]

    def explain_ablation(
        self,
        text: str,
        remove: str | None = None,
        replacement: str = "",
        choices: Sequence[str] = (),
        template: int = 0,
        target: Target | None = None,
    ) -> Explanation:
        """If `remove` (the hint, where None) is taken out of `text`, does the answer change, and to what?

        Args:
            remove: letter by letter; it occurs once.
            replacement: what takes its place; "" for nothing.
            choices: `verify` takes the likeliest of these as a whole for the target's answer, else its next token.
        """
        query = AblationQuery(text, remove, replacement, choices, template)
        return self._explain([query], target=target, named=False)[0]

    def explain(
        self,
        queries: Sequence[Query],
        batch_size: int = 64,
        progress: str | None = None,
        paraphrases: bool = False,
        abstain_below: float | None = None,
        target: Target | None = None,
    ) -> list[Explanation]:
        """Put any mixture of the three questions, as many as there are, in batches of similar length.

        Args:
            queries: of the kinds in `explanation.Query`.
            progress: names a progress bar.
            paraphrases: also put each question in every other wording of its task. `agreement` is the share of wordings
                that got the same answer, and the confidence is averaged over them all, counting 0 for another answer.
            abstain_below: explanations of less confidence are not `answered`; by default `config.abstain_below`.

        Raises:
            SelfExplainError: no queries, or one that cannot be right, by its index. Nothing is asked then.
        """
        return self._explain(queries, batch_size, progress, paraphrases, abstain_below, target)

    @torch.no_grad()
    def ask(
        self, question: str | None, vectors: Sequence[Tensor] | Tensor, layers: Sequence[int], **generate_kwargs
    ) -> Explanation:
        """Ask anything about some vectors, in the prompt that the injection contract prescribes.

        Args:
            question: None asks what the contract's template asks by itself.
            vectors: `(K, d)`, one or more.
            layers: `(K,)`, of the target, where each vector was taken.
            generate_kwargs: of `generate`; greedy decoding of at most 128 tokens by default.

        Raises:
            SelfExplainError: vectors and layers that do not match, or a question that the contract has no place for.
        """
        if not len(vectors) or len(vectors) != len(layers):
            raise SelfExplainError(
                f"{len(vectors)} vectors and {len(layers)} layers given; one layer a vector is needed."
            )
        layers = self._layers(layers)
        put = free_question.question(question, layers, self.config.injection["template"])
        which = put.vectors or ()
        asked = self._asked(put, [vectors[n] for n in which], [layers[n] for n in which])
        defaults = {"do_sample": False, "num_beams": 1, "max_new_tokens": self._room(asked, MAX_NEW_TOKENS_FREE)}
        inputs = self._processor.collate([asked.ids], [asked.positions], [asked.row], left=True)
        generated = self.generate(
            **{name: tensor.to(self.device) for name, tensor in inputs.items()},
            **defaults | self._ends | generate_kwargs, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        tokens = generated.sequences[0, len(asked.ids) :]
        beams = generated.get("beam_indices")
        log_probs = [
            step[0 if beams is None else beams[0, n]].float().log_softmax(-1)[token].item()
            for n, (step, token) in enumerate(zip(generated.logits, tokens, strict=False))
        ]
        answer = self._answer(tokens.tolist(), log_probs)
        return self._read("free_question", put, answer, None, self.config.abstain_below)

    def answer(
        self,
        rows: Sequence[Mapping],
        batch_size: int = 64,
        progress: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> list[Answer]:
        """Greedy answers to ground-truth rows, of which only the question is read; `progress` names a progress bar.

        Raises:
            SelfExplainError: rows that cannot be right, or longer than the context, by their index.
        """
        asked = []
        for index, row in enumerate(rows):
            with naming(f"row {index}"):
                put = Question(row["prompt"], tuple(row["placeholder_offsets"]))
                asked.append(self._asked(put, row["activations"], row["activation_layers"]))
        return self._answers(asked, batch_size, progress, max_new_tokens)

    def verify(
        self,
        explanation: Explanation,
        target: Target | None = None,
        texts: Sequence[str] | None = None,
        classes: Mapping[str, set[str]] | None = None,
        simulator: Endpoint | None = None,
    ) -> Verification:
        """Do what was asked about to the target, and compare.

        Args:
            texts: on which the description of a feature is held against its activations.
            classes: of tokens that a description may name, beside the built-in ones; by default `config.classes`.
            simulator: a chat model that foretells activations from a description in any words; without one only
                descriptions in the offline grammar can be checked.

        Raises:
            SelfExplainError: a free question, a feature without texts, no target, or a simulator that cannot be asked.
        """
        known = self._classes if classes is None else classes
        with self._run(target) as run:
            return verification.verify(explanation, run, texts, known, simulator)

    # ---------------------------------------------------------------- the target

    @contextmanager
    def _run(self, target: Target | None) -> Iterator[Target]:
        """What is explained, ready to run: the target given, or this explainer's own base with its LoRA off."""
        explained = self._explained(target)
        with self.as_target() if target is None else nullcontext():
            yield explained

    def _explained(self, target: Target | None) -> Target:
        """What is explained, to read text with; to run it, see `_run`."""
        expected = self.config.target
        if target is None:
            if expected["model"] != self.config.base_model_name_or_path:
                raise SelfExplainError(
                    f"this explainer explains {expected['model']}, which is not its own base: "
                    f"give target=load_target({expected['model']!r})."
                )
            name = self.config.base_model_name_or_path or "this explainer's base"
            return Target(self.language_model, self._processor.tokenizer, name, self.config.base_model_revision)
        if (target.n_layers, target.d_model) != (expected["n_layers"], expected["d_model"]):
            raise SelfExplainError(
                f"{target.name} has {target.n_layers} layers of width {target.d_model}; this explainer explains "
                f"{expected['model']}, {expected['n_layers']} layers of width {expected['d_model']}."
            )
        return target

    def _layers(self, layers: Sequence[int]) -> list[int]:
        return residual.check_layers(list(layers), self.config.target["n_layers"])

    # ---------------------------------------------------------------- questions

    def _explain(
        self,
        queries: Sequence[Query],
        batch_size: int = 64,
        progress: str | None = None,
        paraphrases: bool = False,
        abstain_below: float | None = None,
        target: Target | None = None,
        named: bool = True,
    ) -> list[Explanation]:
        if not queries:
            raise SelfExplainError("no queries given: ask at least one question.")
        asked: list[_Asked] = []
        put: list[tuple[str, Question, int]] = []  # task, question, and in how many wordings it is asked
        for index, query in enumerate(queries):
            with naming(f"query {index}") if named else nullcontext():
                wordings = [query, *(_other_wordings(query) if paraphrases else [])]
                questions = [self._question(wording, target) for wording in wordings]
                asked += [self._asked(question, vectors, layers) for _, question, vectors, layers in questions]
                self._warn_of_untrained(questions[0][0], questions[0][3])
                put.append((*questions[0][:2], len(questions)))
        answers = iter(self._answers(asked, batch_size, progress, MAX_NEW_TOKENS))
        threshold = self.config.abstain_below if abstain_below is None else abstain_below
        explanations = []
        for query, (task, question, n) in zip(queries, put, strict=True):
            found = [self._read(task, question, next(answers), query, threshold) for _ in range(n)]
            explanations.append(_pooled(found, threshold) if paraphrases else found[0])
        return explanations

    def _question(self, query: Query, target: Target | None) -> tuple[str, Question, Sequence[Tensor], Sequence[int]]:
        """Task, question, vectors and layers of a query."""
        n_templates = len(_templates(query))
        if not 0 <= query.template < n_templates:
            raise SelfExplainError(f"template {query.template} given; this question has 0 to {n_templates - 1}.")
        if isinstance(query, FeatureQuery):
            (layer,) = self._layers([query.layer])
            return "feature_description", feature_description.question(layer, query.template), [query.vector], [layer]
        read = self._explained(target)
        ids = read.encode(query.text)
        if isinstance(query, PatchQuery):
            layers = sorted(set(self._layers(query.layers)))
            if not -len(ids) <= query.position < len(ids):
                raise SelfExplainError(f"position {query.position} given; the text has tokens 0 to {len(ids) - 1}.")
            position = query.position % len(ids)
            token = read.tokenizer.decode([ids[position]])
            question = activation_patching.question(query.text, layers, position, token, query.template)
            return "activation_patching", question, [query.vector], layers[:1]
        verification.without(query.text, query.remove)  # raises where there is nothing to remove
        put = input_ablation.question(query.text, _named(query), query.template, query.replacement)
        return "input_ablation", put, [], []

    def _warn_of_untrained(self, task: str, layers: Sequence[int]) -> None:
        if untrained := sorted(set(layers) - set(self.config.layers_of(task))):
            known = self.config.layers_of(task)
            trained = (
                f"trained for {task} at the layers {known}, not at {untrained}" if known else f"not trained for {task}"
            )
            warnings.warn(
                f"this explainer was {trained}: its answer may mean nothing, and its confidence less.", stacklevel=4
            )

    def _asked(self, question: Question, vectors: Sequence[Tensor] | Tensor, layers: Sequence[int]) -> _Asked:
        """Raises SelfExplainError where question, vectors and context do not fit."""
        ids, positions = self._processor.encode(question.prompt, question.placeholder_offsets, question.template_spans)
        row = {"activations": vectors, "activation_layers": layers}
        checked, d = row_vectors(row, len(positions)), self.config.adapter["d_target"]
        if len(checked) and checked.shape[1] != d:
            raise SelfExplainError(f"a vector of shape ({d},) is needed; {tuple(checked.shape[1:])} given.")
        unread = sorted(set(layers) - set(self.config.layers))
        if unread:
            raise SelfExplainError(f"layers {unread} given; this explainer reads vectors of {self.config.layers}.")
        asked = _Asked(ids, positions, row)
        self._room(asked, 1)
        return asked

    def _room(self, asked: _Asked, wanted: int) -> int:
        """How many tokens the answer may have, at most `wanted`."""
        limit = context_length(self.config)
        if len(asked.ids) >= limit:
            raise SelfExplainError(
                f"the question has {len(asked.ids)} tokens, the context holds {limit}: shorten the text."
            )
        return min(wanted, limit - len(asked.ids))

    # ---------------------------------------------------------------- answers

    @torch.no_grad()
    def _answers(
        self, asked: Sequence[_Asked], batch_size: int, progress: str | None, max_new_tokens: int
    ) -> list[Answer]:
        order = sorted(range(len(asked)), key=lambda index: len(asked[index].ids))
        answers: dict[int, Answer] = {}
        rooms = [self._room(asked[index], max_new_tokens) for index in order]
        with tqdm(total=len(asked), desc=progress, unit="row", disable=progress is None, mininterval=2) as bar:
            start = 0
            while start < len(order):
                end = start + rooms[start : start + batch_size].count(rooms[start])  # room shrinks along the order
                part = [asked[index] for index in order[start:end]]
                inputs = self._processor.collate(
                    [one.ids for one in part], [one.positions for one in part], [one.row for one in part], left=True
                )
                recorder = _GreedyLogProbs()
                sequences = self.generate(
                    **{name: tensor.to(self.device) for name, tensor in inputs.items()}, **self._ends,
                    do_sample=False, num_beams=1, max_new_tokens=rooms[start],
                    logits_processor=[recorder],
                )  # fmt: skip
                tokens = sequences[:, inputs["input_ids"].shape[1] :].tolist()
                log_probs = torch.stack(recorder.steps, 1).tolist()
                for index, row, steps in zip(order[start:end], tokens, log_probs, strict=True):
                    answers[index] = self._answer(row, steps)
                bar.update(len(part))
                start = end
        return [answers[index] for index in range(len(asked))]

    def _answer(self, tokens: Sequence[int], log_probs: Sequence[float]) -> Answer:
        """Read generated tokens up to the end of text, which counts as one of them."""
        tokenizer = self._processor.tokenizer
        ends = [position + 1 for position, token in enumerate(tokens) if token in self._end_ids]
        n = min(ends, default=len(tokens))
        read = [tokenizer.decode(tokens[:end], skip_special_tokens=True) for end in range(n + 1)]
        pieces = [text[len(before) :] for before, text in pairwise(read)]
        return Answer(read[-1].strip(), claim_log_prob(pieces, log_probs[:n]))

    def _read(
        self, task: str, question: Question, answer: Answer, query: Query | None, abstain_below: float
    ) -> Explanation:
        """Parse an answer."""
        states_outcome = task in ("activation_patching", "input_ablation")
        claim = outcome.parse(answer.text) if states_outcome else None
        readable = claim is not None or not states_outcome
        calibration = (self.config.calibration or {}).get(task)
        sure = float(confidence(answer.log_prob, calibration)) if readable else 0.0
        return Explanation(
            text=answer.text,
            task=task,
            prompt=question.prompt,
            changed=claim.changed if claim else None,
            output=claim.output if claim else None,
            description=Description.parse(answer.text, self._classes) if task == "feature_description" else None,
            confidence=sure,
            agreement=None,
            answered=readable and sure >= abstain_below,
            injection=self.config.injection,
            query=query,
        )

    @property
    def _processor(self) -> SelfExplainerProcessor:
        if self.processor is None:
            raise SelfExplainError(
                "this explainer has no processor: set explainer.processor = SelfExplainerProcessor(tokenizer)."
            )
        return self.processor

    @property
    def _ends(self) -> dict[str, Any]:
        return {"eos_token_id": self._end_ids, "pad_token_id": self._processor.tokenizer.pad_token_id or 0}

    @property
    def _end_ids(self) -> list[int]:
        """End of text and of a turn: the tokenizer names one, the base's generation settings may name both."""
        ends = self.language_model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return sorted({self._processor.tokenizer.eos_token_id, *ends} - {None})

    @property
    def _classes(self) -> dict[str, set[str]]:
        return {name: set(tokens) for name, tokens in (self.config.classes or {}).items()}


class _GreedyLogProbs(LogitsProcessor):
    """Keeps the log-probability of each step's most likely token, `(B,)` a step: of what greedy decoding takes.

    `generate` would keep whole logits, `(B, T, vocabulary)`.
    """

    def __init__(self):
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


def _templates(query: Query) -> Sequence[str]:
    if isinstance(query, FeatureQuery):
        return feature_description.TEMPLATES
    if isinstance(query, PatchQuery):
        return activation_patching.TEMPLATES
    return input_ablation.templates(_named(query), query.replacement)


def _named(query: AblationQuery) -> str | None:
    """What the question calls the part: as it is, or None for the hint."""
    return None if query.remove is None or query.remove.strip().startswith("Hint:") else query.remove


def _other_wordings(query: Query) -> list[Query]:
    return [replace(query, template=n) for n in range(len(_templates(query))) if n != query.template]


def _pooled(wordings: Sequence[Explanation], abstain_below: float) -> Explanation:
    """The first explanation, made as sure as all wordings of its question together are."""
    first = wordings[0]
    same = [_claim(other) == _claim(first) for other in wordings]
    sure = sum(other.confidence for other, agrees in zip(wordings, same, strict=True) if agrees) / len(wordings)
    answered = first.parsed and sure >= abstain_below
    return replace(first, confidence=sure, agreement=sum(same) / len(same), answered=answered)


def _claim(explanation: Explanation) -> tuple | str:
    return explanation.text if explanation.changed is None else (explanation.changed, explanation.output)
