"""Build the rows of feature description from described features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.features.description import Description
from selfexplain.features.dictionary import Dictionary
from selfexplain.features.exemplars import ExemplarState
from selfexplain.groundtruth.builders.descriptions import (
    OFFLINE,
    Candidate,
    Classes,
    Described,
    check_settings,
    describe_features,
    mean_score,
)
from selfexplain.groundtruth.builders.dictionaries import (
    choose_layers,
    corpus_token_ids,
    find_dictionaries,
    train_dictionaries,
)
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.groundtruth.grouping import assign_split_groups, group_similar, keep_unseen
from selfexplain.groundtruth.splits import normalised
from selfexplain.target.load import Target
from selfexplain.tasks.feature_description import TEMPLATES, question


def layers_and_token_ids(
    config: FeatureConfig, target: Target, corpus: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """The requested layers, and the token ids of the corpus.

    Raises:
        SelfExplainError: settings contradict each other, the corpus is empty, or a layer does not exist.
    """
    check_settings(config)
    if not corpus:
        raise SelfExplainError("The corpus is empty. Give a corpus of at least a few hundred texts.")
    return choose_layers(config.layers, target.n_layers), corpus_token_ids(target, corpus, config.max_text_tokens)


def build_rows(
    config: FeatureConfig,
    target: Target,
    corpus: Sequence[str],
    work_dir: Path,
    classes: Classes,
    seed: int,
    state: ExemplarState | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of all splits, and counts. The vector of a row is the unit decoder direction of a feature.

    Args:
        config: settings of feature description.
        target: the model that is explained.
        corpus: texts.
        work_dir: directory for trained SAEs (in `saes/`), replies of an endpoint, and downloads.
        classes: token class that descriptions can name -> its tokens.
        seed: seed of the splits and of everything that is drawn.
        state: exemplars collected from the whole corpus for the dictionaries in `work_dir` (`collect_shard`); None to
            train the dictionaries and collect the exemplars here.

    Raises:
        SelfExplainError: settings contradict each other, the corpus is empty, a layer does not exist, or the SAEs do
            not fit the target.
    """
    layers, token_ids = layers_and_token_ids(config, target, corpus)
    if state is None:
        train_dictionaries(config, target, token_ids, layers, work_dir, seed)
    dictionaries = find_dictionaries(config, target, token_ids, layers, work_dir, seed)
    entries, statistics = describe_features(config, target, token_ids, dictionaries, work_dir, classes, seed, state)
    described = _without_surplus(entries, config.n_inexpressible, seed)
    directions = [dictionaries[entry.feature.dictionary].directions[entry.feature.feature] for entry in described]
    vectors = (torch.stack(directions) if directions else torch.empty(0, target.d_model)).to(target.model.device)
    families = group_similar(vectors, config.group_cosine) if described else []
    named = [_subjects(entry, classes) for entry in described]
    groups = assign_split_groups(families, [first for first, *_ in named], seed)
    groups = keep_unseen(groups, vectors, named, config.group_cosine, seed)
    kept = [(entry, group) for entry, group in zip(described, groups, strict=True) if group is not None]
    return rows_of(config, target, dictionaries, kept, seed), statistics | {
        "between_splits": len(described) - len(kept),
        "inexpressible_kept": sum(not entry.is_expressible for entry, _ in kept),
        "groups": len({group for _, group in kept}),
        "mean_simulator_score": mean_score([entry for entry, _ in kept]),
        "layers": layers,
    }


def _without_surplus(entries: Sequence[Described], n: int, seed: int) -> list[Described]:
    """The entries with a description, and at most `n` of the others, drawn at random."""
    inexpressible = [index for index, entry in enumerate(entries) if not entry.is_expressible]
    kept = set(np.random.default_rng(seed).permutation(inexpressible)[:n].tolist())
    return [entry for index, entry in enumerate(entries) if entry.is_expressible or index in kept]


def named_words(description: Candidate, classes: Classes) -> list[str]:
    """The words and classes in an offline description, its subject first. Any other description is a single item."""
    parsed = Description.parse(description.text, classes) if description.source == OFFLINE else None
    return list(map(normalised, parsed.subjects if parsed else [description.text]))


def _subjects(entry: Described, classes: Classes) -> list[str]:
    """What decides the group of a feature: its named words. A feature that cannot be expressed has its own subject."""
    feature = entry.feature
    own = [f"{entry.description.text} {feature.dictionary} {feature.feature}"]
    return named_words(entry.description, classes) if entry.is_expressible else own


def rows_of(
    config: FeatureConfig,
    target: Target,
    dictionaries: Sequence[Dictionary],
    described: Sequence[tuple[Described, str]],
    seed: int,
) -> list[dict[str, Any]]:
    """The rows of described features with their groups: `rows_per_feature` wordings of the question per feature."""
    rng = np.random.default_rng(seed)
    rows = []
    for entry, group in described:
        dictionary, feature = dictionaries[entry.feature.dictionary], entry.feature
        shared = {
            "completion": entry.description.text,
            "activations": [dictionary.directions[feature.feature].half().numpy()],
            "activation_layers": [dictionary.layer],
            "group": group,
            "target_model": target.name,
            "target_revision": target.revision,
            "layer": dictionary.layer,
            "feature_index": int(dictionary.indices[feature.feature]),
            "sae_release": dictionary.release,
            "sae_id": dictionary.sae_id,
            "description": entry.description.text,
            "description_source": entry.description.source,
            "exemplars": feature.sets[0],
            "scoring_exemplars": feature.sets[-1],
            "simulator_score": entry.simulator_score,
            "density": feature.density,
        }
        for template in rng.choice(len(TEMPLATES), config.rows_per_feature, replace=False).tolist():
            wording = question(dictionary.layer, template)
            rows.append({"prompt": wording.prompt, "placeholder_offsets": list(wording.placeholder_offsets), **shared})
    return rows
