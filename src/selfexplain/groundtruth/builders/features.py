"""Ground truth for feature description: SAE directions, descriptions of where they fire, and scores of those."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.features.describers import chat_model as language
from selfexplain.features.describers.neuronpedia import read_descriptions
from selfexplain.features.describers.offline import PENALTY, describe
from selfexplain.features.description import Description
from selfexplain.features.dictionary import Dictionary, load_dictionaries
from selfexplain.features.endpoint import Endpoint
from selfexplain.features.exemplars import ExemplarState, collect
from selfexplain.features.saes import sample_activations, train_saes
from selfexplain.features.simulate import Score, detect, fuzzing, simulated
from selfexplain.features.windows import Exemplar, FeatureExemplars, collect_exemplars
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.splits import normalised, split_of
from selfexplain.target.capture import check_layers
from selfexplain.target.load import Target
from selfexplain.tasks.feature_description import TEMPLATES, question

OFFLINE = "selfexplain offline describer"
NEURONPEDIA = "Neuronpedia"
MAX_GROUP_SHARE = 0.02  # of all features; a larger group of similar features is cut into closer ones
COSINE_STEP = 0.02
SIMILARITIES_AT_ONCE = 2048  # rows and columns of one block
EDGES_AT_ONCE = 2**22

Classes = Mapping[str, set[str]]


@dataclass(frozen=True)
class Candidate:
    """A description that might be kept, who wrote it, and the simulator score that its length has to be worth."""

    text: str
    source: str
    cost: float = 0.0


@dataclass(frozen=True)
class Described:
    """A feature with the description that was kept."""

    feature: FeatureExemplars
    description: Candidate
    simulator_score: float | None


def layers_and_token_ids(
    config: FeatureConfig, target: Target, corpus: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """The layers asked for, and the token ids of the corpus.

    Raises:
        SelfExplainError: settings that do not go together, no text, or no such layer.
    """
    check_settings(config)
    if not corpus:
        raise SelfExplainError("the corpus is empty: give at least some hundred texts.")
    return choose_layers(config.layers, target.n_layers), tokenize(target, corpus, config.max_text_tokens)


def build_rows(
    config: FeatureConfig,
    target: Target,
    corpus: Sequence[str],
    work_dir: Path,
    classes: Classes,
    seed: int,
    passed: ExemplarState | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of all splits together, and what was counted on the way.

    The vector of a row is the feature's unit decoder direction.

    Args:
        work_dir: trained SAEs are written to its `saes/`; replies of an endpoint and downloads are kept there too.
        classes: classes of tokens that descriptions may name, name -> token texts.
        passed: what a pass over this corpus kept of the dictionaries in `work_dir` (`pass_over`); None to train these
            and to make the pass.

    Raises:
        SelfExplainError: settings that do not go together, no text, no such layer, or SAEs that do not fit.
    """
    layers, token_ids = layers_and_token_ids(config, target, corpus)
    if passed is None:
        train_dictionaries(config, target, token_ids, layers, work_dir, seed)
    dictionaries = find_dictionaries(config, target, token_ids, layers, work_dir, seed)
    described, statistics = describe_features(config, target, token_ids, dictionaries, work_dir, classes, seed, passed)
    chosen = [dictionaries[one.feature.dictionary].directions[one.feature.feature] for one in described]
    vectors = (torch.stack(chosen) if chosen else torch.empty(0, target.d_model)).to(target.model.device)
    families = group_similar(vectors, config.group_cosine) if described else []
    named = [names(one.description, classes) for one in described]
    groups = hold_apart(families, [first for first, *_ in named], seed)
    groups = keep_unseen(groups, vectors, named, config.group_cosine, seed)
    kept = [(one, group) for one, group in zip(described, groups, strict=True) if group is not None]
    return rows_of(config, target, dictionaries, kept, seed), statistics | {
        "between_splits": len(described) - len(kept),
        "groups": len({group for _, group in kept}),
        "mean_simulator_score": _mean_score([one for one, _ in kept]),
        "layers": layers,
    }


