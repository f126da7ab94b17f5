"""Compare explainers: of oneself and of another model, trained on few rows and on many.

Two claims are put to the test. *Privileged access*: a model explains itself better than another model, trained on the
same rows, explains it. *Data efficiency*: explaining oneself takes fewer rows than explaining another, and than
answering with the nearest training row.

A model may simply be the better explainer, or the easier target. So what is compared is the mean over all targets, each
explained by itself, with the mean over all targets, each explained by the others: every model is explained and explains
equally often on both sides.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.metrics import TASK_METRICS, Metric, metrics
from selfexplain.evaluation.report import HEADLINE
from selfexplain.evaluation.statistics import bootstrap_difference, bootstrap_interval, permutation_test
from selfexplain.features.description import Classes
from selfexplain.features.endpoint import Endpoint

NEIGHBOUR = "nearest_neighbour"
ROLES = ("self", "other", NEIGHBOUR)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """The answers to the test rows about one target.

    Attributes:
        explainer: a model, or `NEIGHBOUR`.
        share: of the training rows, `n_train` of them.
        seed: of the training and of the choice of rows.
    """

    target: str
    explainer: str
    share: float
    seed: int
    n_train: int
    answers: Sequence[str]

    @property
    def role(self) -> str:
        if self.explainer == NEIGHBOUR:
            return NEIGHBOUR
        return "self" if self.explainer == self.target else "other"


def compare(
    task: str,
    rows: Mapping[str, Sequence[Row]],
    given: Sequence[Given],
    classes: Mapping[str, Classes],
    n_resamples: int,
    seed: int,
    endpoint: Endpoint | None = None,
) -> dict[str, Any]:
    """Score all answers of one task, and compare them.

    Args:
        rows: target -> its test rows.
        classes: target -> the classes that descriptions of its features may name.
        endpoint: whose model foretells activations from descriptions; None for the offline simulator.

    Returns:
        headline: the metric to look at first.
        n_test: test rows by target.
        scores: metric -> an entry a (target, explainer, share), over all seeds.
        means: metric -> an entry a (role, share), the mean over targets.
        differences: metric -> an entry a pair of these, with a p-value.

    Entries hold `value` (`difference`) and `ci95`, over groups; scores also one value a seed.

    Raises:
        SelfExplainError: answers and test rows that do not match.
    """
    if not given or any(len(one.answers) != len(rows[one.target]) for one in given):
        raise SelfExplainError("a comparison needs answers, one to each test row of their target.")
    result: dict[str, Any] = {
        "headline": HEADLINE[task],
        "n_test": {target: len(of_target) for target, of_target in rows.items()},
        "scores": {},
        "means": {},
        "differences": {},
    }
    for name in TASK_METRICS[task]:
        by_target = {target: metrics(classes.get(target), endpoint)[name] for target in rows}
        metric = by_target[given[0].target]
        counts = [
            by_target[one.target].count(one.answers, [row[metric.reference] for row in rows[one.target]])
            for one in given
        ]
        result["scores"][name] = _cells(metric, rows, given, counts, n_resamples, seed)
        result["means"][name], result["differences"][name] = _roles(metric, rows, given, counts, n_resamples, seed)
    return result


def _cells(
    metric: Metric,
    rows: Mapping[str, Sequence[Row]],
    given: Sequence[Given],
    counts: Sequence[np.ndarray],
    n_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The score of each (target, explainer, share) over all its seeds."""
    members: dict[tuple[str, str, float], list[int]] = defaultdict(list)
    for index, one in enumerate(given):
        members[one.target, one.explainer, one.share].append(index)
    entries = []
    for (target, explainer, share), own in members.items():
        mean, groups = np.mean([counts[index] for index in own], axis=0), [row["group"] for row in rows[target]]
        entries.append(
            {
                "target": target,
                "explainer": explainer,
                "share": share,
                "n_train": _rows_learned([given[index] for index in own]),
                "value": float(metric.value(mean.sum(axis=0))),
                "ci95": list(bootstrap_interval(mean, groups, metric.value, n_resamples, seed)),
                "seeds": [float(metric.value(counts[index].sum(axis=0))) for index in own],
            }
        )
    return entries


def _roles(
    metric: Metric,
    rows: Mapping[str, Sequence[Row]],
    given: Sequence[Given],
    counts: Sequence[np.ndarray],
    n_resamples: int,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The mean over targets of each (role, share), and the differences between these."""
    groups = [row["group"] for of_target in rows.values() for row in of_target]
    members: dict[tuple[str, float], list[int]] = defaultdict(list)
    for index, one in enumerate(given):
        members[one.role, one.share].append(index)
    order = sorted(members, key=lambda key: (key[1], ROLES.index(key[0])))
    stacked = {key: _stacked(rows, given, counts, members[key]) for key in order}

    def mean(sums: np.ndarray) -> np.ndarray:
        return np.mean([metric.value(part) for part in np.split(sums, len(rows), axis=-1)], axis=0)

    means = [
        {
            "role": role,
            "share": share,
            "n_train": _rows_learned([given[index] for index in members[role, share]]),
            "value": float(mean(statistics.sum(axis=0))),
            "ci95": list(bootstrap_interval(statistics, groups, mean, n_resamples, seed)),
        }
        for (role, share), statistics in stacked.items()
    ]
    differences = [
        {
            "first": list(first),
            "second": list(second),
            "difference": float(mean(stacked[first].sum(axis=0)) - mean(stacked[second].sum(axis=0))),
            "ci95": list(bootstrap_difference(stacked[first], stacked[second], groups, mean, n_resamples, seed)),
            "p_value": permutation_test(stacked[first], stacked[second], groups, mean, n_resamples, seed),
        }
        for first, second in _pairs(order)
    ]
    return means, differences


def _stacked(
    rows: Mapping[str, Sequence[Row]], given: Sequence[Given], counts: Sequence[np.ndarray], members: Sequence[int]
) -> np.ndarray:
    """Row statistics averaged over trainings, `(rows of all targets, n_targets * k)`: a target has its own columns."""
    k = counts[members[0]].shape[1]
    blocks = []
    for number, target in enumerate(rows):
        own = [counts[index] for index in members if given[index].target == target]
        block = np.zeros((len(rows[target]), len(rows) * k))
        block[:, number * k : (number + 1) * k] = np.mean(own, axis=0)
        blocks.append(block)
    return np.concatenate(blocks)


def _pairs(keys: Sequence[tuple[str, float]]) -> list[tuple[tuple[str, float], tuple[str, float]]]:
    """What is compared: the self-explainers of each share with the rest at the same share, and at all rows."""
    shares = sorted({share for role, share in keys if role == "self"})
    pairs = []
    for role in ROLES[1:]:
        for share in shares:
            for against in dict.fromkeys((share, shares[-1])):
                if (role, against) in keys:
                    pairs.append((("self", share), (role, against)))
    return pairs


def _rows_learned(given: Sequence[Given]) -> int:
    return round(float(np.mean([one.n_train for one in given])))
