"""What can be asked, and what is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from selfexplain.features.description import Description


@dataclass(frozen=True, eq=False)
class FeatureQuery:
    """What inputs make a direction `vector (d,)` of the residual stream after block `layer` active?

    `template` is which of the task's wordings it is asked in, here and below.
    """

    vector: Tensor = field(repr=False)
    layer: int
    template: int = 0


@dataclass(frozen=True, eq=False)
class PatchQuery:
    """If `vector (d,)` replaces the residual stream after each block of `layers` at a token, what happens?

    Attributes:
        text: what the target reads.
        position: token index, from 0, special tokens included; negative from the end.
    """

    text: str
    vector: Tensor = field(repr=False)
    layers: Sequence[int]
    position: int
    template: int = 0


@dataclass(frozen=True)
class AblationQuery:
    """If `remove` (the hint, where None) is taken out of `text`, does the answer change, and to what?

    Attributes:
        text: what the target reads.
        remove: the part, letter by letter; None for the line that begins with "Hint:".
        replacement: what takes its place; "" for nothing.
        choices: what the target can answer: its answer is the likeliest of these as a whole, as in ground truth with
            `answers: likelihood`. Where there are none it is its next token.
    """

    text: str
    remove: str | None = None
    replacement: str = ""
    choices: Sequence[str] = ()
    template: int = 0


Query = FeatureQuery | PatchQuery | AblationQuery


@dataclass(frozen=True)
class Answer:
    """One generated answer: its text and the log-probability (nats) of what it claims, see `claim_log_prob`."""

    text: str
    log_prob: float


@dataclass(frozen=True)
class Explanation:
    """An answer, what was asked, and what the answer claims.

    Attributes:
        text: the answer as generated.
        task: "feature_description", "activation_patching", "input_ablation" or "free_question".
        prompt: the question, `<activation>` where a vector went.
        changed: whether the output would change; None for other questions, or an answer that cannot be read.
        output: the output after the intervention, under the same conditions.
        description: the description of a feature; None for other questions, or one outside the grammar.
        confidence: probability that the claim is right, as calibrated for its task (`config.calibration`); where it
            was not calibrated, the probability of the claim's tokens. 0 for an answer that cannot be read.
        agreement: share of the question's paraphrases that got the same answer; None where they were not asked.
        answered: whether the answer counts; False where it cannot be read or is less confident than `abstain_below`.
        injection: the contract under which the vectors went in.
        query: what was asked; None for a free question. `verify` runs it.
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
    query: Query | None

    @property
    def parsed(self) -> bool:
        """Whether the answer follows the grammar of its task."""
        return self.task in ("feature_description", "free_question") or self.changed is not None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class FeatureOnText:
    """Where a feature is active in a text, and where its description says so.

    Attributes:
        tokens: as decoded one by one; special tokens and attention sinks are left out.
        actual: projection of the residual stream on the feature's direction at each.
        predicted: 1 where the description holds, 0 elsewhere; strengths from 0 to 10 where a chat model read it; None
            where nobody could.
    """

    tokens: tuple[str, ...]
    actual: tuple[float, ...]
    predicted: tuple[float, ...] | None


@dataclass(frozen=True)
class Verification:
    """What really happens, beside what an explanation says.

    Attributes:
        agrees: whether the explanation is right: changed or not, and the output, letter by letter; of a feature,
            whether its description correlates with the activations at least as `AGREES_FROM` says. None for a
            description outside the offline grammar, unless a `simulator` read it.
        clean_output: what the target says without the intervention; None for a feature.
        actual_output: what it says after it; None for a feature.
        actual_changed: whether its next token is another one; None for a feature.
        correlation: of the activations that the description predicts with the true ones; None for an intervention,
            and where `agrees` is.
        texts: where the feature is active; empty for an intervention.
    """

    agrees: bool | None
    clean_output: str | None = None
    actual_output: str | None = None
    actual_changed: bool | None = None
    correlation: float | None = None
    texts: tuple[FeatureOnText, ...] = ()
