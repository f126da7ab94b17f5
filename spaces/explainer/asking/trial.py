"""Records of what the demo shows: a question with the explainer's answer, the control and the measurement."""

from dataclasses import dataclass
from typing import Self

from selfexplain import Explanation


@dataclass(frozen=True)
class Answer:
    """One answer of the explainer.

    Attributes:
        text: The answer as generated.
        changed: Whether the answer states that the output changes; None for descriptions and unparsable answers.
        output: The output that the answer states; None in the same cases.
        confidence: Confidence from 0 to 1; None for a control.
        answered: Whether the confidence reaches the explainer's threshold.
        correct: Whether the answer matches the measurement; None for a description, which is scored instead.
        score: Correlation of a description with the similarity of each reference token to the vector. None if the
            description applies to no token or is outside the offline grammar.
    """

    text: str
    changed: bool | None = None
    output: str | None = None
    confidence: float | None = None
    answered: bool = True
    correct: bool | None = None
    score: float | None = None

    @classmethod
    def of(cls, explanation: Explanation, correct: bool | None = None, score: float | None = None) -> Self:
        """Return an explanation as an answer, with its correctness or its score."""
        return cls(
            explanation.text,
            explanation.changed,
            explanation.output,
            explanation.confidence,
            explanation.answered,
            correct,
            score,
        )


@dataclass(frozen=True)
class Exemplar:
    """A text with one activation per token, from 0 to 1."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """A question with the explainer's answer, the answer to the control question, and the measurement.

    Attributes:
        task: Name of the task.
        prompt: The question, with `<activation>` where a vector was inserted.
        explanation: The explainer's answer.
        control: The same explainer's answer to the control question.
        control_from: Description of what replaced the evidence in the control question.
        before: The target's next token without the intervention.
        after: The target's next token with the intervention; for a description, the next token after the picked one.
        exemplars: Reference texts with the tokens most similar to the vector.
        shades: Similarity of each token of the visitor's text to the vector.
        by_layer: The explainer's description of the picked token at every layer that it reads.
    """

    task: str
    prompt: str
    explanation: Answer
    control: Answer
    control_from: str
    before: str | None = None
    after: str | None = None
    exemplars: tuple[Exemplar, ...] = ()
    shades: tuple[float, ...] = ()
    by_layer: tuple[str, ...] = ()


@dataclass(frozen=True)
class PatchMap:
    """Predicted and measured effect of a patch at every token and block of layers.

    Attributes:
        tokens: Tokens of the patched text.
        blocks: Blocks of layers.
        predicted: `[token][block]`, probability that the explainer assigns to a change.
        actual: `[token][block]`, whether the output changes.
    """

    tokens: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    actual: tuple[tuple[bool, ...], ...]