def check_settings(config: FeatureConfig) -> None:
    """Refuse settings that do not go together, before anything is computed.

    Raises:
        SelfExplainError: naming the settings.
    """
    if not 1 <= config.rows_per_feature <= len(TEMPLATES):
        raise SelfExplainError(f"rows_per_feature {config.rows_per_feature} given; expected 1 to {len(TEMPLATES)}.")
    if config.n_candidates < 1 or not config.descriptions:
        raise SelfExplainError(
            f"n_candidates {config.n_candidates} and descriptions {list(config.descriptions)} given; expected at least "
            "one of each."
        )
    if ("endpoint" in config.descriptions or config.simulator == "endpoint") and not (
        config.endpoint and config.endpoint_model
    ):
        raise SelfExplainError(
            f"endpoint is {config.endpoint!r} and endpoint_model {config.endpoint_model!r}; expected the base URL of "
            "an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1, and the name of a model it serves."
        )
    if _is_search(config) and config.simulator == "offline" and set(config.descriptions) != {"offline"}:
        raise SelfExplainError(
            f"the best of several candidates ({', '.join(config.descriptions)}) is chosen by a simulator, and the "
            "offline one reads the offline describer only. Set simulator=endpoint, or one writer and n_candidates=1."
        )


def _is_search(config: FeatureConfig) -> bool:
    return len(config.descriptions) > 1 or config.n_candidates > 1


def choose_layers(layers: Sequence[int | float | str] | None, n_layers: int) -> list[int]:
    """Numbers of the layers asked for: by number, fraction of the depth, or range of either; all where None.

    Fractions count from the first layer (0.0) to the last (1.0).

    Raises:
        SelfExplainError: a layer that does not exist, or a range that is none.
    """

    def number(value: int | float) -> int:
        if isinstance(value, float):
            if not 0 <= value <= 1:
                raise SelfExplainError(f"layers: {value} given; a fraction of the depth lies between 0.0 and 1.0.")
            return round(value * (n_layers - 1))
        return value

    def numbers(spec: int | float | str) -> list[int]:
        if not isinstance(spec, str):
            return [number(spec)]
        ends = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", spec)
        first, last = (number(float(end) if "." in end else int(end)) for end in ends.groups()) if ends else (0, -1)
        if last < first:
            raise SelfExplainError(f"layers: {spec!r} given; expected a range such as '8-15' or '0.25-0.75'.")
        return list(range(first, last + 1))

    asked = range(n_layers) if layers is None else [layer for spec in layers for layer in numbers(spec)]
    return list(dict.fromkeys(check_layers(asked, n_layers)))


def train_dictionaries(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    work_dir: Path,
    seed: int,
) -> None:
    """Train the SAEs of these layers to `work_dir/saes`, unless the settings name others."""
    if config.saes is None:
        names = ("n_saes", "n_features", "k", "n_tokens", "learning_rate")
        settings = {name: getattr(config, name) for name in names}
        train_saes(target, token_ids, layers, work_dir / "saes", **settings, seed=seed)


