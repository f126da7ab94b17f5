import random
from collections import Counter

from selfexplain.groundtruth.balance import MAX_SHARE, balanced
from selfexplain.groundtruth.splits import SPLITS, by_split, share_of, split_of


def rows(sizes):
    """`{stratum: (unchanged, changed)}` as rows."""
    return [(key, label) for key, pair in sizes.items() for label, n in enumerate(pair) for _ in range(n)]


def draw(sizes, n):
    return balanced(rows(sizes), lambda row: row[0], lambda row: bool(row[1]), n, random.Random(0))


def test_every_stratum_is_half_changed():
    drawn = draw({"a": (100, 30), "b": (10, 90), "c": (50, 50), "d": (40, 3), "e": (60, 20)}, 100)
    by_stratum = Counter(drawn)
    assert {key for key, _ in drawn} == set("abcde")
    for key in "abcde":
        assert by_stratum[key, 0] == by_stratum[key, 1] > 0


def test_no_stratum_dominates():
    drawn = draw({"a": (500, 500), **{key: (30, 30) for key in "bcdef"}}, 400)
    assert max(Counter(key for key, _ in drawn).values()) <= MAX_SHARE * len(drawn) + 2


def test_a_stratum_of_one_label_is_left_out():
    assert {key for key, _ in draw({"a": (50, 50), "b": (50, 0)}, 40)} == {"a"}


def test_nothing_to_balance_gives_nothing():
    assert draw({"a": (50, 0)}, 40) == []


def test_a_group_stands_on_one_side_and_stays_there():
    groups = [f"fact {i}" for i in range(2000)]
    parts = by_split([{"group": group, "n": n} for group in groups for n in range(2)], seed=0)
    sets = [{row["group"] for row in parts[split]} for split in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 2000
    assert [abs(len(s) / 2000 - share) < 0.03 for s, share in zip(sets, (0.72, 0.08, 0.2), strict=True)] == [True] * 3
    assert split_of("fact 7", 0) == split_of("fact 7", 0)
    assert any(split_of(group, 0) != split_of(group, 1) for group in groups)


def test_shares_are_of_groups_and_lie_within_each_other():
    groups = [f"fact {n // 3}" for n in range(300)]
    few, more, every = (share_of(groups, share, seed=0) for share in (0.1, 0.5, 1.0))
    assert len(few) == 30 and len(more) == 150 and every == list(range(300))
    assert set(few) < set(more) and len({groups[index] for index in few}) == 10
    assert share_of(groups, 0.1, seed=1) != few
    assert len(share_of(groups, 1e-9, seed=0)) == 3
    uneven = ["large"] * 100 + [f"fact {n}" for n in range(100)]
    assert all(abs(len(share_of(uneven, 0.25, seed)) - 50) <= 50 for seed in range(8))
    assert len({len(share_of(uneven, 0.6, seed)) for seed in range(8)} & {120}) == 1  # to the row, where groups allow
