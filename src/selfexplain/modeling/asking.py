"""Ask an explainer: word queries, parse the answers into explanations, and verify them on the target."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.features.endpoint import Endpoint
from selfexplain.modeling.answering import MAX_NEW_TOKENS, AnsweringMixin
from selfexplain.modeling.confidence import confidence
from selfexplain.modeling.explanation import FREE_QUESTION, Answer, Claim, Explanation, Verification
from selfexplain.modeling.queries import AblationQuery, Evidence, FeatureQuery, PatchQuery, Query
from selfexplain.target import capture as residual
from selfexplain.target.load import Target
from selfexplain.tasks import free_question
from selfexplain.tasks.question import Question
from selfexplain.utils.arguments import as_list, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NEW_TOKENS_FREE = 128
"""Default maximum number of tokens of the answer to a free question."""


class AskingMixin(AnsweringMixin):
    """Methods of `SelfExplainerForCausalLM` that read the target, ask the explainer and verify its answers.

    If the explainer does not explain its own base, methods that read the target need `target=load_target(...)`.
    """

    if TYPE_CHECKING:

        def as_target(self) -> AbstractContextManager[PreTrainedModel]: ...

    def capture(self, text: str, layers: residual.Layers, target: Target | None = None) -> Tensor:
        """Read the target's residual stream on a text.

        Args:
            text: text that the target reads.
            layers: decoder blocks whose outputs are returned: an integer, a list, a range or an array.
            target: target; None for the explainer's own base.

        Returns:
            `(n_layers, T, d)`.

        Raises:
            SelfExplainError: the text is empty or too long, a layer does not exist, or there is no target.
        """
        with self._running_target(target) as running:
            ids = torch.tensor([running.encode(text)], device=running.model.device)
            return residual.capture(running.model, ids, layers)[:, 0]

    def explain_feature(self, vector: Tensor, layer: int, template: int = 0) -> Explanation:
        """Ask which inputs make a direction of the residual stream active.

        Args:
            vector: direction `(d,)`.
            layer: target layer of the direction.
            template: index of the wording.
        """
        return self._explain([FeatureQuery(vector, layer, template)], with_index=False)[0]

    def explain_patch(
        self,
        text: str,
        vector: Tensor,
        layers: residual.Layers,
        position: int,
        template: int = 0,
        target: Target | None = None,
    ) -> Explanation:
        """Ask how the output changes if a vector replaces the residual stream at one token.

        Args:
            text: text that the target reads.
            vector: vector `(d,)` that replaces the residual stream.
            layers: target layers whose block outputs are replaced.
            position: token index from 0, including special tokens; negative indices count from the end.
            template: index of the wording.
            target: target; None for the explainer's own base.
        """
        query = PatchQuery(text, vector, layers, position, template)
        return self._explain([query], target=target, with_index=False)[0]

    def explain_ablation(
        self,
        text: str,
        remove: str | None = None,
        replacement: str = "",
        choices: Sequence[str] = (),
        template: int = 0,
        target: Target | None = None,
    ) -> Explanation:
        """Ask whether the answer changes if a part of the text is removed or replaced, and to what.

        Args:
            text: text that the target reads.
            remove: exact part of the text to remove, which occurs once; None for the line that begins with "Hint:".
            replacement: text to put in its place; "" for nothing.
            choices: possible answers, of which `verify` takes the most likely; empty for the next token.
            template: index of the wording.
            target: target; None for the explainer's own base.
        """
        query = AblationQuery(text, remove, replacement, choices, template)
        return self._explain([query], target=target, with_index=False)[0]

    def explain(
        self,
        queries: Iterable[Query],
        batch_size: int = 64,
        progress: str | None = None,
        paraphrases: bool = False,
        abstain_below: float | None = None,
        target: Target | None = None,
    ) -> list[Explanation]:
        """Answer any mixture of queries, in batches of similar length.

        Args:
            queries: queries of any classes derived from `Query`.
            batch_size: maximum number of questions per batch.
            progress: label of the progress bar; None shows none.
            paraphrases: whether to ask each query in every wording of its task. `agreement` is then the fraction of
                wordings with the same answer, and `confidence` the mean over all wordings, where a different answer
                counts as 0.
            abstain_below: confidence below which an explanation is not `answered`; None for `config.abstain_below`.
            target: target; None for the explainer's own base.

        Raises:
            SelfExplainError: there are no queries, or one is invalid; the message contains its index. No query is
                answered then.
        """
        return self._explain(queries, batch_size, progress, paraphrases, abstain_below, target)

    def ask(
        self, question: str | None, vectors: Sequence[Tensor] | Tensor, layers: residual.Layers, **generate_kwargs
    ) -> Explanation:
        """Ask a free question about vectors, in the prompt that the injection contract prescribes.

        Args:
            question: question; None for the contract's own question.
            vectors: one or more vectors, `(K, d)`.
            layers: target layer of each vector, `(K,)`.
            generate_kwargs: options of `generate`. The default is greedy decoding of at most 128 tokens.

        Raises:
            SelfExplainError: vectors and layers do not match, or the contract's prompt has no place for a question.
        """
        numbers = residual.layer_numbers(layers)
        vectors = as_list(vectors, "vectors", "vectors")
        if question is not None:
            as_text(question, "question")
        if not vectors or len(vectors) != len(numbers):
            raise SelfExplainError(
                f"{len(vectors)} vectors and {len(numbers)} layers were given. Give at least one vector, and one layer "
                "per vector."
            )
        checked = residual.check_layers(numbers, self.config.target["n_layers"])
        worded = free_question.question(question, checked, self.config.injection["template"])
        order = worded.vectors or ()
        prepared = self._prepare(worded, [vectors[index] for index in order], [checked[index] for index in order])
        options = {"max_new_tokens": self._max_answer_tokens(prepared, MAX_NEW_TOKENS_FREE), **generate_kwargs}
        answer = self._generate_freely(prepared, options)
        return self._explanation(None, worded, answer, self.config.abstain_below)

    def verify(
        self,
        explanation: Explanation,
        target: Target | None = None,
        texts: Sequence[str] | None = None,
        classes: Mapping[str, set[str]] | None = None,
        simulator: Endpoint | None = None,
    ) -> Verification:
        """Run the intervention of an explanation's query on the target, and compare the result.

        Args:
            explanation: explanation to verify.
            target: target; None for the explainer's own base.
            texts: texts on which the description of a feature is compared with the feature's activations.
            classes: names of token classes that a description may use in addition to the built-in ones -> their
                tokens; None for `config.classes`.
            simulator: chat model that predicts activations from a description in free text. Without it, only
                descriptions in the offline grammar can be verified.

        Raises:
            SelfExplainError: the explanation answers a free question, a feature comes without texts, there is no
                target, or the simulator cannot be reached.
        """
        if explanation.query is None:
            raise SelfExplainError(
                "The explanation answers a free question, which has no intervention to run. Verify explanations of "
                "queries only."
            )
        evidence = Evidence(texts, self._classes if classes is None else classes, simulator)
        with self._running_target(target) as running:
            return explanation.query.verify(explanation, running, evidence)

    # ---------------------------------------------------------------- target

    @contextmanager
    def _running_target(self, target: Target | None) -> Iterator[Target]:
        """The target, ready to run: the given one, or the explainer's own base with its LoRA weights switched off."""
        checked = self._text_target(target)
        with self.as_target() if target is None else nullcontext():
            yield checked

    def _text_target(self, target: Target | None) -> Target:
        """The target, for its tokenizer and context length. Use `_running_target` to run it."""
        expected = self.config.target
        if target is None:
            if expected["model"] != self.config.base_model_name_or_path:
                raise SelfExplainError(
                    f"No target was given. This explainer explains {expected['model']}, which is not its own base. "
                    f"Pass target=load_target({expected['model']!r})."
                )
            name = self.config.base_model_name_or_path or "this explainer's base"
            return Target(self.language_model, self._processor.tokenizer, name, self.config.base_model_revision)
        if (target.n_layers, target.d_model) != (expected["n_layers"], expected["d_model"]):
            raise SelfExplainError(
                f"The target {target.name} has {target.n_layers} layers of width {target.d_model}. This explainer "
                f"explains {expected['model']}, which has {expected['n_layers']} layers of width {expected['d_model']}."
            )
        return target

    # ---------------------------------------------------------------- explanations

    def _explain(
        self,
        queries: Iterable[Query],
        batch_size: int = 64,
        progress: str | None = None,
        paraphrases: bool = False,
        abstain_below: float | None = None,
        target: Target | None = None,
        with_index: bool = True,
    ) -> list[Explanation]:
        """See `explain`. `with_index` determines whether errors contain the index of the query."""
        queries = list(queries)
        if not queries:
            raise SelfExplainError("No queries were given. Give at least one.")
        n_layers = self.config.target["n_layers"]
        prepared = []
        questions: list[list[Question]] = []  # per query, the question in each wording that is asked
        for index, query in enumerate(queries):
            with prefix_errors(f"Query {index}") if with_index else nullcontext():
                wordings = query.wordings() if paraphrases else query.wordings()[:1]
                worded = [wording.word(n_layers, lambda: self._text_target(target)) for wording in wordings]
                prepared += [self._prepare(one.question, one.vectors, one.layers) for one in worded]
                self._warn_if_untrained(query, worded[0].layers)
                questions.append([one.question for one in worded])
        answers = iter(self._generate_answers(prepared, batch_size, progress, MAX_NEW_TOKENS))
        threshold = self.config.abstain_below if abstain_below is None else abstain_below
        explanations = []
        for query, wordings_of_query in zip(queries, questions, strict=True):
            each = [self._explanation(query, question, next(answers), threshold) for question in wordings_of_query]
            explanations.append(_pool(each, threshold) if paraphrases else each[0])
        return explanations

    def _warn_if_untrained(self, query: Query, layers: Sequence[int]) -> None:
        task = query.task.name
        trained = self.config.layers_of(task)
        if untrained := sorted(set(layers) - set(trained)):
            training = (
                f"trained on {task} at layers {trained} and not at layers {untrained}"
                if trained
                else f"not trained on {task}"
            )
            warnings.warn(
                f"This explainer was {training}. Its answer and its confidence may be meaningless.",
                stacklevel=4,  # the caller of `explain`, `explain_feature`, ...
            )

    def _explanation(
        self, query: Query | None, question: Question, answer: Answer, abstain_below: float
    ) -> Explanation:
        """Parse an answer; `query` is None for a free question."""
        task = FREE_QUESTION if query is None else query.task.name
        claim = Claim() if query is None else query.read(answer.text, self._classes)
        calibration = (self.config.calibration or {}).get(task)
        probability = 0.0 if claim is None else float(confidence(answer.log_prob, calibration))
        return Explanation(
            text=answer.text,
            task=task,
            prompt=question.prompt,
            changed=claim.changed if claim else None,
            output=claim.output if claim else None,
            description=claim.description if claim else None,
            confidence=probability,
            agreement=None,
            answered=claim is not None and probability >= abstain_below,
            injection=self.config.injection,
            query=query,
        )

    @property
    def _classes(self) -> dict[str, set[str]]:
        return {name: set(tokens) for name, tokens in (self.config.classes or {}).items()}


def _pool(wordings: Sequence[Explanation], abstain_below: float) -> Explanation:
    """The first explanation, with the agreement and the mean confidence of all wordings of its question."""
    first = wordings[0]
    same = [other.claim == first.claim for other in wordings]
    total = sum(other.confidence for other, agrees in zip(wordings, same, strict=True) if agrees)
    mean = total / len(wordings)
    return replace(
        first, confidence=mean, agreement=sum(same) / len(same), answered=first.parsed and mean >= abstain_below
    )
