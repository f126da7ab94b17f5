"""Score an explainer on held-out rows, beside its controls and baselines."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation import baselines, controls
from selfexplain.evaluation.calibration import calibration_scores
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.metrics import TASK_METRICS, confusion, is_parsable, metrics
from selfexplain.evaluation.selfie import SCALES
from selfexplain.evaluation.statistics import bootstrap_difference, bootstrap_interval, permutation_test
from selfexplain.features.description import Classes
from selfexplain.features.endpoint import Endpoint
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import share_of
from selfexplain.modeling.confidence import confidence, fit
from selfexplain.modeling.explanation import Answer

if TYPE_CHECKING:
    from selfexplain.target.load import Target, TargetShape

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Calibration = Mapping[str, Mapping[str, float]]

CORRECT = {
    "feature_description": "the description's simulator correlation is at least half of the ground truth's",
    "activation_patching": "exact match",
    "input_ablation": "exact match",
}
"""When an answer counts as right, for its confidence."""


class Explainer(Protocol):
    """What is evaluated; `SelfExplainerForCausalLM` is one."""

    def answer(self, rows: Sequence[Row], batch_size: int = ..., progress: str | None = ...) -> Sequence[Any]:
        """One answer a row, with a `text` and its `log_prob`."""
        ...


def evaluate(
    explainer: Explainer,
    untrained: Explainer,
    target: "Target | TargetShape",
    datasets_dir: Path,
    tasks: Sequence[str],
    config: EvaluationConfig,
    seed: int,
    cache_dir: Path | None = None,
    predictions_dir: Path | None = None,
    calibration: Calibration | None = None,
    selfie: Callable[[float], Explainer] | None = None,
    endpoint: Endpoint | None = None,
    share: float = 1.0,
) -> dict[str, dict]:
    """Score `explainer` on the test split of each task; returns the `tasks` part of results.json.

    Test sets out of distribution are scored in the same way, under `out_of_distribution` of their task. Everything is
    asked of one system before the next one is asked, so that not all of them have to be loaded at once.

    Args:
        untrained: the same explainer before training.
        target: the model that the datasets are about.
        datasets_dir: holds `<task>/test.parquet` and, for the baselines, `<task>/train.parquet`; the task's
            `statistics.json` names the classes of tokens that descriptions of features may name, and the test sets out
            of distribution, `<task>/<name>.parquet`.
        cache_dir: answers are kept here as they come, so that a killed evaluation continues. They belong to these two
            explainers: use another directory, or none, for others.
        predictions_dir: `<task>.jsonl` is written here, and `<task>/<name>.jsonl` of a test set out of distribution:
            each test row (by its index) with all answers to it.
        calibration: task -> how the explainer's confidence was calibrated, on other rows than these (`calibrate`).
        selfie: the SelfIE baseline at a scale (`selfie.selfie`), for feature descriptions; None leaves it out.
        endpoint: whose model foretells activations from descriptions; None for the offline simulator.
        share: of the training rows that the explainer learned from with this seed; the baselines get no others.

    Raises:
        SelfExplainError: a file is missing, a split is empty, its vectors are not as wide as the target, its
            descriptions are none that the simulator reads, or the endpoint fails.
    """
    sections = _sections(Path(datasets_dir), tasks)
    answered: dict[str, dict[str, list[Answer]]] = {section: {} for _, section, _ in sections}

    def ask(system: str, asked: Explainer, section: str, rows: Sequence[Row]) -> None:
        cache = cache_dir and Path(cache_dir) / section / f"{system}.jsonl"
        answered[section][system] = answer_all(asked, rows, config.batch_size, f"{section}: {system}", cache)

    held = {section: held_out(path, config.rows_limit, seed) for _, section, path in sections}
    classes: dict[str, Classes | None] = dict.fromkeys(tasks)
    if "feature_description" in tasks:
        classes["feature_description"] = _read_classes(Path(datasets_dir) / "feature_description" / "statistics.json")
    for task, section, _ in sections:
        test = held[section][1]
        _check_width(test, target, task)
        if task == "feature_description" and endpoint is None:
            _check_readable(test, classes[task], section)
    for _, section, _ in sections:
        test = held[section][1]
        logger.info("%s: %d test rows", section, len(test))
        ask("explainer", explainer, section, test)
        if any(row["placeholder_offsets"] for row in test):
            ask("shuffled_vector", explainer, section, controls.shuffled_vector(test, seed))
            ask("zero_vector", explainer, section, controls.zero_vector(test))
            ask("text_only", explainer, section, controls.text_only(test))
    for _, section, _ in sections:
        ask("untrained", untrained, section, held[section][1])
    scale = None
    if selfie and "feature_description" in tasks and config.selfie_rows:
        name = "feature_description"
        cache = cache_dir and Path(cache_dir) / name
        scale = _best_scale(selfie, Path(datasets_dir) / name, config, seed, cache, endpoint)
        if scale is not None:
            best = selfie(scale)
            for task, section, _ in sections:
                if task == name:
                    ask("selfie", best, section, held[section][1])

    results = {}
    for task, section, _ in sections:
        train = read_rows(Path(datasets_dir) / task / "train.parquet")
        train = [train[index] for index in share_of([row["group"] for row in train], share, seed)]
        chosen, test = held[section]
        given = answered[section]
        answers = {system: [answer.text for answer in own] for system, own in given.items()}
        answers["nearest_neighbour"] = baselines.nearest_neighbour(train, test)
        changed = {}
        if task == "feature_description":
            answers["ground_truth"] = [row["completion"] for row in test]
        else:
            changed["lookup_rule"] = baselines.lookup_rule(task, train, test)
            changed["majority"] = baselines.majority(train, test)

        results[section] = score_task(task, test, answers, changed, config.n_resamples, seed, classes[task], endpoint)
        raw, calibrated = (
            _confidences(task, given["explainer"], fitted) for fitted in (None, (calibration or {}).get(task))
        )
        if "selfie" in given:
            results[section]["selfie_scale"] = scale
        correct, known = _correct(task, answers["explainer"], test, classes[task], endpoint)
        results[section]["calibration"] = {
            "correct": CORRECT[task],
            **calibration_scores(calibrated[known], raw[known], correct[known], config.abstain_below),
        }
        if predictions_dir is not None:
            _write_predictions(
                Path(predictions_dir) / f"{section}.jsonl", chosen, test, {**answers, **changed}, calibrated
            )
    return _nested(results)


def _sections(datasets_dir: Path, tasks: Sequence[str]) -> list[tuple[str, str, Path]]:
    """What is scored: task, name of the section, file of the rows. Test sets out of distribution follow their task."""
    return [
        (task, name if name == task else f"{task}/{name}", datasets_dir / task / file)
        for task in tasks
        for name, file in [(task, "test.parquet"), *((s, f"{s}.parquet") for s in _beside(datasets_dir / task))]
    ]


def _beside(directory: Path) -> list[str]:
    """The test sets out of distribution of a dataset."""
    path = directory / "statistics.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(told.get("out_of_distribution", ()))


def _nested(results: Mapping[str, dict]) -> dict[str, dict]:
    """Sections by name -> tasks, each with its test sets out of distribution in it."""
    nested: dict[str, dict] = {}
    for section, result in results.items():
        task, _, name = section.partition("/")
        if name:
            nested[task].setdefault("out_of_distribution", {})[name] = result
        else:
            nested[task] = result
    return nested


def held_out(path: Path, limit: int | None, seed: int) -> tuple[list[int], list[dict]]:
    """The rows of a test split that are asked: their indices and themselves, at most `limit`, drawn at random.

    Raises:
        SelfExplainError: the file is missing or holds no rows.
    """
    rows = read_rows(path)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit]).tolist()
    return chosen, [rows[index] for index in chosen]


def _best_scale(
    selfie: Callable[[float], Explainer],
    folder: Path,
    config: EvaluationConfig,
    seed: int,
    cache_dir: Path | None,
    endpoint: Endpoint | None,
) -> float | None:
    """The scale whose answers correlate best on validation rows; None, with a warning, where there are none."""
    try:
        rows = read_rows(folder / "validation.parquet")
    except SelfExplainError as error:
        logger.warning("feature_description: SelfIE is left out, its scale cannot be chosen: %s", error)
        return None
    rows = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[: config.selfie_rows]]
    metric = metrics(_read_classes(folder / "statistics.json"), endpoint)["simulator_correlation"]
    texts = []
    for scale in SCALES:
        name = f"selfie at scale {scale:g}"
        cache = cache_dir and cache_dir / f"{name}.jsonl"
        answers = answer_all(selfie(scale), rows, config.batch_size, f"feature_description: {name}", cache)
        texts += [answer.text for answer in answers]
    counted = metric.count(texts, [row[metric.reference] for row in rows] * len(SCALES))
    scores = metric.value(counted.reshape(len(SCALES), len(rows), -1).sum(axis=1))
    return SCALES[np.nanargmax(scores)]


def calibrate(
    explainer: Explainer,
    datasets_dir: Path,
    tasks: Sequence[str],
    config: EvaluationConfig,
    seed: int,
    cache_dir: Path | None = None,
    endpoint: Endpoint | None = None,
) -> dict[str, dict[str, float]]:
    """How sure the explainer is against how often it is right, on the validation split of each task.

    A task without validation rows is left out, with a warning, and so is one whose probabilities foretell as well as
    they are. `cache_dir` and `endpoint` as in `evaluate`.
    """
    calibration = {}
    for task in tasks:
        folder = Path(datasets_dir) / task
        try:
            rows = read_rows(folder / "validation.parquet")
        except SelfExplainError as error:
            logger.warning("%s: its confidence is not calibrated: %s", task, error)
            continue
        rows = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))[: config.rows_limit]]
        classes = None
        if task == "feature_description":
            classes = _read_classes(folder / "statistics.json")
            if endpoint is None:
                _check_readable(rows, classes, task)
        cache = cache_dir and Path(cache_dir) / task / "validation.jsonl"
        answers = answer_all(explainer, rows, config.batch_size, f"{task}: calibration", cache)
        texts = [answer.text for answer in answers]
        correct, known = _correct(task, texts, rows, classes, endpoint)
        known &= [_readable(task, text) for text in texts]
        log_probs = np.array([answer.log_prob for answer in answers])
        if known.any():
            groups = [row["group"] for row, is_known in zip(rows, known, strict=True) if is_known]
            if fitted := fit(log_probs[known], correct[known], groups):
                calibration[task] = fitted
    return calibration


def read_classes(datasets_dir: Path) -> dict[str, list[str]]:
    """The classes of tokens that descriptions of these datasets may name, sorted; none without feature descriptions."""
    path = Path(datasets_dir) / "feature_description" / "statistics.json"
    if not path.is_file():
        return {}
    return {name: sorted(tokens) for name, tokens in _read_classes(path).items()}


def _readable(task: str, text: str) -> bool:
    """Whether an explainer is sure of an answer at all: one that states no outcome claims nothing."""
    return task == "feature_description" or is_parsable(task, text)


def _confidences(task: str, answers: Sequence[Any], calibration: Mapping[str, float] | None) -> np.ndarray:
    """The explainer's confidence in each answer, `(n,)`, as its explanations give it."""
    sure = confidence([answer.log_prob for answer in answers], calibration)
    return np.where([_readable(task, answer.text) for answer in answers], sure, 0.0)


