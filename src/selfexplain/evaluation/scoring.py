"""Score the answers of all systems on one test set."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.calibration import calibration_scores
from selfexplain.evaluation.metrics import METRICS, Simulator
from selfexplain.evaluation.results import Calibration, Difference, Gain, Score, Subset, TestSetResult, Unread
from selfexplain.evaluation.scorers import GROUND_TRUTH, Scorer
from selfexplain.evaluation.statistics import bootstrap_difference, bootstrap_interval, permutation_test
from selfexplain.modeling.confidence import confidence
from selfexplain.modeling.explanation import Answer

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Statistics = dict[str, dict[str, np.ndarray]]
"""System -> metric -> row statistics `(n, k)`."""

MIN_STRATUM, MIN_GROUPS = 20, 5
"""Minimum numbers of rows and of groups of a part of a test set that gets its own scores."""


def score_test_set(
    scorer: Scorer,
    rows: Sequence[Row],
    answers: Mapping[str, Sequence[str]],
    changed: Mapping[str, Sequence[bool]],
    simulator: Simulator,
    n_resamples: int,
    seed: int,
    strongest: "Mapping[str, tuple[str, float]] | None" = None,
) -> TestSetResult:
    """Score all systems on one test set.

    Args:
        answers: system -> one answer per row, scored by every metric of the task; "explainer" is one of the systems.
        changed: system -> one has-changed prediction per row, for systems that do not predict anything else.
        strongest: metric -> the strongest baseline and its validation score (`strongest_baselines`).

    Raises:
        SelfExplainError: none of the chat model's replies on the explainer's descriptions can be parsed.
    """
    groups = [row["group"] for row in rows]
    statistics = _count(scorer, rows, answers, changed, simulator)
    unread = _drop_unscored(statistics) if simulator.endpoint else None
    scores: dict[str, dict[str, Score]] = {}
    comparisons: dict[str, dict[str, Difference]] = {}
    for system, by_metric in statistics.items():
        scores[system] = {}
        for name, counted in by_metric.items():
            scores[system][name] = _score(name, counted, groups, n_resamples, seed)
            if system != "explainer":
                difference = _difference(name, statistics["explainer"][name], counted, groups, n_resamples, seed)
                comparisons.setdefault(f"explainer - {system}", {})[name] = difference
    return TestSetResult(
        n_test=len(rows),
        n_groups=len(set(groups)),
        counts=scorer.counts(rows),
        simulator=scorer.simulator_name(simulator),
        unread=unread,
        unparsable={
            system: sum(not scorer.is_parsable(text, simulator) for text in texts) for system, texts in answers.items()
        },
        scores=scores,
        comparisons=comparisons,
        gains=_gains(comparisons, strongest or {}) or None,
        hard=_hard(scorer, rows, answers, statistics, simulator, strongest or {}),
        strata=_strata(scorer, rows, statistics, simulator, strongest or {}, n_resamples, seed) or None,
    )


def strongest_baselines(
    scorer: Scorer,
    rows: Sequence[Row],
    answers: Mapping[str, Sequence[str]],
    changed: Mapping[str, Sequence[bool]],
    simulator: Simulator,
) -> dict[str, tuple[str, float]]:
    """Metric -> the baseline with the highest score on some rows, and this score.

    Logs a warning and returns nothing if a chat model scores descriptions and its replies cannot be parsed.

    Args:
        rows: validation rows; the strongest baseline on the test rows themselves would be chosen by chance.
        answers, changed: answers of all baselines, as in `score_test_set`. The ground truth is not a baseline.
    """
    baselines = {system: texts for system, texts in answers.items() if system != GROUND_TRUTH}
    try:
        statistics = _count(scorer, rows, baselines, changed, simulator)
    except SelfExplainError as error:
        logger.warning("%s: the strongest baseline is not chosen: %s", scorer.task.name, error)
        return {}
    scores: dict[str, dict[str, float]] = {}
    for system, by_metric in statistics.items():
        for name, counted in by_metric.items():
            scores.setdefault(name, {})[system] = float(METRICS[name].value(counted.sum(axis=0)))
    known = {name: [pair for pair in of.items() if pair[1] == pair[1]] for name, of in scores.items()}
    # Of equally good systems, the one that predicts less comes first.
    return {name: max(of, key=lambda pair: (pair[1], pair[0] in changed)) for name, of in known.items() if of}


def _gains(
    comparisons: Mapping[str, Mapping[str, Difference]], strongest: Mapping[str, tuple[str, float]]
) -> dict[str, Gain]:
    """Metric -> the gain over the strongest baseline, for baselines that have a score on these rows."""
    return {
        metric: Gain(system=system, validation_score=score, **difference.model_dump())
        for metric, (system, score) in strongest.items()
        if (difference := comparisons.get(f"explainer - {system}", {}).get(metric))
    }


def _hard(
    scorer: Scorer,
    rows: Sequence[Row],
    answers: Mapping[str, Sequence[str]],
    statistics: Statistics,
    simulator: Simulator,
    strongest: Mapping[str, tuple[str, float]],
) -> Subset | None:
    """Scores on the rows on which the strongest baseline is incorrect."""
    system, _ = strongest.get(scorer.correct_metric or scorer.task.headline, ("", 0.0))
    if system not in answers:
        return None
    correct, known = scorer.correct(answers[system], rows, simulator)
    chosen = np.flatnonzero(known & ~correct)
    return _subset(rows, statistics, chosen.tolist()) if len(chosen) else None


def _strata(
    scorer: Scorer,
    rows: Sequence[Row],
    statistics: Statistics,
    simulator: Simulator,
    strongest: Mapping[str, tuple[str, float]],
    n_resamples: int,
    seed: int,
) -> dict[str, dict[str, Subset]]:
    """Property -> value -> scores and gains on its rows, for values with enough rows and groups.

    Gains that are not defined there are left out.
    """
    members: dict[str, dict[str, list[int]]] = {}
    for index, row in enumerate(rows):
        for name, value in scorer.strata(row, simulator).items():
            members.setdefault(name, {}).setdefault(value, []).append(index)
    strata: dict[str, dict[str, Subset]] = {}
    for name, by_value in members.items():
        for value, indices in sorted(by_value.items()):
            groups = [rows[index]["group"] for index in indices]
            if len(indices) < MIN_STRATUM or len(set(groups)) < MIN_GROUPS:
                continue
            subset, gains = _subset(rows, statistics, indices), {}
            for metric, (system, score) in strongest.items():
                if all(metric in subset.scores.get(one, {}) for one in ("explainer", system)):
                    explainer, other = (statistics[one][metric][indices] for one in ("explainer", system))
                    found = _difference(metric, explainer, other, groups, n_resamples, seed)
                    gains[metric] = Gain(system=system, validation_score=score, **found.model_dump())
            strata.setdefault(name, {})[value] = subset.model_copy(update={"gains": gains or None})
    return strata


def _subset(rows: Sequence[Row], statistics: Statistics, indices: Sequence[int]) -> Subset:
    """Scores of all systems on some rows; scores that are not defined there are left out."""
    scores: dict[str, dict[str, float]] = {}
    for system, by_metric in statistics.items():
        values = {name: float(METRICS[name].value(c[indices].sum(axis=0))) for name, c in by_metric.items()}
        scores[system] = {name: value for name, value in values.items() if value == value}
    groups = {rows[index]["group"] for index in indices}
    return Subset(n_test=len(indices), n_groups=len(groups), scores=scores)


def score_confidence(
    scorer: Scorer,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    simulator: Simulator,
    calibration: Mapping[str, float] | None,
    abstain_below: float,
) -> Calibration:
    """Compare the explainer's confidence with the correctness of its answers.

    Args:
        answers: the explainer's answers, one per row.
        calibration: temperature and bias of the task; None if confidence is not calibrated.
        abstain_below: confidence below which an answer does not count.
    """
    correct, known = scorer.correct([answer.text for answer in answers], rows, simulator)
    calibrated, uncalibrated = (confidences(scorer, answers, fitted)[known] for fitted in (calibration, None))
    return calibration_scores(calibrated, uncalibrated, correct[known], abstain_below, scorer.task.correct_when)


def confidences(scorer: Scorer, answers: Sequence[Answer], calibration: Mapping[str, float] | None) -> np.ndarray:
    """The explainer's confidence in each answer, `(n,)`, as `Explanation.confidence` reports it."""
    values = confidence([answer.log_prob for answer in answers], calibration)
    return np.where([scorer.has_confidence(answer.text) for answer in answers], values, 0.0)


