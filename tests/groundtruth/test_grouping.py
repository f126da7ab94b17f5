"""Groups of features: similar features share a group, and no split contains features like those of another split."""

from itertools import combinations

import numpy as np
import pytest
import torch

from selfexplain.groundtruth import grouping
from selfexplain.groundtruth.grouping import assign_split_groups, concepts_of_families, group_similar, keep_unseen
from selfexplain.groundtruth.splits import SPLITS, split_of


def unit_vectors(n, d, seed=0):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_similar_vectors_share_a_group():
    base = unit_vectors(40, 64)
    near = torch.nn.functional.normalize(base + 0.02 * base.roll(1, -1), dim=-1)
    groups = group_similar(torch.cat([base, near]), 0.9)
    assert groups[:40] == groups[40:] and len(set(groups)) == 40


def test_no_vectors_have_no_groups():
    assert group_similar(torch.empty(0, 8), 0.9) == []


def test_a_large_chain_of_similar_vectors_is_divided_at_its_weakest_link(monkeypatch):
    angles = torch.cat([torch.linspace(0, 1, 50), torch.linspace(1.3, 2.3, 50)])  # close neighbours, distant ends
    chain = torch.stack([angles.cos(), angles.sin()], dim=-1)
    monkeypatch.setattr(grouping, "MAX_GROUP_SHARE", 1.0)
    assert len(set(group_similar(chain, 0.9))) == 1
    monkeypatch.setattr(grouping, "MAX_GROUP_SHARE", 0.5)
    assert group_similar(chain, 0.9) == [0] * 50 + [1] * 50


def test_groups_do_not_depend_on_block_sizes(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(30, 16, generator=generator).repeat(4, 1)
    vectors = torch.nn.functional.normalize(base + 0.3 * torch.randn(120, 16, generator=generator), dim=-1)
    monkeypatch.setattr(grouping, "MAX_GROUP_SHARE", 1.0)
    groups = group_similar(vectors, 0.8)
    assert 1 < len(set(groups)) < 120
    monkeypatch.setattr(grouping, "SIMILARITIES_AT_ONCE", 7)
    monkeypatch.setattr(grouping, "EDGES_AT_ONCE", 20)
    assert group_similar(vectors, 0.8) == groups
    similar = (vectors @ vectors.T > 0.9).nonzero().tolist()
    assert len(similar) > len(vectors)  # more than each vector with itself
    assert all(groups[i] == groups[j] for i, j in similar)


def test_the_concept_of_a_family_is_its_most_frequent_one():
    families = [0, 0, 0, 1, 2, 2, 3]
    concepts = ["paris", "paris", "comma", "paris", "comma", "comma", "eel"]
    assert concepts_of_families(families, concepts) == [*["paris"] * 4, "comma", "comma", "eel"]


def test_a_tie_of_concepts_is_broken_alphabetically():
    assert concepts_of_families([0, 0], ["eel", "dog"]) == ["dog", "dog"]


def test_no_concept_and_no_family_is_in_two_splits():
    rng = np.random.default_rng(0)
    families, concepts = rng.integers(60, size=600).tolist(), [f"word {n}" for n in rng.integers(90, size=600)]
    groups = assign_split_groups(families, concepts, seed=3)
    contents = {name: set() for name in SPLITS}
    for concept, group, family in zip(concepts, groups, families, strict=True):
        if group is not None:
            contents[split_of(group, 3)] |= {concept, family}
    assert all(contents.values())
    assert not any(contents[a] & contents[b] for a, b in combinations(SPLITS, 2))
    assert 0 < groups.count(None) < 400


NAMED = [[f"word {n % 90}", f"word {(7 * n + n // 90) % 90}"] for n in range(900)]


@pytest.mark.parametrize(("split", "held_out"), [("train", ("validation", "test")), ("validation", ("test",))])
def test_exactly_the_features_that_reveal_a_held_out_feature_are_left_out(split, held_out):
    vectors = unit_vectors(900, 8)
    groups = [f"features-{first}" for first, _ in NAMED]
    kept = keep_unseen(groups, vectors, NAMED, 0.8, seed=3)
    assert all(after in (None, before) for after, before in zip(kept, groups, strict=True))
    cosines = (vectors @ vectors.T).numpy()
    splits = np.array([group and split_of(group, 3) for group in kept])
    members, others = np.flatnonzero(splits == split), np.flatnonzero(np.isin(splits, held_out))
    assert len(members) and len(others)
    concepts = {NAMED[n][0] for n in others}
    before = [n for n, group in enumerate(groups) if split_of(group, 3) == split]
    revealing = {n for n in before if cosines[n, others].max() >= 0.8 or concepts & set(NAMED[n])}
    assert revealing and set(before) - revealing == set(members)


def test_test_features_are_never_left_out():
    groups = [f"features-{first}" for first, _ in NAMED]
    kept = keep_unseen(groups, unit_vectors(900, 8), NAMED, 0.8, seed=3)
    of_test = [n for n, group in enumerate(groups) if split_of(group, 3) == "test"]
    assert of_test and [kept[n] for n in of_test] == [groups[n] for n in of_test]