def _correct(
    task: str, texts: Sequence[str], rows: Sequence[Row], classes: Classes | None, endpoint: Endpoint | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which answers are right, as `CORRECT` says, and of which that is known, `(n,)` bool each."""
    name = "simulator_correlation" if task == "feature_description" else "exact_match"
    metric = metrics(classes, endpoint)[name]
    references = [row[metric.reference] for row in rows]
    if task != "feature_description":
        return metric.count(texts, references)[:, 0] > 0, np.ones(len(rows), bool)
    own, gold = np.split(metric.count([*texts, *(row["completion"] for row in rows)], references * 2), 2)
    return (own[:, 0] > 0) & (own[:, 0] >= gold[:, 0] / 2), (own[:, 1] > 0) & (gold[:, 1] > 0)


def score_task(
    task: str,
    rows: Sequence[Row],
    answers: Mapping[str, Sequence[str]],
    changed: Mapping[str, Sequence[bool]],
    n_resamples: int,
    seed: int,
    classes: Classes | None = None,
    endpoint: Endpoint | None = None,
) -> dict:
    """Score the systems of one task.

    Args:
        answers: system -> one answer a row; scored by every metric of the task.
        changed: system -> one has-changed prediction a row, of systems that predict nothing else.

    Returns:
        `n_test`, `n_groups`, `counts` of the true classes, `unparsable` answers by system, `scores` (system -> metric
        -> value and ci95) and `comparisons` ("explainer - system" -> metric -> difference, ci95 and p_value). Of
        feature descriptions also the `simulator`, and where that is a model behind an endpoint what could not be read
        of its replies: `unread` (system -> metric -> windows, and rows that have no score because of them).
    """
    groups = [row["group"] for row in rows]
    scored_by = {name: metrics(classes, endpoint)[name] for name in TASK_METRICS[task]}
    statistics: dict[str, dict[str, np.ndarray]] = {system: {} for system in (*answers, *changed)}
    for name, metric in scored_by.items():
        references = [row[metric.reference] for row in rows] * len(answers)
        counted = metric.count([text for texts in answers.values() for text in texts], references)
        for system, own in zip(answers, np.split(counted, len(answers)), strict=True):
            statistics[system][name] = own
    for system, predictions in changed.items():
        statistics[system]["has_changed_macro_f1"] = confusion(predictions, [row["changed"] for row in rows])

    result: dict[str, Any] = {"n_test": len(rows), "n_groups": len(set(groups))}
    if task != "feature_description":
        n_changed = sum(row["changed"] for row in rows)
        result["counts"] = {"changed": n_changed, "unchanged": len(rows) - n_changed}
    elif endpoint:
        result |= {"simulator": endpoint.model, "unread": _drop_unscored(statistics)}
    else:
        result["simulator"] = "offline"
    scores: dict[str, dict] = {}
    comparisons: dict[str, dict] = {}
    for system, by_metric in statistics.items():
        scores[system] = {}
        for name, rows_of in by_metric.items():
            value = scored_by[name].value
            scores[system][name] = {
                "value": float(value(rows_of.sum(axis=0))),
                "ci95": list(bootstrap_interval(rows_of, groups, value, n_resamples, seed)),
            }
            if system != "explainer":
                own = statistics["explainer"][name]
                comparisons.setdefault(f"explainer - {system}", {})[name] = {
                    "difference": float(value(own.sum(axis=0)) - value(rows_of.sum(axis=0))),
                    "ci95": list(bootstrap_difference(own, rows_of, groups, value, n_resamples, seed)),
                    "p_value": permutation_test(own, rows_of, groups, value, n_resamples, seed),
                }
    result["unparsable"] = {
        system: sum(not is_parsable(task, text, classes, endpoint) for text in texts)
        for system, texts in answers.items()
    }
    return {**result, "scores": scores, "comparisons": comparisons}


def _drop_unscored(statistics: Mapping[str, dict[str, np.ndarray]]) -> dict[str, dict[str, dict[str, int]]]:
    """Count what was not read of an endpoint's replies, and drop the metrics of systems that have no score at all.

    Raises:
        SelfExplainError: the explainer has none.
    """
    unread: dict[str, dict[str, dict[str, int]]] = {}
    for system, by_metric in statistics.items():
        unread[system] = {
            name: {"windows": int(c[:, 2].sum()), "rows": int((c[:, 1] == 0).sum())} for name, c in by_metric.items()
        }
        for name in [name for name, c in by_metric.items() if not c[:, 1].any()]:
            if system == "explainer":
                raise SelfExplainError(
                    f"no reply on the explainer's descriptions can be read, so {name} has no value: name another "
                    "model with evaluation.endpoint_model=NAME, and run again."
                )
            logger.warning("%s: %s is left out, no reply on its descriptions can be read", system, name)
            del by_metric[name]
    return unread


def answer_all(
    explainer: Explainer, rows: Sequence[Row], batch_size: int, progress: str, cache: Path | None = None
) -> list[Answer]:
    """The answers, with a progress bar. Those in the file `cache` that belong to `rows` are not asked again."""
    keys = [_key(row) for row in rows]
    answers = _read_cache(cache, keys) if cache else []
    if cache:  # drops what a killed run left half-written
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(
            "".join(_cache_line(key, answer) for key, answer in zip(keys, answers, strict=False)), encoding="utf-8"
        )
    with tqdm(total=len(rows), initial=len(answers), desc=progress, unit="row") as bar:
        while len(answers) < len(rows):
            start, end = len(answers), min(len(answers) + 8 * batch_size, len(rows))
            given = explainer.answer(rows[start:end], batch_size=batch_size)
            new = [Answer(answer.text, answer.log_prob) for answer in given]
            if cache:
                with cache.open("a", encoding="utf-8") as file:
                    file.writelines(map(_cache_line, keys[start:end], new))
            answers += new
            bar.update(len(new))
    return answers


def _read_classes(path: Path) -> dict[str, set[str]]:
    if not path.is_file():
        raise SelfExplainError(
            f"{path} does not exist: build the dataset again (`selfexplain run RECIPE --stage dataset`)."
        )
    classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    return {name: set(tokens) for name, tokens in classes.items()}


def _check_readable(rows: Sequence[Row], classes: Classes | None, section: str) -> None:
    """Refuse the offline simulator where the ground truth is in other words: everything would score 0."""
    texts = [row["completion"] for row in rows]
    unread = [text for text in texts if not is_parsable("feature_description", text, classes)]
    if unread:
        raise SelfExplainError(
            f"{section}: {len(unread)} of {len(texts)} descriptions of the ground truth cannot be read by the offline "
            f"simulator, such as {unread[0]!r}. Name a chat model that can: evaluation.endpoint=URL "
            "evaluation.endpoint_model=NAME."
        )


def _check_width(rows: Sequence[Row], target: "Target | TargetShape", task: str) -> None:
    widths = {row["activations"].shape[1] for row in rows if len(row["activations"])}
    if widths - {target.d_model}:
        raise SelfExplainError(
            f"{task}: the dataset holds vectors of width {sorted(widths)}, {target.name} has width {target.d_model}. "
            "Evaluate on datasets built from this target."
        )


def _key(row: Row) -> str:
    """Identifies what an explainer sees of a row."""
    digest = hashlib.sha256(json.dumps([row["prompt"], list(row["placeholder_offsets"])]).encode())
    digest.update(np.asarray(row["activation_layers"], dtype=np.int64).tobytes())
    digest.update(np.asarray(row["activations"], dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]


def _cache_line(key: str, answer: Answer) -> str:
    return json.dumps({"row": key, **asdict(answer)}) + "\n"


def read_answers(path: Path, rows: Sequence[Row]) -> list[Answer]:
    """The answers that `answer_all` kept in a file: to the leading rows, up to the first that it was not asked.

    So there are fewer answers than rows where the rows changed or it was killed, and none where there is no file.
    """
    return _read_cache(path, [_key(row) for row in rows])


def _read_cache(path: Path, keys: Sequence[str]) -> list[Answer]:
    """Answers to the leading rows that the file holds."""
    answers: list[Answer] = []
    if path.is_file():
        for key, line in zip(keys, path.read_text(encoding="utf-8").splitlines(), strict=False):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            if entry.pop("row") != key:
                break
            answers.append(Answer(**entry))
    return answers


def _write_predictions(
    path: Path,
    indices: Sequence[int],
    rows: Sequence[Row],
    predictions: Mapping[str, Sequence[str | bool]],
    confidences: Sequence[float] | np.ndarray,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    with partial.open("w", encoding="utf-8") as file:
        for index, row, sure, *answers in zip(indices, rows, confidences, *predictions.values(), strict=True):
            shown = {key: row[key] for key in ("group", "prompt", "completion")}
            given = dict(zip(predictions, answers, strict=True))
            line = {"row": index, **shown, "confidence": round(float(sure), 4), "answers": given}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(partial, path)
