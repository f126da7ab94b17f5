"""Compare models that explain themselves with models that explain another model, at several training set sizes.

Two claims are tested. *Privileged access*: a model explains itself better than another model, trained on the same rows,
explains it. *Data efficiency*: a model needs fewer training rows to explain itself than to explain another model,
and fewer than the nearest-neighbour baseline.

A model may be a better explainer in general, or an easier target. The comparison is therefore between the mean over all
targets, each explained by itself, and the mean over all targets, each explained by the other models: every model is
target and explainer equally often on both sides. Neither claim says that the explainers are worth training, so the
strongest reader (`evaluation.readers`), which trains none, answers the same rows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import METRICS, Metric, Simulator
from selfexplain.evaluation.readers import Material
from selfexplain.evaluation.readers.answers import ask_readers
from selfexplain.evaluation.results import ComparedScore, RoleDifference, RoleScore, TaskComparison
from selfexplain.evaluation.scorers import SCORERS
from selfexplain.evaluation.scoring import strongest_baselines
from selfexplain.evaluation.statistics import bootstrap_difference, bootstrap_interval, permutation_test
from selfexplain.features.endpoint import Endpoint
from selfexplain.tasks import TASKS

NEIGHBOUR = "nearest_neighbour"
READER = "strongest_reader"
BASELINES = (NEIGHBOUR, READER)
"""Names in place of an explainer's for answers without an explainer; also their roles."""
ROLES = ("self", "other", *BASELINES)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AnswerSet:
    """The answers of one explainer to the test rows about one target.

    Attributes:
        explainer: name of the explaining model, or one of `BASELINES`.
        share: share of the training rows that was used.
        seed: seed of the training and of the choice of rows.
        n_train: number of training rows.
        answers: one answer per test row of the target.
    """

    target: str
    explainer: str
    share: float
    seed: int
    n_train: int
    answers: Sequence[str]

    @property
    def role(self) -> str:
        """One of `ROLES`."""
        if self.explainer in BASELINES:
            return self.explainer
        return "self" if self.explainer == self.target else "other"


def strongest_reader(task: str, material: Material, test: Sequence[Row], simulator: Simulator) -> list[str] | None:
    """The answers to test rows of the reader with the highest headline metric on the validation rows.

    Returns:
        One answer per row; None if there are no validation rows, no reader answers in full, or none has a score.
    """
    if not material.validation:
        return None
    read = ask_readers(task, material, {"test": test, "validation": material.validation}).texts
    if not read["validation"]:
        return None
    strongest = strongest_baselines(SCORERS[task], material.validation, read["validation"], {}, simulator)
    name, _ = strongest.get(TASKS[task].headline, (None, 0.0))
    return read["test"][name] if name else None


def compare(
    task: str,
    rows: Mapping[str, Sequence[Row]],
    answer_sets: Sequence[AnswerSet],
    classes: Mapping[str, Mapping[str, Sequence[str]]],
    n_resamples: int,
    seed: int,
    endpoint: Endpoint | None = None,
) -> TaskComparison:
    """Score all answers of one task and compare them.

    Args:
        rows: target -> its test rows.
        answer_sets: the answers of every explainer, share and seed about every target.
        classes: target -> the classes of tokens that descriptions of its features may name (`read_classes`).
        n_resamples: number of resamples of the groups behind each interval and each p-value.
        seed: seed of the resampling.
        endpoint: endpoint with a chat model that predicts activations from descriptions; None for the offline
            simulator.

    Raises:
        SelfExplainError: there are no answers, or a target has more or fewer answers than test rows.
    """
    if not answer_sets:
        raise SelfExplainError(f"The comparison of {task} has no answers. Give at least one set of answers.")
    for one in answer_sets:
        n_test = len(rows[one.target])
        if len(one.answers) != n_test:
            raise SelfExplainError(
                f"The comparison of {task} has {len(one.answers)} answers by {one.explainer} to {n_test} test rows of "
                f"{one.target}. Give one answer per test row."
            )
    simulators = {
        target: Simulator({name: set(tokens) for name, tokens in classes.get(target, {}).items()}, endpoint)
        for target in rows
    }
    scores, means, differences = {}, {}, {}
    for name in TASKS[task].metrics:
        metric = METRICS[name]
        counts = [
            metric.count(one.answers, [row[metric.reference] for row in rows[one.target]], simulators[one.target])
            for one in answer_sets
        ]
        scores[name] = _scores(metric, rows, answer_sets, counts, n_resamples, seed)
        stacked, n_train = _by_role(rows, answer_sets, counts)
        groups = [row["group"] for of_target in rows.values() for row in of_target]
        mean = _MeanOverTargets(metric, len(rows))
        means[name] = _means(mean, stacked, n_train, groups, n_resamples, seed)
        differences[name] = _differences(mean, stacked, groups, n_resamples, seed)
    return TaskComparison(
        headline=TASKS[task].headline,
        n_test={target: len(of_target) for target, of_target in rows.items()},
        scores=scores,
        means=means,
        differences=differences,
    )


