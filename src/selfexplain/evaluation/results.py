"""`results.json`: the scores of an evaluation, and of a comparison of explainers."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from selfexplain.utils.names import FileName
from selfexplain.utils.records import Record, Value

Interval = tuple[float, float]
"""95 % confidence interval: bootstrap over groups, percentiles 2.5 and 97.5."""


class Score(Value):
    """A metric of one system."""

    value: float
    ci95: Interval


class Difference(Value):
    """The explainer's score minus another system's, on the same rows.

    Attributes:
        p_value: two-sided p-value of a paired permutation test over groups.
    """

    difference: float
    ci95: Interval
    p_value: float


class Gain(Difference):
    """The explainer's score minus that of the strongest baseline.

    Attributes:
        system: the baseline with the highest score on validation rows.
        validation_score: that score.
    """

    system: str
    validation_score: float


class ReaderReport(Value):
    """What a reader (`evaluation.readers`) was fitted with, or why it could not read the rows.

    Attributes:
        settings: settings that were chosen on validation rows.
        unavailable: the reason why it has no scores; None if it has.
    """

    settings: dict[str, str | float | int] = Field(default_factory=dict)
    unavailable: str | None = None


class Unread(Value):
    """Replies of a chat model that could not be parsed.

    Attributes:
        windows: text windows without a readable reply.
        rows: rows that have no score for that reason.
    """

    windows: int
    rows: int


class Calibration(Value):
    """How well confidence predicts which answers are correct.

    Attributes:
        correct: criterion for a correct answer, in words.
        ece: expected calibration error of the reported confidence.
        ece_uncalibrated: the same for the probability that the explainer assigns to its own claim.
        aurc: area under the risk-coverage curve: the mean risk over all coverages.
        risk: share of incorrect answers.
        abstain_below: confidence below which an explanation does not count as an answer.
        coverage: share of rows answered at that threshold.
        risk_answered: share of incorrect answers among them; None if no row is answered.
        curve: (coverage, risk), from the most confident answers to all of them.
    """

    correct: str
    ece: float
    ece_uncalibrated: float
    aurc: float
    risk: float
    n_bins: int
    abstain_below: float
    coverage: float
    risk_answered: float | None = None
    curve: list[tuple[float, float]]

    @property
    def is_calibrated(self) -> bool:
        return self.ece != self.ece_uncalibrated


class Subset(Value):
    """Scores on a part of a test set.

    Attributes:
        n_test, n_groups: number of rows, and number of groups of rows.
        scores: system -> metric -> score.
        gains: as in `TestSetResult`. None are given for the hard rows, on which a baseline is incorrect by definition.
    """

    n_test: int
    n_groups: int
    scores: dict[str, dict[str, float]]
    gains: dict[str, Gain] | None = None


class TestSetResult(Value):
    """Scores on one test set.

    Attributes:
        n_test, n_groups: number of rows, and number of groups of rows.
        counts: number of rows per true class, for tasks with a has-changed label.
        simulator: simulator that predicts activations from descriptions: "offline" or the name of a chat model.
        unread: system -> metric -> replies of that chat model that could not be parsed.
        unparsable: system -> number of answers that the metrics cannot parse.
        scores: system -> metric -> score.
        comparisons: "explainer - SYSTEM" -> metric -> paired difference.
        gains: metric -> the strongest baseline, chosen on validation rows, and the explainer's gain over it. None
            without validation rows, and in results of earlier versions.
        readers: reader -> its settings, or why it is not available.
        hard: scores on the rows on which the strongest baseline is incorrect; None if there is no such baseline or row.
        strata: property of a row -> value -> scores on the rows with this value, for values with enough rows.
        selfie_scale: scale at which the SelfIE baseline was run.
    """

    __test__ = False  # not a pytest class

    n_test: int
    n_groups: int
    counts: dict[str, int] | None = None
    simulator: str | None = None
    unread: dict[str, dict[str, Unread]] | None = None
    unparsable: dict[str, int] = Field(default_factory=dict)
    scores: dict[str, dict[str, Score]]
    comparisons: dict[str, dict[str, Difference]] = Field(default_factory=dict)
    gains: dict[str, Gain] | None = None
    readers: dict[str, ReaderReport] | None = None
    hard: Subset | None = None
    strata: dict[str, dict[str, Subset]] | None = None
    selfie_scale: float | None = None
    calibration: Calibration | None = None


class TaskResult(TestSetResult):
    """Scores of a task: on its test split, and on its out-of-distribution test sets by name."""

    out_of_distribution: dict[FileName, TestSetResult] | None = None


class ScoredModel(Value):
    """The model that the results are about.

    Attributes:
        weights: what distinguishes its weights from the original ones, such as "dequantised from Q4_1"; None if they
            are the original ones.
    """

    name: str
    revision: str | None = None
    weights: str | None = None
    trained_here: bool | None = None


class Environment(Value):
    """How the results were produced.

    Attributes:
        versions: library -> version.
        seconds: step -> duration.
    """

    versions: dict[str, str]
    device: str
    seed: int
    seconds: dict[str, float] = Field(default_factory=dict)


class ComparedScore(Value):
    """The score of one (target, explainer, share of the training rows), over all seeds.

    Attributes:
        seeds: one score per seed.
    """

    target: str
    explainer: str
    share: float
    n_train: int
    value: float
    ci95: Interval
    seeds: list[float]


class RoleScore(Value):
    """The mean score over targets of one (role, share); roles are those of `evaluation.comparison.ROLES`."""

    role: str
    share: float
    n_train: int
    value: float
    ci95: Interval


class RoleDifference(Value):
    """The difference between two (role, share)."""

    first: tuple[str, float]
    second: tuple[str, float]
    difference: float
    ci95: Interval
    p_value: float


class TaskComparison(Value):
    """Comparison of explainers on one task.

    Attributes:
        headline: name of the headline metric.
        n_test: target -> number of test rows.
        scores, means, differences: metric -> entries.
    """

    headline: str
    n_test: dict[str, int]
    scores: dict[str, list[ComparedScore]]
    means: dict[str, list[RoleScore]]
    differences: dict[str, list[RoleDifference]]


class ComparisonResult(Value):
    """Explainers of several targets, trained on several shares of the rows, compared on the same test rows."""

    models: list[str]
    n_seeds: int
    tasks: dict[str, TaskComparison]


class Comparison(ComparisonResult, Record):
    """`comparison.json`: a `ComparisonResult` in a separate file."""

    schema_version: Literal[1] = 1


class Results(Record):
    """`results.json`.

    Attributes:
        recipe: name of the recipe.
        tasks: task -> scores.
        comparison: scores of the comparison, if the recipe has one.
    """

    remedy: ClassVar[str] = "Run the recipe again to evaluate the explainer."

    schema_version: Literal[1] = 1
    recipe: str
    target: ScoredModel
    explainer: ScoredModel
    tasks: dict[FileName, TaskResult]
    environment: Environment
    comparison: ComparisonResult | None = Field(default=None)

    def sections(self) -> Iterator[tuple[str, str | None, TestSetResult]]:
        """Every test set: task, name of the out-of-distribution set (None for the test split), scores."""
        for task, result in self.tasks.items():
            yield task, None, result
            for name, test_set in (result.out_of_distribution or {}).items():
                yield task, name, test_set
