"""Settings of an evaluation."""

from dataclasses import dataclass
from typing import Literal

from selfexplain.errors import SelfExplainError
from selfexplain.utils.bounds import Amount, Count, Positive

EXPLAINED_BY = {
    "self": "itself",
    "other": "another model",
    "nearest_neighbour": "nearest neighbour",
    "strongest_reader": "strongest reader",
}
"""Role of an explainer in a comparison -> its name in tables, figures, cards and the demo."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How explainers are scored.

    Attributes:
        rows_limit: maximum number of test rows per test set, drawn at random; None for all rows.
        batch_size: number of rows answered at a time.
        n_resamples: number of resamples of the groups behind each interval and each p-value.
        abstain_below: confidence below which an explanation does not count as an answer; stored in the explainer's
            config.
        selfie_rows: number of validation rows on which the scale of the SelfIE baseline is chosen; 0 skips the
            baseline.
        without_vectors: whether to train a second explainer on the same rows without their vectors, as a baseline. It
            costs as much as the training of the explainer.
        simulator: simulator that predicts activations from descriptions. "offline" reads only the offline grammar.
            None chooses "endpoint" if an endpoint is named here, if it scored the ground truth, or if the
            ground truth has free words, and "offline" otherwise.
        endpoint: base URL of an OpenAI-compatible endpoint, with its key in OPENAI_API_KEY; None for the endpoint of
            `feature_description`.
        endpoint_model: name of the model at the endpoint; None for the model of `feature_description`.
        endpoint_concurrency: number of concurrent requests.
        endpoint_timeout: timeout of a request, in seconds.
    """

    rows_limit: Count | None = None
    batch_size: Count = 64
    n_resamples: Count = 2000
    abstain_below: float = 0.5
    selfie_rows: Amount = 100
    without_vectors: bool = False
    simulator: Literal["offline", "endpoint"] | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    endpoint_concurrency: Count = 8
    endpoint_timeout: Positive = 120.0


@dataclass(frozen=True)
class ComparisonConfig:
    """Explainers that are trained in addition to the recipe's explainer. Off if neither models nor shares are given.

    Attributes:
        models: models other than the target. Each of them, and the target, is explained by all of them.
        revisions: one revision per entry of `models`; a run keeps the commits that it resolved when it first started.
        shares: shares of the training groups, nested for the same seed; training on all rows is always included.
        n_seeds: number of training runs per explainer; each draws its shares with a different seed.
    """

    models: tuple[str, ...] = ()
    revisions: tuple[str | None, ...] = ()
    shares: tuple[float, ...] = ()
    n_seeds: Count = 1

    def __post_init__(self) -> None:
        if self.revisions and len(self.revisions) != len(self.models):
            raise SelfExplainError(
                f"comparison.revisions has {len(self.revisions)} entries, but comparison.models has "
                f"{len(self.models)}. Give one revision per model, or leave comparison.revisions out."
            )
        if not all(0 < share <= 1 for share in self.shares) or self.n_seeds < 1:
            raise SelfExplainError(
                f"comparison has shares {list(self.shares)} and n_seeds {self.n_seeds}. Expected shares above 0 and at "
                "most 1, and at least one seed."
            )

    @property
    def is_on(self) -> bool:
        return bool(self.models or self.shares)
