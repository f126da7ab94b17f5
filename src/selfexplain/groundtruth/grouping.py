"""Assign features to groups, so that no two splits contain similar features or features about the same concept."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfexplain.groundtruth.splits import split_of
from selfexplain.utils.graphs import connected_components

MAX_GROUP_SHARE = 0.02  # of all features; a larger group of similar features is divided at a higher cosine
COSINE_STEP = 0.02
SIMILARITIES_AT_ONCE = 2048  # rows and columns of one block of cosines
EDGES_AT_ONCE = 2**22


def group_similar(vectors: Tensor, cosine: float) -> list[int]:
    """The group of each vector. Vectors whose cosine is at least `cosine` share a group.

    Groups are connected components. Similarity is not transitive, so chains can form large components. A component with
    more than `MAX_GROUP_SHARE` of all vectors is divided again at a higher cosine. The work is O(n² d). The memory is
    O(n) plus one block of cosines, on the device of `vectors`.

    Args:
        vectors: `(n, d)`, of unit norm.

    Returns:
        n group numbers.
    """
    limit = max(2, MAX_GROUP_SHARE * len(vectors))
    groups = np.empty(len(vectors), np.int64)
    for number, members in enumerate(_components(vectors, np.arange(len(vectors)), cosine, limit)):
        groups[members] = number
    return groups.tolist()


def concepts_of_families(families: Sequence[int], concepts: Sequence[str]) -> list[str]:
    """For each feature, the most frequent concept of its family; the alphabetically first one in case of a tie."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for family, concept in zip(families, concepts, strict=True):
        counts[family][concept] += 1
    common = {family: min(names, key=lambda name: (-names[name], name)) for family, names in counts.items()}
    return [common[family] for family in families]


def assign_split_groups(families: Sequence[int], concepts: Sequence[str], seed: int) -> list[str | None]:
    """The group of each feature, such that no family and no concept is in two splits; None for features to leave out.

    SAEs of different layers and seeds find the same feature again, at cosines that unrelated features have as well.
    Their descriptions distinguish the two cases. Therefore the group of a family is the most frequent concept of its
    members, and families with the same concept share a group. A member with a different concept is left out if that
    concept also occurs in another family and belongs to a different split. Joining such families instead would chain
    nearly all of them together.

    Args:
        families: number of each feature's family of similar features.
        concepts: concept of each feature.
        seed: seed of the splits.
    """
    families_of: dict[str, set[int]] = defaultdict(set)
    for family, concept in zip(families, concepts, strict=True):
        families_of[concept].add(family)
    groups: list[str | None] = []
    for concept, common in zip(concepts, concepts_of_families(families, concepts), strict=True):
        group = f"features-{common}"
        is_shared = len(families_of[concept]) > 1
        conflicts = is_shared and split_of(f"features-{concept}", seed) != split_of(group, seed)
        groups.append(None if conflicts else group)
    return groups


def keep_unseen(
    groups: Sequence[str | None], vectors: Tensor, named: Sequence[Sequence[str]], cosine: float, seed: int
) -> list[str | None]:
    """Leave out training features that would reveal a held-out feature, and return the remaining groups.

    A training feature is left out if its cosine to a held-out feature is at least `cosine`, or if its description names
    what a held-out feature is about, at any position. The same applies to validation features that would reveal a test
    feature.

    Args:
        groups: group of each feature; None for features that are already left out.
        vectors: `(n, d)`, of unit norm.
        named: the words in each description; the first one is what the feature is about.
        seed: seed of the splits.

    Returns:
        The groups, with None for every feature that is left out.
    """
    kept = list(groups)
    for split, *held_out in (("validation", "test"), ("train", "validation", "test")):
        splits = [group and split_of(group, seed) for group in kept]
        members = [index for index, name in enumerate(splits) if name == split]
        others = [index for index, name in enumerate(splits) if name in held_out]
        if not members or not others:
            continue
        parts = vectors[members].split(SIMILARITIES_AT_ONCE)
        nearest = torch.cat([(part @ vectors[others].T).amax(dim=1) for part in parts]).tolist()
        concepts = {named[index][0] for index in others}
        for index, similarity in zip(members, nearest, strict=True):
            if similarity >= cosine or concepts.intersection(named[index]):
                kept[index] = None
    return kept


def _components(vectors: Tensor, members: NDArray[np.int64], threshold: float, limit: float) -> list[NDArray[np.int64]]:
    """Members of each connected component; components above `limit` members are divided at higher thresholds."""
    labels = _first_members(vectors[torch.from_numpy(members).to(vectors.device)], threshold)
    order = np.argsort(labels, kind="stable")
    components = np.split(members[order], np.flatnonzero(np.diff(labels[order])) + 1)
    result = []
    for component in components:
        if len(component) <= limit or threshold + COSINE_STEP > 1:
            result.append(component)
        else:
            result += _components(vectors, component, threshold + COSINE_STEP, limit)
    return result


def _first_members(vectors: Tensor, threshold: float) -> NDArray[np.int64]:
    """For each vector, the first member of its component, `(n,)`. Pairs at or above the threshold are connected."""
    firsts = np.arange(len(vectors))
    pending: list[NDArray[np.int64]] = []
    for edges in _similar_pairs(vectors, threshold):
        pending.append(edges)
        if sum(map(len, pending)) > EDGES_AT_ONCE:
            firsts, pending = _merge(firsts, pending), []
    return _merge(firsts, pending)


def _similar_pairs(vectors: Tensor, threshold: float) -> Iterator[NDArray[np.int64]]:
    """Index pairs `(n_pairs, 2)` of similar vectors, one array per block of cosines."""
    for first in range(0, len(vectors), SIMILARITIES_AT_ONCE):
        rows = vectors[first : first + SIMILARITIES_AT_ONCE]
        for second in range(first, len(vectors), SIMILARITIES_AT_ONCE):
            similar = (rows @ vectors[second : second + SIMILARITIES_AT_ONCE].T >= threshold).nonzero()
            yield similar.cpu().numpy() + np.array([first, second])


def _merge(firsts: NDArray[np.int64], pending: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The first member of each component after adding the pending edges to the components so far."""
    known = np.stack([np.arange(len(firsts)), firsts], axis=1)
    labels = connected_components(len(firsts), np.concatenate([*pending, known]))
    _, first = np.unique(labels, return_index=True)
    return first[labels]
