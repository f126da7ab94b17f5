"""Queries: one class per task that defines how a question is worded, parsed and verified.

To ask the questions of your own task, subclass `Query`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.features.description import Description
from selfexplain.features.endpoint import Endpoint
from selfexplain.modeling import verification
from selfexplain.modeling.explanation import Claim, Explanation, Verification
from selfexplain.target.capture import Layers, check_layers
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text
from selfexplain.tasks import activation_patching, feature_description, input_ablation, outcome
from selfexplain.tasks.question import Question
from selfexplain.tasks.task import Task
from selfexplain.utils.arguments import as_integer, as_text, as_texts


@dataclass(frozen=True)
class WordedQuery:
    """A question with its vectors.

    Attributes:
        question: text of the question, with a placeholder per vector.
        vectors: one vector `(d,)` per placeholder.
        layers: one target layer per vector.
    """

    question: Question
    vectors: Sequence[Tensor] = ()
    layers: Sequence[int] = ()


@dataclass(frozen=True)
class Evidence:
    """The evidence that a verification may use in addition to the target.

    Attributes:
        texts: texts on which the description of a feature is compared with the feature's activations.
        classes: names of token classes that descriptions may use -> their tokens.
        simulator: chat model that predicts activations from a description in free text.
    """

    texts: Sequence[str] | None = None
    classes: Mapping[str, set[str]] = field(default_factory=dict)
    simulator: Endpoint | None = None


class Query(ABC):
    """One question to an explainer.

    A subclass is a frozen dataclass. It sets `task`, implements `word`, and may override the other methods.

    Attributes:
        task: task that the question belongs to.
        template: index of the wording, from 0; see `templates`.
    """

    task: ClassVar[Task]

    @property
    def template(self) -> int:
        return 0

    @property
    def templates(self) -> Sequence[str]:
        """The available wordings of this question."""
        return self.task.templates

    @abstractmethod
    def word(self, n_layers: int, load_text_target: Callable[[], Target]) -> WordedQuery:
        """Word the question.

        Args:
            n_layers: number of decoder blocks of the target.
            load_text_target: returns the target, for queries that need its tokenizer. It raises SelfExplainError if the
                explainer does not explain its own base and no target was given.

        Raises:
            SelfExplainError: a field of the query is invalid.
        """

    def check(self) -> None:
        """Check the types of the fields.

        Raises:
            SelfExplainError: a field has a wrong type.
        """
        as_integer(self.template, "template")

    def wordings(self) -> list[Self]:
        """The same query in every wording, starting with this one.

        Raises:
            SelfExplainError: a field has a wrong type, or `template` is not the index of a wording.
        """
        self.check()
        n_templates = max(1, len(self.templates))
        if not 0 <= self.template < n_templates:
            raise SelfExplainError(
                f"Template {self.template} was given. This question has templates 0 to {n_templates - 1}."
            )
        others = [index for index in range(n_templates) if index != self.template]
        return [self, *(replace(self, template=index) for index in others)]  # type: ignore[type-var]

    def read(self, text: str, classes: Mapping[str, set[str]]) -> Claim | None:
        """Parse an answer. Returns None if it does not follow the task's grammar.

        Args:
            text: generated answer.
            classes: names of token classes that descriptions may use -> their tokens.
        """
        if not self.task.states_outcome:
            return Claim()
        stated = outcome.parse(text)
        return Claim(changed=stated.changed, output=stated.output) if stated else None

    def verify(self, explanation: Explanation, target: Target, evidence: Evidence) -> Verification:
        """Run the intervention on the target and compare the result with the explanation.

        Raises:
            SelfExplainError: the class does not implement this method, or evidence is missing.
        """
        raise SelfExplainError(
            f"{type(self).__name__} has no method `verify`, so explanations of {self.task.title} cannot be verified. "
            "Implement it in the query class."
        )


@dataclass(frozen=True, eq=False)
class FeatureQuery(Query):
    """Which inputs make a direction of the residual stream active?

    Attributes:
        vector: direction `(d,)`.
        layer: target layer of the direction: the output of decoder block `layer`.
        template: index of the wording, 0 to 3.
    """

    task: ClassVar[Task] = feature_description.TASK

    vector: Tensor = field(repr=False)
    layer: int
    template: int = 0

    def word(self, n_layers: int, load_text_target: Callable[[], Target]) -> WordedQuery:
        layers = check_layers(self.layer, n_layers)
        if len(layers) != 1:
            raise SelfExplainError(f"Layers {layers} were given, but a feature belongs to one layer. Give one layer.")
        if not torch.as_tensor(self.vector).any():
            raise SelfExplainError(
                "The vector is zero, so it has no direction that could be described. Give a vector that is not zero."
            )
        (layer,) = layers
        return WordedQuery(feature_description.question(layer, self.template), [self.vector], [layer])

    def read(self, text: str, classes: Mapping[str, set[str]]) -> Claim:
        return Claim(description=Description.parse(text, classes))

    def verify(self, explanation: Explanation, target: Target, evidence: Evidence) -> Verification:
        if not evidence.texts:
            raise SelfExplainError(
                "No texts were given, so the description of the feature cannot be verified. Pass texts=[...] with some "
                "sentences."
            )
        return verification.check_description(
            explanation.text, self.vector, self.layer, target, evidence.texts, evidence.classes, evidence.simulator
        )


@dataclass(frozen=True, eq=False)
class PatchQuery(Query):
    """How does the output change if a vector replaces the residual stream at one token?

    Attributes:
        text: text that the target reads.
        vector: vector `(d,)` that replaces the residual stream.
        layers: target layers whose block outputs are replaced.
        position: token index from 0, including special tokens; negative indices count from the end.
        template: index of the wording, 0 to 2.
    """

    task: ClassVar[Task] = activation_patching.TASK

    text: str
    vector: Tensor = field(repr=False)
    layers: Layers
    position: int
    template: int = 0

    def check(self) -> None:
        super().check()
        as_text(self.text, "text"), as_integer(self.position, "position")

    def word(self, n_layers: int, load_text_target: Callable[[], Target]) -> WordedQuery:
        target = load_text_target()
        ids = target.encode(self.text)
        layers = sorted(set(check_layers(self.layers, n_layers)))
        if not -len(ids) <= self.position < len(ids):
            raise SelfExplainError(
                f"Position {self.position} was given. The text has tokens 0 to {len(ids) - 1}. Give one of them."
            )
        position = self.position % len(ids)
        token = token_text(target.tokenizer, ids[position])
        question = activation_patching.question(self.text, layers, position, token, self.template)
        return WordedQuery(question, [self.vector], layers[:1])

    def verify(self, explanation: Explanation, target: Target, evidence: Evidence) -> Verification:
        clean, actual, changed = verification.run_patch(self.text, self.vector, self.layers, self.position, target)
        return verification.compare_outcome(explanation, clean, actual, changed)


@dataclass(frozen=True)
class AblationQuery(Query):
    """Does the answer change if a part of the text is removed or replaced, and to what?

    Attributes:
        text: text that the target reads.
        remove: exact part of the text to remove; None for the line that begins with "Hint:".
        replacement: text to put in its place; "" for nothing.
        choices: possible answers. If given, `verify` takes the most likely choice as the target's answer, as ground
            truth with `answers: likelihood` does. Otherwise it takes the next token.
        template: index of the wording.
    """

    task: ClassVar[Task] = input_ablation.TASK

    text: str
    remove: str | None = None
    replacement: str = ""
    choices: Sequence[str] = ()
    template: int = 0

    def check(self) -> None:
        super().check()
        as_text(self.text, "text"), as_text(self.replacement, "replacement"), as_texts(self.choices, "choices")
        if self.remove is not None:
            as_text(self.remove, "remove")

    @property
    def templates(self) -> Sequence[str]:
        return input_ablation.templates(self._named_part, self.replacement)

    @property
    def _named_part(self) -> str | None:
        """The part as the question names it: verbatim, or None for "the hint"."""
        return None if self.remove is None or self.remove.strip().startswith("Hint:") else self.remove

    def word(self, n_layers: int, load_text_target: Callable[[], Target]) -> WordedQuery:
        load_text_target().encode(self.text)  # raises if the text is empty or too long
        verification.without(self.text, self.remove)  # raises if there is nothing to remove
        return WordedQuery(input_ablation.question(self.text, self._named_part, self.template, self.replacement))

    def verify(self, explanation: Explanation, target: Target, evidence: Evidence) -> Verification:
        clean, actual, changed = verification.run_ablation(
            self.text, self.remove, self.replacement, self.choices, target
        )
        return verification.compare_outcome(explanation, clean, actual, changed)
