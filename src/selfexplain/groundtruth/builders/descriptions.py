"""Describe features: write candidate descriptions, choose the best one of each feature, and score it on other texts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.features import chat_simulator
from selfexplain.features.describers import chat_model
from selfexplain.features.describers.neuronpedia import read_descriptions
from selfexplain.features.describers.offline import PENALTY, describe
from selfexplain.features.description import ABSTENTION, Description
from selfexplain.features.dictionary import Dictionary
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.exemplars import ExemplarState
from selfexplain.features.grammar import wordnet
from selfexplain.features.simulate import SimulatorScore, detect, fuzzing, simulator_score
from selfexplain.features.windows import Exemplar, FeatureExemplars, collect_exemplars
from selfexplain.groundtruth.builders.description_forms import measure_forms
from selfexplain.groundtruth.builders.dictionaries import has_several_candidates, n_exemplar_sets
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.target.load import Target
from selfexplain.tasks.feature_description import TEMPLATES

logger = logging.getLogger(__name__)

OFFLINE = "selfexplain offline describer"
NEURONPEDIA = "Neuronpedia"

Classes = Mapping[str, set[str]]


@dataclass(frozen=True)
class Candidate:
    """A candidate description, or `ABSTENTION`.

    Attributes:
        text: the description.
        source: name of the describer.
        cost: penalty for its length, subtracted from its simulator score when the best candidate is chosen.
        fit: its correlation with the exemplars that it was written from; None if the describer does not give one.
    """

    text: str
    source: str
    cost: float = 0.0
    fit: float | None = None


@dataclass(frozen=True)
class Choice:
    """A feature with the description chosen for it.

    Attributes:
        feature: the feature and its exemplars.
        candidate: the chosen description.
        value: the simulator score that it was chosen by; its fit if there was no choice.
    """

    feature: FeatureExemplars
    candidate: Candidate
    value: float | None

    def is_good_enough(self, minimum: float) -> bool:
        """Whether an offline description scores at least `minimum`. Other descriptions always do."""
        return self.candidate.source != OFFLINE or (self.value is not None and self.value >= minimum)


@dataclass(frozen=True)
class Described:
    """A feature with its chosen description.

    Attributes:
        feature: the feature and its exemplars.
        description: the chosen description.
        simulator_score: its simulator score; None if the simulator cannot read the description.
    """

    feature: FeatureExemplars
    description: Candidate
    simulator_score: float | None

    @property
    def is_expressible(self) -> bool:
        """Whether a description was found."""
        return self.description.text != ABSTENTION


def check_settings(config: FeatureConfig) -> None:
    """Check that the settings are compatible, before anything is computed.

    Raises:
        SelfExplainError: settings are missing or contradict each other.
    """
    if not 1 <= config.rows_per_feature <= len(TEMPLATES):
        raise SelfExplainError(
            f"rows_per_feature is {config.rows_per_feature}. Expected a number from 1 to {len(TEMPLATES)}, the number "
            "of wordings of the question."
        )
    if config.n_candidates < 1 or not config.descriptions:
        raise SelfExplainError(
            f"n_candidates is {config.n_candidates} and descriptions is {list(config.descriptions)}. Expected at least "
            "one candidate and one describer."
        )
    if config.wordnet and not wordnet.available():
        raise SelfExplainError(f"wordnet is true. {wordnet.MISSING}")
    if ("endpoint" in config.descriptions or config.simulator == "endpoint") and not (
        config.endpoint and config.endpoint_model
    ):
        raise SelfExplainError(
            f"endpoint is {config.endpoint!r} and endpoint_model is {config.endpoint_model!r}. Expected the base URL "
            "of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1, and the name of a model there."
        )
    if has_several_candidates(config) and config.simulator == "offline" and set(config.descriptions) != {"offline"}:
        raise SelfExplainError(
            f"There are several candidate descriptions (describers: {', '.join(config.descriptions)}), and the offline "
            "simulator, which has to choose among them, reads only the offline describer. Set simulator=endpoint, "
            "or use one describer and n_candidates=1."
        )


def describe_features(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    dictionaries: Sequence[Dictionary],
    work_dir: Path,
    classes: Classes,
    seed: int,
    state: ExemplarState | None = None,
) -> tuple[list[Described], dict[str, Any]]:
    """Find where features are active, describe them, and score the best description of each on other texts.

    Args:
        config: settings of feature description.
        target: the model that is explained.
        token_ids: token ids of each text of the corpus.
        dictionaries: the features.
        work_dir: directory for the replies of an endpoint and for downloads.
        classes: token class that descriptions can name -> its tokens.
        seed: seed of everything that is drawn.
        state: exemplars collected from the whole corpus; None to collect them here.

    Returns:
        The features with their descriptions; `ABSTENTION` for those that the offline describer cannot describe well
        enough. And counts.
    """
    windows = {name: getattr(config, name) for name in ("n_top", "n_sampled", "n_random", "window", "min_active")}
    windows |= {"n_splits": n_exemplar_sets(config), "seed": seed}
    active, counts = collect_exemplars(target, token_ids, dictionaries, **windows, state=state)
    features = [feature for feature in active if feature.density <= config.max_density]
    endpoint = _endpoint(config, work_dir)
    candidates, report = write_candidates(config, dictionaries, features, endpoint, work_dir, classes, seed)
    statistics: dict[str, Any] = {**counts, "too_dense": len(active) - len(features), **report}
    described = [(feature, texts) for feature, texts in zip(features, candidates, strict=True) if texts]
    choices, choosing = choose_candidates(config, endpoint, described, classes)
    statistics |= {"choosing": choosing} if choosing else {}
    good = [choice for choice in choices if choice.is_good_enough(config.min_correlation)]
    best = [(choice.feature, choice.candidate) for choice in good]
    offline = {
        (c.feature.dictionary, c.feature.feature): c.candidate.text for c in good if c.candidate.source == OFFLINE
    }
    statistics["forms"] = measure_forms(active, dictionaries, offline, classes)
    pairs = [(candidate.text, feature.sets[-1]) for feature, candidate in best]
    scores, statistics["scoring"] = simulator_scores(config, endpoint, pairs, classes)
    for name in config.scores:
        if name != "simulator":
            statistics[name] = judgements(config, endpoint, name, pairs, classes, seed)
    scored = [Described(*pair, score.value if score else None) for pair, score in zip(best, scores, strict=True)]
    poor = [choice.feature for choice in choices if not choice.is_good_enough(config.min_correlation)]
    abstained = [Described(feature, Candidate(ABSTENTION, OFFLINE), None) for feature in poor]
    return [*scored, *abstained], statistics | {
        "described": len(best),
        "inexpressible": len(poor),
        "poorly_described": len(features) - len(best),
        "mean_simulator_score": mean_score(scored),
        "n_texts": len(token_ids),
        "n_tokens": sum(map(len, token_ids)),
        "classes": {name: sorted(members) for name, members in classes.items()},
    }


def write_candidates(
    config: FeatureConfig,
    dictionaries: Sequence[Dictionary],
    features: Sequence[FeatureExemplars],
    endpoint: Endpoint | None,
    work_dir: Path,
    classes: Classes,
    seed: int,
) -> tuple[list[list[Candidate]], dict[str, Any]]:
    """Every describer's descriptions of each feature, from the first set of exemplars, without duplicates.

    Returns:
        The candidates of each feature, and a report per describer that has one.
    """
    candidates: list[dict[str, Candidate]] = [{} for _ in features]
    report: dict[str, Any] = {}
    for source in config.descriptions:
        if source == "offline":
            written = _write_offline(config, features, classes)
        elif source == "neuronpedia":
            written, report["neuronpedia"] = _read_neuronpedia(config, dictionaries, features, work_dir)
        elif endpoint is not None:
            written, report["endpoint"] = _write_with_endpoint(config, features, endpoint, seed)
        else:
            continue
        for texts, new in zip(candidates, written, strict=True):
            for candidate in new:
                texts.setdefault(candidate.text, candidate)
    return [list(texts.values()) for texts in candidates], report


def choose_candidates(
    config: FeatureConfig,
    endpoint: Endpoint | None,
    described: Sequence[tuple[FeatureExemplars, Sequence[Candidate]]],
    classes: Classes,
) -> tuple[list[Choice], dict[str, int] | None]:
    """Choose the candidate of each feature with the best simulator score, less its cost, on the second exemplar set.

    Returns:
        The choices, and counts of the scored candidates; None if there is only one candidate per feature.
    """
    if not has_several_candidates(config):
        return [Choice(feature, texts[0], texts[0].fit) for feature, texts in described], None
    pairs = [(candidate.text, feature.sets[1]) for feature, texts in described for candidate in texts]
    scores, counts = simulator_scores(config, endpoint, pairs, classes)
    values = iter([score.value if score else 0.0 for score in scores])
    choices = []
    for feature, texts in described:
        value, candidate = max(((next(values), text) for text in texts), key=lambda pair: pair[0] - pair[1].cost)
        choices.append(Choice(feature, candidate, value))
    return choices, counts


def samples(exemplars: Sequence[Exemplar], n: int, seed: int) -> list[list[Exemplar]]:
    """`n` lists to write a description from: all exemplars, then random halves of them."""
    rng = np.random.default_rng(seed)
    halves = [np.sort(rng.permutation(len(exemplars))[: -(-len(exemplars) // 2)]) for _ in range(n - 1)]
    return [list(exemplars), *([exemplars[i] for i in half] for half in halves)]


def simulator_scores(
    config: FeatureConfig, endpoint: Endpoint | None, pairs: Sequence[tuple[str, Sequence[Exemplar]]], classes: Classes
) -> tuple[list[SimulatorScore | None], dict[str, int]]:
    """Simulator score of each (description, exemplars).

    Returns:
        The scores, None for descriptions that the simulator cannot read, and counts: `scored`, `constant`
        (predictions that do not vary, which are scored 0 and included in `scored`), `unscored`, and `unread_windows`
        (windows without a readable reply).
    """
    scores: list[SimulatorScore | None]
    unread = 0
    if config.simulator == "endpoint" and endpoint is not None:
        scores, unread = chat_simulator.simulate_all(endpoint, pairs)
    else:
        parsed = [Description.parse(text, classes) for text, _ in pairs]
        scores = [
            simulator_score(description, exemplars) if description else None
            for description, (_, exemplars) in zip(parsed, pairs, strict=True)
        ]
    known = [score for score in scores if score]
    return scores, {
        "scored": len(known),
        "constant": sum(score.constant for score in known),
        "unscored": len(scores) - len(known),
        "unread_windows": unread,
    }


def judgements(
    config: FeatureConfig,
    endpoint: Endpoint | None,
    name: Literal["detection", "fuzzing"],
    pairs: Sequence[tuple[str, Sequence[Exemplar]]],
    classes: Classes,
    seed: int,
) -> dict[str, Any]:
    """Mean balanced accuracy of detection or fuzzing with the configured simulator, and counts of scored pairs."""
    unread = 0
    if config.simulator == "endpoint" and endpoint is not None:
        judge_all = chat_simulator.detect_all if name == "detection" else chat_simulator.fuzz_all
        values, unread = judge_all(endpoint, pairs, seed)
    else:
        judge = detect if name == "detection" else partial(fuzzing, seed=seed)
        parsed = [(Description.parse(text, classes), exemplars) for text, exemplars in pairs]
        values = [judge(description, exemplars) if description else None for description, exemplars in parsed]
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "scored": len(known),
        "unscored": len(values) - len(known),
        "unread_windows": unread,
    }


def mean_score(described: Sequence[Described]) -> float | None:
    """Mean simulator score of the features that have one; None if there are none."""
    known = [entry.simulator_score for entry in described if entry.simulator_score is not None]
    return float(np.mean(known)) if known else None


def _endpoint(config: FeatureConfig, work_dir: Path) -> Endpoint | None:
    if not config.endpoint or not config.endpoint_model:
        return None
    return Endpoint(
        config.endpoint,
        config.endpoint_model,
        work_dir / "replies.sqlite",
        config.endpoint_concurrency,
        config.endpoint_timeout,
    )


def _write_offline(
    config: FeatureConfig, features: Sequence[FeatureExemplars], classes: Classes
) -> list[list[Candidate]]:
    """Descriptions of the offline describer. Without WordNet's data, a warning names the forms that are missing."""
    use_wordnet = wordnet.available() if config.wordnet is None else config.wordnet
    if config.grammar == "full" and config.wordnet is None and not use_wordnet:
        logger.warning(wordnet.UNAVAILABLE)
    with threadpool_limits(1, "blas"):  # the matrices are small, and waiting threads would only take time
        return [
            [
                Candidate(str(description), OFFLINE, PENALTY * description.complexity, fit)
                for description, fit in describe(
                    feature.sets[0], classes, config.n_candidates, config.grammar, use_wordnet
                )
            ]
            for feature in tqdm(features, desc="describing features", unit="feature")
        ]