def find_dictionaries(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    work_dir: Path,
    seed: int,
) -> list[Dictionary]:
    """Load what the settings name, or the SAEs that were trained to `work_dir`."""

    @cache
    def centers() -> dict[int, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        activations = sample_activations(target, token_ids, layers, config.n_tokens, generator)
        return dict(zip(layers, activations.mean(1).to(target.model.device), strict=True))

    found = load_dictionaries(
        config.saes or str(work_dir / "saes"),
        target,
        layers,
        sae_id=config.sae_id,
        max_features=config.max_features,
        seed=seed,
        centers=centers,
    )
    return found if config.saes else [replace(d, release=f"trained on {target.name}") for d in found]


def pass_over(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    dictionaries: Sequence[Dictionary],
    shard: int,
    n_shards: int,
) -> ExemplarState:
    """What every `n_shards`-th text, from number `shard` on, gives for the exemplars; merged, what all of them give."""
    return collect(
        target,
        dictionaries,
        token_ids[shard::n_shards],
        n_top=config.n_top,
        n_sampled=config.n_top + config.n_sampled,  # more than wanted, because the strongest may be among them
        n_splits=_n_splits(config),
        sequence_ids=range(shard, len(token_ids), n_shards),
    )


def _n_splits(config: FeatureConfig) -> int:
    """Exemplars to write from, to choose on where there is a choice, and to score on."""
    return 3 if _is_search(config) else 2


def describe_features(
    config: FeatureConfig,
    target: Target,
    token_ids: Sequence[Sequence[int]],
    dictionaries: Sequence[Dictionary],
    work_dir: Path,
    classes: Classes,
    seed: int,
    passed: ExemplarState | None = None,
) -> tuple[list[Described], dict[str, Any]]:
    """Find out where features fire, have that described, keep the best description of each, score it on other texts."""
    windows = {name: getattr(config, name) for name in ("n_top", "n_sampled", "n_random", "window", "min_active")}
    windows |= {"n_splits": _n_splits(config), "seed": seed}
    features, counts = collect_exemplars(target, token_ids, dictionaries, **windows, state=passed)
    endpoint = None
    if config.endpoint and config.endpoint_model:
        endpoint = Endpoint(
            config.endpoint,
            config.endpoint_model,
            work_dir / "replies.sqlite",
            config.endpoint_concurrency,
            config.endpoint_timeout,
        )
    candidates, told = write_candidates(config, dictionaries, features, endpoint, work_dir, classes, seed)
    statistics: dict[str, Any] = {**counts, **told}
    described = [(feature, texts) for feature, texts in zip(features, candidates, strict=True) if texts]
    if _is_search(config):
        pairs = [(candidate.text, feature.sets[1]) for feature, texts in described for candidate in texts]
        scores, statistics["choosing"] = simulator_scores(config, endpoint, pairs, classes)
        values = iter([score.value if score else 0.0 for score in scores])
        chosen = []
        for feature, texts in described:
            value, candidate = max(((next(values), text) for text in texts), key=lambda pair: pair[0] - pair[1].cost)
            if candidate.source != OFFLINE or value >= config.min_correlation:
                chosen.append((feature, [candidate]))
        described = chosen
    best = [(feature, candidate) for feature, (candidate, *_) in described]
    pairs = [(candidate.text, feature.sets[-1]) for feature, candidate in best]
    scores, statistics["scoring"] = simulator_scores(config, endpoint, pairs, classes)
    for name in config.scores:
        if name != "simulator":
            statistics[name] = judgements(config, endpoint, name, pairs, classes, seed)
    scored = [Described(*pair, score.value if score else None) for pair, score in zip(best, scores, strict=True)]
    return scored, statistics | {
        "described": len(best),
        "poorly_described": len(features) - len(best),
        "mean_simulator_score": _mean_score(scored),
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
    """Every writer's descriptions of each feature, from the first set of exemplars; equal ones once."""
    found: list[dict[str, Candidate]] = [{} for _ in features]
    report: dict[str, Any] = {}
    for source in config.descriptions:
        if source == "offline":
            least = -1.0 if _is_search(config) else config.min_correlation  # a search measures it on other exemplars
            for texts, feature in zip(found, tqdm(features, desc="describing features", unit="feature"), strict=True):
                for description, fit in describe(feature.sets[0], classes, config.n_candidates):
                    if fit >= least:
                        cost = PENALTY * description.complexity
                        texts.setdefault(str(description), Candidate(str(description), OFFLINE, cost))
        elif source == "neuronpedia":
            exports = [read_descriptions(d, config.neuronpedia, work_dir) for d in dictionaries]
            report["neuronpedia"] = {
                d.sae_id: completeness for d, (_, completeness) in zip(dictionaries, exports, strict=True)
            }
            for texts, feature in zip(found, features, strict=True):
                for text in exports[feature.dictionary][0].get(feature.feature, [])[: config.n_candidates]:
                    texts.setdefault(text, Candidate(text, NEURONPEDIA))
        elif endpoint is not None:
            asked = [
                (texts, n, sample)
                for number, (texts, feature) in enumerate(zip(found, features, strict=True))
                for n, sample in enumerate(samples(feature.sets[0], config.n_candidates, seed + number))
            ]
            replies = language.describe_all(endpoint, [language.describe_request(s, n) for _, n, s in asked])
            for (texts, _, _), said in zip(asked, replies, strict=True):
                if said is not None:
                    texts.setdefault(said, Candidate(said, endpoint.model))
            report["endpoint"] = {"asked": len(asked), "unread": replies.count(None)}
    return [list(texts.values()) for texts in found], report


def samples(exemplars: Sequence[Exemplar], n: int, seed: int) -> list[list[Exemplar]]:
    """`n` lots to write a description from: all exemplars, then halves drawn at random."""
    rng = np.random.default_rng(seed)
    halves = [np.sort(rng.permutation(len(exemplars))[: -(-len(exemplars) // 2)]) for _ in range(n - 1)]
    return [list(exemplars), *([exemplars[i] for i in half] for half in halves)]


def simulator_scores(
    config: FeatureConfig, endpoint: Endpoint | None, pairs: Sequence[tuple[str, Sequence[Exemplar]]], classes: Classes
) -> tuple[list[Score | None], dict[str, int]]:
    """Simulator score of each (description, exemplars); None where the simulator cannot read or was not understood.

    Returns:
        The scores, and counts: `scored`, of these `constant` (they count as 0), `unscored`, and `unread_windows` that
        had no readable reply.
    """
    scores: list[Score | None]
    unread = 0
    if config.simulator == "endpoint" and endpoint is not None:
        scores, unread = language.simulate_all(endpoint, pairs)
    else:
        parsed = [Description.parse(text, classes) for text, _ in pairs]
        scores = [
            simulated(description, exemplars) if description else None
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
    """Mean balanced accuracy of detection or fuzzing, by whoever simulates, and what could not be scored."""
    unread = 0
    if config.simulator == "endpoint" and endpoint is not None:
        judge_all = language.detect_all if name == "detection" else language.fuzz_all
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


def _mean_score(described: Sequence[Described]) -> float | None:
    known = [one.simulator_score for one in described if one.simulator_score is not None]
    return float(np.mean(known)) if known else None


def rows_of(
    config: FeatureConfig,
    target: Target,
    dictionaries: Sequence[Dictionary],
    described: Sequence[tuple[Described, str]],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of features with their groups: each feature is asked `rows_per_feature` times, with different templates."""
    rng = np.random.default_rng(seed)
    rows = []
    for one, group in described:
        dictionary, feature = dictionaries[one.feature.dictionary], one.feature
        shared = {
            "completion": one.description.text,
            "activations": [dictionary.directions[feature.feature].half().numpy()],
            "activation_layers": [dictionary.layer],
            "group": group,
            "target_model": target.name,
            "target_revision": target.revision,
            "layer": dictionary.layer,
            "feature_index": int(dictionary.indices[feature.feature]),
            "sae_release": dictionary.release,
            "sae_id": dictionary.sae_id,
            "description": one.description.text,
            "description_source": one.description.source,
            "exemplars": feature.sets[0],
            "scoring_exemplars": feature.sets[-1],
            "simulator_score": one.simulator_score,
            "density": feature.density,
        }
        for template in rng.choice(len(TEMPLATES), config.rows_per_feature, replace=False).tolist():
            asked = question(dictionary.layer, template)
            rows.append({"prompt": asked.prompt, "placeholder_offsets": list(asked.placeholder_offsets)} | shared)
    return rows


def tokenize(target: Target, corpus: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of the distinct texts, special tokens included, each cut at `max_tokens`.

    A text that occurs twice would fill the strongest exemplars with copies of one window.
    """
    max_tokens = min(max_tokens, target.context_length)
    encoded = target.tokenizer(list(dict.fromkeys(corpus)), truncation=True, max_length=max_tokens)["input_ids"]
    return [list(ids) for ids in dict.fromkeys(map(tuple, encoded)) if ids]


def group_similar(vectors: Tensor, cosine: float) -> list[int]:
    """A group for each of the unit vectors `(n, d)`; those of cosine at least `cosine` share one.

    Groups are connected components. Similarity is not transitive: where it chains together more than `MAX_GROUP_SHARE`
    of all vectors, that component alone is cut again at a higher cosine. Work is n² d; memory is n and one block of
    similarities, on the device of `vectors`.
    """

    def components(members: NDArray[np.int64], threshold: float) -> list[NDArray[np.int64]]:
        labels = _connected(vectors[torch.from_numpy(members).to(vectors.device)], threshold)
        order = np.argsort(labels, kind="stable")
        found = np.split(members[order], np.flatnonzero(np.diff(labels[order])) + 1)
        limit = max(2, MAX_GROUP_SHARE * len(vectors))
        return [
            part
            for group in found
            for part in (
                [group]
                if len(group) <= limit or threshold + COSINE_STEP > 1
                else components(group, threshold + COSINE_STEP)
            )
        ]

    groups = np.empty(len(vectors), np.int64)
    for number, members in enumerate(components(np.arange(len(vectors)), cosine)):
        groups[members] = number
    return groups.tolist()


def names(description: Candidate, classes: Classes) -> list[str]:
    """The words, or the class, that an offline description names, what it is about first; the text of any other."""
    parsed = Description.parse(description.text, classes) if description.source == OFFLINE else None
    named = ([parsed.name] if parsed.name else parsed.tokens) if parsed else [description.text]
    return list(map(normalised, named))


def concepts_of_families(families: Sequence[int], concepts: Sequence[str]) -> list[str]:
    """The concept that most members of each feature's family are about (the first in the alphabet of several)."""
    members: dict[int, Counter[str]] = defaultdict(Counter)
    for family, name in zip(families, concepts, strict=True):
        members[family][name] += 1
    named = {family: min(names, key=lambda name: (-names[name], name)) for family, names in members.items()}
    return [named[family] for family in families]


def hold_apart(families: Sequence[int], concepts: Sequence[str], seed: int) -> list[str | None]:
    """A group for each feature, so that neither similar features nor features about the same are on two sides.

    SAEs of other layers and seeds find a feature again at cosines that others have too; their descriptions tell. So a
    family's group is the concept that most of its members are about, and families of one concept share it. Members
    about something else, which other families are about too and which belongs on another side, have no group: they are
    to be left out, lest they chain all families together.
    """
    found_in: dict[str, set[int]] = defaultdict(set)
    for family, own in zip(families, concepts, strict=True):
        found_in[own].add(family)
    groups: list[str | None] = []
    for own, common in zip(concepts, concepts_of_families(families, concepts), strict=True):
        group = f"features-{common}"
        apart = len(found_in[own]) > 1 and split_of(f"features-{own}", seed) != split_of(group, seed)
        groups.append(None if apart else group)
    return groups


def keep_unseen(
    groups: Sequence[str | None], vectors: Tensor, named: Sequence[Sequence[str]], cosine: float, seed: int
) -> list[str | None]:
    """The groups without those training features that would show the explainer a held-out one.

    Left out are training features of cosine at least `cosine` to a feature of another split, and those whose
    description names, anywhere in its list, what such a feature is about; of the validation split likewise what would
    show a feature of the test split.

    Args:
        vectors: `(n, d)`, of unit length.
        named: by each description, what it is about first.
    """
    kept = list(groups)
    for side, *held_out in (("validation", "test"), ("train", "validation", "test")):
        sides = [group and split_of(group, seed) for group in kept]
        own = [index for index, of in enumerate(sides) if of == side]
        others = [index for index, of in enumerate(sides) if of in held_out]
        if own and others:
            parts = vectors[own].split(SIMILARITIES_AT_ONCE)
            nearest = torch.cat([(part @ vectors[others].T).amax(dim=1) for part in parts]).tolist()
            about = {named[index][0] for index in others}
            for index, similarity in zip(own, nearest, strict=True):
                if similarity >= cosine or about.intersection(named[index]):
                    kept[index] = None
    return kept


def _connected(vectors: Tensor, threshold: float) -> NDArray[np.int64]:
    """The first member of each vector's component, `(n,)`, where pairs at or above the threshold are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(vectors)
    roots = np.arange(n)
    waiting: list[NDArray[np.int64]] = []

    def join() -> None:
        i, j = np.concatenate([*waiting, np.stack([np.arange(n), roots])], axis=1)
        _, labels = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
        _, first = np.unique(labels, return_index=True)
        roots[:] = first[labels]
        waiting.clear()

    for first in range(0, n, SIMILARITIES_AT_ONCE):
        rows = vectors[first : first + SIMILARITIES_AT_ONCE]
        for second in range(first, n, SIMILARITIES_AT_ONCE):
            similar = (rows @ vectors[second : second + SIMILARITIES_AT_ONCE].T >= threshold).nonzero()
            waiting.append(similar.T.cpu().numpy() + np.array([[first], [second]]))
            if sum(edges.shape[1] for edges in waiting) > EDGES_AT_ONCE:
                join()
    join()
    return roots
