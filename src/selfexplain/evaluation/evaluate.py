"""Evaluate an explainer on held-out rows, together with its controls and baselines."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation import controls
from selfexplain.evaluation.answers import Explainer, answer_all
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.metrics import Simulator
from selfexplain.evaluation.predictions import Prediction, write_predictions
from selfexplain.evaluation.readers import Material
from selfexplain.evaluation.readers.answers import ask_readers
from selfexplain.evaluation.results import ReaderReport, TaskResult, TestSetResult
from selfexplain.evaluation.scorers import SCORERS
from selfexplain.evaluation.scoring import confidences, score_confidence, score_test_set, strongest_baselines
from selfexplain.evaluation.selfie import best_scale
from selfexplain.evaluation.test_sets import TestSet, check_width, choice_rows, read_test_sets, validation_rows
from selfexplain.features.endpoint import Endpoint
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import share_of
from selfexplain.modeling.confidence import fit
from selfexplain.modeling.explanation import Answer

if TYPE_CHECKING:
    from selfexplain.target.load import Target, TargetShape

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Datasets = Mapping[str, DatasetDirectory]
Calibrations = Mapping[str, Mapping[str, float]]

WITHOUT_VECTORS = "trained_without_vectors"
"""The system that was trained on the same rows without their vectors."""


def evaluate(
    explainer: Explainer,
    untrained: Explainer,
    target: "Target | TargetShape",
    datasets: Datasets,
    config: EvaluationConfig,
    seed: int,
    *,
    cache_dir: Path | None = None,
    predictions_dir: Path | None = None,
    calibration: Calibrations | None = None,
    selfie: Callable[[float], Explainer] | None = None,
    endpoint: Endpoint | None = None,
    share: float = 1.0,
    load_target: "Callable[[], Target] | None" = None,
    without_vectors: Explainer | None = None,
) -> dict[str, TaskResult]:
    """Score an explainer on the test split and the out-of-distribution test sets of each task.

    One system answers all rows before the next one starts, so only one of them has to be loaded at a time.

    Args:
        explainer: the explainer to score.
        untrained: the same explainer before training.
        target: the model that the datasets are about.
        datasets: task -> its dataset, with a test split and, for the baselines, a training split.
        config: settings of the evaluation.
        seed: seed of row selection, shuffled vectors and resampling.
        cache_dir: directory for answers, so that an interrupted evaluation continues. They belong to these explainers;
            use a different directory for others.
        predictions_dir: directory for `<task>.jsonl` and `<task>/<test set>.jsonl`, with every answer to every test
            row; None to skip them.
        calibration: task -> calibration of the explainer's confidence (`calibrate`), fitted on other rows.
        selfie: function from a scale to the SelfIE baseline (`selfie.selfie`); None skips the baseline.
        endpoint: endpoint with a chat model that predicts activations from descriptions; None for the offline
            simulator.
        share: share of the training rows that the explainer was trained on with this seed; baselines use the same rows.
        load_target: function that loads the target, for readers that run it; None skips these.
        without_vectors: an explainer that was trained on the same rows without their vectors; None skips it.

    Returns:
        Task -> scores.

    Raises:
        SelfExplainError: a file is missing or has no rows, the vectors are not as wide as the target, the simulator
            cannot read the ground truth, or the endpoint fails.
    """
    simulators = {task: SCORERS[task].simulator(dataset, endpoint) for task, dataset in datasets.items()}
    test_sets = read_test_sets(datasets, config.rows_limit, seed)
    for test_set in test_sets:
        check_width(test_set, target)
        SCORERS[test_set.task].check(test_set.rows, simulators[test_set.task], test_set.section)
    validation = {}
    for task, dataset in datasets.items():
        rows = choice_rows(dataset, config.rows_limit, seed, simulators[task].endpoint is not None)
        validation[task] = TestSet(task, "validation", list(range(len(rows))), rows)
    asked = [*test_sets, *(of_task for of_task in validation.values() if of_task.rows)]
    answers = {of.section: _ask_with_controls(explainer, of, config, seed, cache_dir) for of in test_sets}
    scales = _ask_baselines(
        answers, asked, untrained, without_vectors, selfie, datasets, simulators, config, seed, cache_dir
    )
    results = {}
    for task, dataset in datasets.items():
        of_task, train = [of for of in test_sets if of.task == task], _training_rows(dataset, share, seed)
        baselines = _Baselines.of(of_task, validation[task], train, answers, simulators[task], seed, load_target)
        fitted, scored = (calibration or {}).get(task), []
        for test_set in of_task:
            of_section = answers[test_set.section]
            result, predictions = _score(test_set, baselines, of_section, simulators[task], fitted, config, seed)
            scored.append((test_set.name, result.model_copy(update={"selfie_scale": scales.get(task)})))
            if predictions_dir is not None:
                write_predictions(predictions, Path(predictions_dir) / f"{test_set.section}.jsonl")
        results[task] = _task_result(scored)
    return results


def calibrate(
    explainer: Explainer,
    datasets: Datasets,
    config: EvaluationConfig,
    seed: int,
    *,
    cache_dir: Path | None = None,
    endpoint: Endpoint | None = None,
) -> dict[str, dict[str, float]]:
    """Fit how likely answers are to be correct, given the explainer's probabilities, on each validation split.

    Logs a warning and leaves out tasks without validation rows. Also leaves out tasks whose probabilities predict
    correctness as well without a calibration.

    Args:
        datasets: task -> its dataset, with a validation split.
        cache_dir: directory for answers, as in `evaluate`.
        endpoint: endpoint with a chat model that predicts activations from descriptions, as in `evaluate`.

    Returns:
        Task -> `{"temperature", "bias"}` (`modeling.confidence`).

    Raises:
        SelfExplainError: the simulator cannot read the ground truth, or the endpoint fails.
    """
    calibration = {}
    for task, dataset in datasets.items():
        try:
            rows = validation_rows(dataset, config.rows_limit, seed)
        except SelfExplainError as error:
            logger.warning("%s: the explainer's confidence is not calibrated: %s", task, error)
            continue
        scorer = SCORERS[task]
        simulator = scorer.simulator(dataset, endpoint)
        scorer.check(rows, simulator, task)
        cache = Path(cache_dir) / task / "validation.jsonl" if cache_dir else None
        answers = answer_all(explainer, rows, config.batch_size, f"{task}: calibration", cache)
        texts = [answer.text for answer in answers]
        correct, known = scorer.correct(texts, rows, simulator)
        known = known & [scorer.has_confidence(text) for text in texts]
        if known.any():
            log_probs = np.array([answer.log_prob for answer in answers])
            groups = [row["group"] for row, is_known in zip(rows, known, strict=True) if is_known]
            if fitted := fit(log_probs[known], correct[known], groups):
                calibration[task] = fitted
    return calibration


def _ask_baselines(
    answers: dict[str, dict[str, list[Answer]]],
    test_sets: Sequence[TestSet],
    untrained: Explainer,
    without_vectors: Explainer | None,
    selfie: Callable[[float], Explainer] | None,
    datasets: Datasets,
    simulators: Mapping[str, Simulator],
    config: EvaluationConfig,
    seed: int,
    cache_dir: Path | None,
) -> dict[str, float]:
    """Ask the baselines that are language models, one after the other, and return SelfIE's scales (`_selfie_scales`).

    Args:
        answers: section -> system -> answers, to which theirs are added.
        test_sets: the test sets, and the validation rows of each task.
    """
    for test_set in test_sets:
        of_section = answers.setdefault(test_set.section, {})
        of_section["untrained"] = _ask("untrained", untrained, test_set, test_set.rows, config, cache_dir)
    for test_set in test_sets:
        if without_vectors is not None and any(row["placeholder_offsets"] for row in test_set.rows):
            rows = controls.text_only(test_set.rows)
            replies = _ask(WITHOUT_VECTORS, without_vectors, test_set, rows, config, cache_dir)
            answers[test_set.section][WITHOUT_VECTORS] = replies
    scales = _selfie_scales(selfie, datasets, simulators, config, seed, cache_dir)
    explainers = {task: selfie(scale) for task, scale in scales.items()} if selfie is not None else {}
    for test_set in test_sets:
        if explainer := explainers.get(test_set.task):
            replies = _ask("selfie", explainer, test_set, test_set.rows, config, cache_dir)
            answers[test_set.section]["selfie"] = replies
    return scales


def _ask(
    system: str,
    explainer: Explainer,
    test_set: TestSet,
    rows: Sequence[Row],
    config: EvaluationConfig,
    cache_dir: Path | None,
) -> list[Answer]:
    cache = Path(cache_dir) / test_set.section / f"{system}.jsonl" if cache_dir else None
    return answer_all(explainer, rows, config.batch_size, f"{test_set.section}: {system}", cache)


def _ask_with_controls(
    explainer: Explainer, test_set: TestSet, config: EvaluationConfig, seed: int, cache_dir: Path | None
) -> dict[str, list[Answer]]:
    """System -> the explainer's answers, to the rows themselves and, if they have vectors, to the control rows."""
    rows = test_set.rows
    variants: dict[str, Sequence[Row]] = {"explainer": rows}
    if any(row["placeholder_offsets"] for row in rows):
        variants["shuffled_vector"] = controls.shuffled_vector(rows, seed)
        variants["zero_vector"] = controls.zero_vector(rows)
        variants["text_only"] = controls.text_only(rows)
    return {
        system: _ask(system, explainer, test_set, of_system, config, cache_dir)
        for system, of_system in variants.items()
    }


