"""Splits by group: groups never cross splits, subsets are nested, near-duplicate texts share a group."""

import random

import pytest

from selfexplain.groundtruth.splits import (
    SAME_NAME,
    SPLITS,
    _shingles,
    by_split,
    near_duplicate_groups,
    normalised,
    share_of,
    split_of,
)


def test_a_group_is_in_one_split_and_splits_have_the_expected_sizes():
    groups = [f"fact {i}" for i in range(2000)]
    parts = by_split([{"group": group, "n": n} for group in groups for n in range(2)], seed=0)
    sets = [{row["group"] for row in parts[split]} for split in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 2000
    for split, share in zip(sets, (0.72, 0.08, 0.2), strict=True):
        assert len(split) / 2000 == pytest.approx(share, abs=0.03)


def test_the_split_of_a_group_depends_on_its_name_and_the_seed_only():
    assert [split_of(f"fact {n}", 0) for n in (0, 1, 2, 31)] == ["test", "train", "train", "validation"]
    some, all_rows = ([{"group": f"fact {i}"} for i in range(n)] for n in (50, 100))
    assert all(
        row in by_split(all_rows, seed=0)[split] for split, rows in by_split(some, seed=0).items() for row in rows
    )
    assert any(split_of(f"fact {n}", 0) != split_of(f"fact {n}", 1) for n in range(100))


def test_subsets_of_groups_are_nested_and_keep_whole_groups():
    groups = [f"fact {n // 3}" for n in range(300)]
    few, more, every = (share_of(groups, share, seed=0) for share in (0.1, 0.5, 1.0))
    assert len(few) == 30 and len(more) == 150 and every == list(range(300))
    assert set(few) < set(more) and len({groups[index] for index in few}) == 10
    assert share_of(groups, 0.1, seed=1) != few
    assert len(share_of(groups, 1e-9, seed=0)) == 3
    assert share_of([], 0.5, seed=0) == []


@pytest.mark.parametrize("seed", range(8))
def test_the_subset_of_uneven_groups_is_the_prefix_closest_to_the_share(seed):
    groups = ["large"] * 100 + [f"fact {n}" for n in range(100)]
    sizes = {len(share_of(groups, n / 200, seed)) for n in range(1, 201)}
    assert len(sizes) == 101 and max(sizes) == 200  # as many subsets as groups
    for wanted in (50, 120):
        assert abs(len(share_of(groups, wanted / 200, seed)) - wanted) == min(abs(size - wanted) for size in sizes)


def test_near_duplicate_texts_share_a_group_named_after_the_first_in_the_alphabet():
    texts = ["The Windows Phone 8.1", "the windows phone 8.1.", "Édith Piaf", "Edith Piaf", "Danielle Darrieux",
             "Which of these is the largest planet of the solar system, seen from the sun?",
             "Which of these is the largest planet of the solar system seen from our sun?"]  # fmt: skip
    groups = near_duplicate_groups(texts)
    planet = "which of these is the largest planet of the solar system seen from our sun"
    assert groups == ["the windows phone 8 1"] * 2 + ["edith piaf"] * 2 + ["danielle darrieux"] + [planet] * 2


def test_the_similarity_threshold_decides_what_is_a_near_duplicate():
    names = ["Windows Phone 8", "Windows Phone 8.1", "Window"]
    assert near_duplicate_groups(names, SAME_NAME) == ["windows phone 8", "windows phone 8", "window"]
    assert len(set(near_duplicate_groups(names, 0.95))) == 3


def test_a_chain_of_near_duplicates_is_one_group():
    text = "the quick brown fox jumps over the lazy dog and runs back into the old forest"
    extra = ["with", "five", "merry", "hounds", "close", "behind"]
    chain = [" ".join([text, *extra[:n]]) for n in range(7)]
    assert len(set(near_duplicate_groups([chain[0], chain[-1]]))) == 2
    assert len(set(near_duplicate_groups(chain))) == 1


def test_no_texts_have_no_groups_and_short_texts_have_their_own():
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(["a", "b", "A", "?"]) == ["a", "b", "a", "?"]


@pytest.mark.parametrize("same", [0.7, 0.8])
def test_groups_equal_those_of_an_exhaustive_comparison(same):
    rng = random.Random(0)
    words = ["river", "stone", "lamp", "green", "seven", "walks", "under", "the", "quiet", "house", "and", "sings"]
    bases = [rng.choices(words, k=12) for _ in range(30)]
    texts = []
    for base in bases:
        for _ in range(6):
            copy = list(base)
            for _ in range(rng.randint(0, 3)):
                copy[rng.randrange(12)] = rng.choice(words)
            texts.append(" ".join(copy))
    shingles = [_shingles(normalised(text)) for text in texts]
    component = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(shingles[i] & shingles[j]) >= same * len(shingles[i] | shingles[j]):
                old, new = component[i], component[j]
                component = [new if c == old else c for c in component]
    groups = near_duplicate_groups(texts, same)
    assert len(set(groups)) == len(set(component)) == len(set(zip(groups, component, strict=True)))
    assert 30 <= len(set(groups)) < len(texts)
