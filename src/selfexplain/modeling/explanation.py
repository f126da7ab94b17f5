"""What an explainer answers."""

from collections.abc import Mapping
from dataclasses import dataclass

from selfexplain.tasks import outcome


@dataclass(frozen=True)
class Answer:
    """One generated answer: its text and the log-probability of its tokens (end of text included, nats)."""

    text: str
    log_prob: float


@dataclass(frozen=True)
class Explanation:
    """An answer, what was asked, and what the answer claims.

    Attributes:
        text: the answer as generated.
        task: "feature_description", "activation_patching" or "input_ablation".
        prompt: the question, `<activation>` where a vector went.
        changed: whether the output would change; None for a feature description or an answer that cannot be read.
        output: the output after the intervention, under the same conditions.
        confidence: probability of the answer's tokens, not calibrated.
        injection: the contract under which the vectors went in.
    """

    text: str
    task: str
    prompt: str
    changed: bool | None
    output: str | None
    confidence: float
    injection: Mapping

    @property
    def parsed(self) -> bool:
        """Whether the answer follows the grammar of its task."""
        return self.task == "feature_description" or self.changed is not None

    def __str__(self) -> str:
        return self.text


def read(task: str, prompt: str, answer: Answer, injection: Mapping) -> Explanation:
    """Parse an answer."""
    from math import exp

    claim = None if task == "feature_description" else outcome.parse(answer.text)
    return Explanation(
        text=answer.text,
        task=task,
        prompt=prompt,
        changed=claim.changed if claim else None,
        output=claim.output if claim else None,
        confidence=exp(answer.log_prob),
        injection=injection,
    )