def _selfie_scales(
    selfie: Callable[[float], Explainer] | None,
    datasets: Datasets,
    simulators: Mapping[str, Simulator],
    config: EvaluationConfig,
    seed: int,
    cache_dir: Path | None,
) -> dict[str, float]:
    """Task -> best scale of the SelfIE baseline, for tasks that have this baseline and a validation split."""
    scales = {}
    for task, dataset in datasets.items():
        if selfie is None or not config.selfie_rows or not SCORERS[task].uses_selfie:
            continue
        try:
            rows = validation_rows(dataset, config.selfie_rows, seed)
        except SelfExplainError as error:
            logger.warning("%s: SelfIE is left out because its scale cannot be chosen: %s", task, error)
            continue
        cache = Path(cache_dir) / task if cache_dir else None
        scales[task] = best_scale(selfie, SCORERS[task].task, rows, simulators[task], config.batch_size, cache)
    return scales


def _training_rows(dataset: DatasetDirectory, share: float, seed: int) -> list[dict]:
    """The training rows that the explainer learned from."""
    rows = read_rows(dataset.rows("train"))
    return [rows[index] for index in share_of([row["group"] for row in rows], share, seed)]


@dataclass(frozen=True)
class _Baselines:
    """The answers of all systems that need no explainer to be asked, and the strongest baseline of each metric.

    Attributes:
        texts: section -> system -> answers.
        changed: section -> system -> has-changed predictions.
        strongest: metric -> baseline and its validation score; empty without validation rows.
        readers: reader -> its settings, or why it is not available.
    """

    texts: dict[str, dict[str, list[str]]]
    changed: dict[str, dict[str, list[bool]]]
    strongest: dict[str, tuple[str, float]]
    readers: dict[str, ReaderReport]

    @classmethod
    def of(
        cls,
        test_sets: Sequence[TestSet],
        validation: TestSet,
        train: Sequence[Row],
        asked: Mapping[str, Mapping[str, Sequence[Answer]]],
        simulator: Simulator,
        seed: int,
        load_target: "Callable[[], Target] | None",
    ) -> Self:
        """Ask the baselines of one task, and choose the strongest ones on the validation rows.

        Args:
            asked: section -> system -> answers. Those to validation rows are answers of baselines.
        """
        scorer = SCORERS[validation.task]
        sections = [*test_sets, *([validation] if validation.rows else [])]
        material = Material(train, validation.rows, simulator.classes or {}, seed, load_target)
        read = ask_readers(validation.task, material, {of.section: of.rows for of in sections})
        texts = {of.section: scorer.baselines(train, of.rows) | read.texts[of.section] for of in sections}
        changed = {of.section: scorer.changed_baselines(train, of.rows) | read.changed[of.section] for of in sections}
        strongest = {}
        if validation.rows:
            answered = asked[validation.section].items()
            of_models = {system: [answer.text for answer in answers] for system, answers in answered}
            full, verdicts = of_models | texts[validation.section], changed[validation.section]
            strongest = strongest_baselines(scorer, validation.rows, full, verdicts, simulator)
        return cls(texts, changed, strongest, read.reports)


