"""Settings of an evaluation."""

from dataclasses import dataclass
from typing import Literal

from selfexplain.errors import SelfExplainError

EXPLAINED_BY = {"self": "itself", "other": "another model", "nearest_neighbour": "nearest neighbour"}
"""Role of an explainer in a comparison -> what tables, figures, cards and pages call it."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How explainers are scored.

    Attributes:
        rows_limit: at most this many test rows a task, drawn at random; None for all.
        batch_size: rows answered at a time.
        n_resamples: resamples of the groups behind each interval and each p-value.
        abstain_below: explanations of less confidence do not count as answers; kept in the explainer's config.
        selfie_rows: validation rows on which the scale of the SelfIE baseline is chosen; 0 leaves the baseline out.
        simulator: who foretells activations from the descriptions that are scored. The offline one reads the offline
            grammar only. None for what the descriptions take: the endpoint where one is named here, where it scored
            the ground truth or where a writer of it uses free words, and else the offline one.
        endpoint: base URL of an OpenAI-compatible endpoint; its key is read from OPENAI_API_KEY. None for that of
            `feature_description`.
        endpoint_model: the name of the model there; None likewise.
        endpoint_concurrency: requests in flight.
        endpoint_timeout: seconds that a reply may take.
    """

    rows_limit: int | None = None
    batch_size: int = 64
    n_resamples: int = 2000
    abstain_below: float = 0.5
    selfie_rows: int = 100
    simulator: Literal["offline", "endpoint"] | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    endpoint_concurrency: int = 8
    endpoint_timeout: float = 120.0


@dataclass(frozen=True)
class ComparisonConfig:
    """Explainers that are trained beside the recipe's own. Off where neither models nor shares are given.

    Attributes:
        models: other models than the target. All of them, target included, are explained by each.
        revisions: of `models`, in their order; a run stays with the commits that it finds when it first starts.
        shares: of the training rows, by group, smaller ones within larger ones. All rows are always among them.
        n_seeds: trainings of every explainer; each draws its own shares.
    """

    models: tuple[str, ...] = ()
    revisions: tuple[str | None, ...] = ()
    shares: tuple[float, ...] = ()
    n_seeds: int = 1

    def __post_init__(self) -> None:
        if self.revisions and len(self.revisions) != len(self.models):
            raise SelfExplainError(
                f"comparison.revisions names {len(self.revisions)} revisions of {len(self.models)} models: one each."
            )
        if not all(0 < share <= 1 for share in self.shares) or self.n_seeds < 1:
            raise SelfExplainError(
                f"comparison has shares {list(self.shares)} and n_seeds {self.n_seeds}: expected shares above 0 and up "
                "to 1, and at least one seed."
            )

    @property
    def is_on(self) -> bool:
        return bool(self.models or self.shares)
