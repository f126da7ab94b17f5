"""The objects that an explainer returns: answers, explanations, and the results of verifying them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selfexplain.features.description import Description

if TYPE_CHECKING:
    from selfexplain.modeling.queries import Query

FREE_QUESTION = "free_question"
"""`Explanation.task` of the answer to a free question."""


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: generated text, without special tokens and surrounding spaces.
        log_prob: log-probability in nats of what the answer claims; see `confidence.claim_log_prob`.
    """

    text: str
    log_prob: float


@dataclass(frozen=True)
class Claim:
    """The content of an answer that follows the grammar of its task.

    Attributes:
        changed: whether the output would change; None for tasks whose answers do not state an outcome.
        output: output after the intervention; None for tasks whose answers do not state an outcome.
        description: parsed description of a feature; None for other tasks and for free text.
    """

    changed: bool | None = None
    output: str | None = None
    description: Description | None = None


@dataclass(frozen=True)
class Explanation:
    """An answer together with its question and what it claims.

    Attributes:
        text: generated answer.
        task: name of the task, such as "feature_description", or "free_question".
        prompt: question, with `<activation>` where a vector was inserted.
        changed: whether the output would change; None for other tasks and for unreadable answers.
        output: output after the intervention; None for other tasks and for unreadable answers.
        description: parsed description of a feature; None for other tasks and for descriptions outside the grammar.
        confidence: probability that the claim is correct, calibrated per task (`config.calibration`). Without a
            calibration, the probability of the claim's tokens. 0 for unreadable answers.
        agreement: fraction of the question's wordings that got the same answer; None without paraphrases.
        answered: whether the answer counts. False for unreadable answers and for a confidence below `abstain_below`.
        injection: injection contract under which the vectors were inserted.
        query: query that was asked; None for free questions. `verify` runs it.
    """

    text: str
    task: str
    prompt: str
    changed: bool | None
    output: str | None
    description: Description | None
    confidence: float
    agreement: float | None
    answered: bool
    injection: Mapping = field(repr=False)
    query: "Query | None"

    @property
    def parsed(self) -> bool:
        """Whether the answer follows the grammar of its task."""
        return self.query is None or self.query.read(self.text, {}) is not None

    @property
    def claim(self) -> tuple | str:
        """The values in which two answers to one question must agree to count as the same answer."""
        return self.text if self.changed is None else (self.changed, self.output)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class FeatureOnText:
    """The activations of a feature on one text, with those that its description predicts.

    Attributes:
        tokens: tokens, decoded one by one, without special tokens and attention sinks.
        actual: projection of the residual stream on the feature's direction at each token.
        predicted: predicted activation at each token: 0 or 1 for a description in the offline grammar, 0 to 10 if a
            chat model simulated it. None if neither could read the description.
    """

    tokens: tuple[str, ...]
    actual: tuple[float, ...]
    predicted: tuple[float, ...] | None


@dataclass(frozen=True)
class Verification:
    """The true effect of what an explanation describes.

    Attributes:
        agrees: whether the explanation is correct. For an outcome, the verdict and the output must both match exactly.
            For a feature, the correlation must be at least `verification.MIN_CORRELATION`. None for a description that
            neither the offline grammar nor a simulator could read.
        clean_output: the target's output without the intervention; None for a feature.
        actual_output: the target's output after the intervention; None for a feature.
        actual_changed: whether the two outputs differ; None for a feature.
        correlation: correlation between predicted and true activations; None for an intervention, and where `agrees`
            is None.
        texts: activations of the feature per text; empty for an intervention.
    """

    agrees: bool | None
    clean_output: str | None = None
    actual_output: str | None = None
    actual_changed: bool | None = None
    correlation: float | None = None
    texts: tuple[FeatureOnText, ...] = ()