def _score(
    test_set: TestSet,
    baselines: _Baselines,
    answers: Mapping[str, Sequence[Answer]],
    simulator: Simulator,
    calibration: Mapping[str, float] | None,
    config: EvaluationConfig,
    seed: int,
) -> tuple[TestSetResult, list[Prediction]]:
    """Scores of all systems on one test set, and every answer to each of its rows.

    Args:
        answers: system -> its answers, for all systems except the baselines.
    """
    scorer, rows = SCORERS[test_set.task], test_set.rows
    texts = {system: [answer.text for answer in of_system] for system, of_system in answers.items()}
    texts |= baselines.texts[test_set.section]
    changed = baselines.changed[test_set.section]
    result = score_test_set(scorer, rows, texts, changed, simulator, config.n_resamples, seed, baselines.strongest)
    explained = answers["explainer"]
    calibrated = score_confidence(scorer, rows, explained, simulator, calibration, config.abstain_below)
    systems: dict[str, Sequence[str | bool]] = {**texts, **changed}
    predictions = [
        Prediction(
            row=index,
            group=row["group"],
            prompt=row["prompt"],
            completion=row["completion"],
            confidence=round(float(value), 4),
            answers=dict(zip(systems, of_row, strict=True)),
        )
        for index, row, value, *of_row in zip(
            test_set.indices, rows, confidences(scorer, explained, calibration), *systems.values(), strict=True
        )
    ]
    return result.model_copy(update={"calibration": calibrated, "readers": baselines.readers or None}), predictions


def _task_result(results: Sequence[tuple[str | None, TestSetResult]]) -> TaskResult:
    """The scores on a task's test split, with those on its out-of-distribution test sets."""
    (_, split), *others = results
    fields = {name: getattr(split, name) for name in TestSetResult.model_fields}
    return TaskResult(**fields, out_of_distribution={name: result for name, result in others if name} or None)