def _read_neuronpedia(
    config: FeatureConfig, dictionaries: Sequence[Dictionary], features: Sequence[FeatureExemplars], work_dir: Path
) -> tuple[list[list[Candidate]], dict[str, Any]]:
    """Descriptions of an export of Neuronpedia, and what each export contains."""
    exports = [read_descriptions(dictionary, config.neuronpedia, work_dir) for dictionary in dictionaries]
    texts = [exports[f.dictionary][0].get(f.feature, [])[: config.n_candidates] for f in features]
    report = {d.sae_id: contents for d, (_, contents) in zip(dictionaries, exports, strict=True)}
    return [[Candidate(text, NEURONPEDIA) for text in own] for own in texts], report


def _write_with_endpoint(
    config: FeatureConfig, features: Sequence[FeatureExemplars], endpoint: Endpoint, seed: int
) -> tuple[list[list[Candidate]], dict[str, int]]:
    """Descriptions of a chat model, and the number of requests and of unreadable replies."""
    requests = [
        (number, n, sample)
        for number, feature in enumerate(features)
        for n, sample in enumerate(samples(feature.sets[0], config.n_candidates, seed + number))
    ]
    replies = chat_model.describe_all(endpoint, [chat_model.describe_request(s, n) for _, n, s in requests])
    written: list[list[Candidate]] = [[] for _ in features]
    for (number, _, _), reply in zip(requests, replies, strict=True):
        if reply is not None:
            written[number].append(Candidate(reply, endpoint.model))
    return written, {"asked": len(requests), "unread": replies.count(None)}