def _scores(
    metric: Metric,
    rows: Mapping[str, Sequence[Row]],
    answer_sets: Sequence[AnswerSet],
    counts: Sequence[np.ndarray],
    n_resamples: int,
    seed: int,
) -> list[ComparedScore]:
    """The score of each (target, explainer, share) over all its seeds."""
    members: dict[tuple[str, str, float], list[int]] = defaultdict(list)
    for index, one in enumerate(answer_sets):
        members[one.target, one.explainer, one.share].append(index)
    scores = []
    for (target, explainer, share), indices in members.items():
        mean = np.mean([counts[index] for index in indices], axis=0)
        groups = [row["group"] for row in rows[target]]
        scores.append(
            ComparedScore(
                target=target,
                explainer=explainer,
                share=share,
                n_train=_mean_rows([answer_sets[index] for index in indices]),
                value=float(metric.value(mean.sum(axis=0))),
                ci95=bootstrap_interval(mean, groups, metric.value, n_resamples, seed),
                seeds=[float(metric.value(counts[index].sum(axis=0))) for index in indices],
            )
        )
    return scores


@dataclass(frozen=True)
class _MeanOverTargets:
    """Maps sums of stacked row statistics `(..., n_targets * k)` to the mean score over targets `(...)`."""

    metric: Metric
    n_targets: int

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        return np.mean([self.metric.value(part) for part in np.split(sums, self.n_targets, axis=-1)], axis=0)


Role = tuple[str, float]
"""A role and the share of the training rows."""


def _by_role(
    rows: Mapping[str, Sequence[Row]], answer_sets: Sequence[AnswerSet], counts: Sequence[np.ndarray]
) -> tuple[dict[Role, np.ndarray], dict[Role, int]]:
    """Two mappings from (role, share): to row statistics stacked over targets, and to the mean number of rows."""
    members: dict[Role, list[int]] = defaultdict(list)
    for index, one in enumerate(answer_sets):
        members[one.role, one.share].append(index)
    order = sorted(members, key=lambda key: (key[1], ROLES.index(key[0])))
    stacked = {key: _stack(rows, answer_sets, counts, members[key]) for key in order}
    return stacked, {key: _mean_rows([answer_sets[index] for index in members[key]]) for key in order}


def _stack(
    rows: Mapping[str, Sequence[Row]],
    answer_sets: Sequence[AnswerSet],
    counts: Sequence[np.ndarray],
    members: Sequence[int],
) -> np.ndarray:
    """Row statistics averaged over trainings, `(rows of all targets, n_targets * k)`: separate columns per target."""
    k = counts[members[0]].shape[1]
    blocks = []
    for number, target in enumerate(rows):
        of_target = [counts[index] for index in members if answer_sets[index].target == target]
        block = np.zeros((len(rows[target]), len(rows) * k))
        block[:, number * k : (number + 1) * k] = np.mean(of_target, axis=0)
        blocks.append(block)
    return np.concatenate(blocks)


def _means(
    mean: _MeanOverTargets,
    stacked: Mapping[Role, np.ndarray],
    n_train: Mapping[Role, int],
    groups: Sequence[str],
    n_resamples: int,
    seed: int,
) -> list[RoleScore]:
    """The mean over targets of each (role, share)."""
    return [
        RoleScore(
            role=role,
            share=share,
            n_train=n_train[role, share],
            value=float(mean(statistics.sum(axis=0))),
            ci95=bootstrap_interval(statistics, groups, mean, n_resamples, seed),
        )
        for (role, share), statistics in stacked.items()
    ]


def _differences(
    mean: _MeanOverTargets, stacked: Mapping[Role, np.ndarray], groups: Sequence[str], n_resamples: int, seed: int
) -> list[RoleDifference]:
    """The differences between the means over targets."""
    return [
        RoleDifference(
            first=first,
            second=second,
            difference=float(mean(stacked[first].sum(axis=0)) - mean(stacked[second].sum(axis=0))),
            ci95=bootstrap_difference(stacked[first], stacked[second], groups, mean, n_resamples, seed),
            p_value=permutation_test(stacked[first], stacked[second], groups, mean, n_resamples, seed),
        )
        for first, second in _pairs(list(stacked))
    ]


def _pairs(keys: Sequence[Role]) -> list[tuple[Role, Role]]:
    """Which means are compared: self-explainers of each share with the others at the same share, and at all rows."""
    shares = sorted({share for role, share in keys if role == "self"})
    pairs = []
    for role in ROLES[1:]:
        for share in shares:
            for against in dict.fromkeys((share, shares[-1])):
                if (role, against) in keys:
                    pairs.append((("self", share), (role, against)))
    return pairs


def _mean_rows(answer_sets: Sequence[AnswerSet]) -> int:
    return round(float(np.mean([one.n_train for one in answer_sets])))