def _count(
    scorer: Scorer,
    rows: Sequence[Row],
    answers: Mapping[str, Sequence[str]],
    changed: Mapping[str, Sequence[bool]],
    simulator: Simulator,
) -> Statistics:
    """Row statistics of every system and metric. The answers of all systems are counted in one call per metric."""
    statistics: Statistics = {system: {} for system in (*answers, *changed)}
    for name in scorer.task.metrics:
        metric = METRICS[name]
        references = [row[metric.reference] for row in rows] * len(answers)
        counted = metric.count([text for texts in answers.values() for text in texts], references, simulator)
        for system, of_system in zip(answers, np.split(counted, len(answers)), strict=True):
            statistics[system][name] = of_system
    for system, predictions in changed.items():
        assert scorer.changed_metric is not None
        statistics[system][scorer.changed_metric] = scorer.count_changed(predictions, rows)
    return statistics


def _score(metric: str, counted: np.ndarray, groups: Sequence[str], n_resamples: int, seed: int) -> Score:
    value = METRICS[metric].value
    interval = bootstrap_interval(counted, groups, value, n_resamples, seed)
    return Score(value=float(value(counted.sum(axis=0))), ci95=interval)


def _difference(
    metric: str, explainer: np.ndarray, system: np.ndarray, groups: Sequence[str], n_resamples: int, seed: int
) -> Difference:
    value = METRICS[metric].value
    return Difference(
        difference=float(value(explainer.sum(axis=0)) - value(system.sum(axis=0))),
        ci95=bootstrap_difference(explainer, system, groups, value, n_resamples, seed),
        p_value=permutation_test(explainer, system, groups, value, n_resamples, seed),
    )


def _drop_unscored(statistics: Statistics) -> dict[str, dict[str, Unread]]:
    """Count the chat model's unparsable replies, and remove the metrics of systems that have no score at all.

    Raises:
        SelfExplainError: the explainer has no score.
    """
    unread: dict[str, dict[str, Unread]] = {}
    for system, by_metric in statistics.items():
        unread[system] = {
            name: Unread(windows=int(counted[:, 2].sum()), rows=int((counted[:, 1] == 0).sum()))
            for name, counted in by_metric.items()
        }
        for name in [name for name, counted in by_metric.items() if not counted[:, 1].any()]:
            if system == "explainer":
                raise SelfExplainError(
                    f"{name} has no value: none of the chat model's replies on the explainer's descriptions could be "
                    "parsed. Name another model with evaluation.endpoint_model=NAME and run the recipe again."
                )
            logger.warning(
                "%s: %s is left out because no reply of the chat model on its descriptions could be parsed.",
                system,
                name,
            )
            del by_metric[name]
    return unread
