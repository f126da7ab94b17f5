"""Draw rows such that neither a lookup rule nor the text predicts the label, and measure how well they predict it."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from selfexplain.groundtruth.splits import by_split
from selfexplain.groundtruth.statistics import Balance
from selfexplain.tasks.lookup import lookup_rule

MAX_SHARE = 0.25  # of the drawn rows, for one stratum
MARGIN = 0.1  # a build warns if a rule scores more than this above chance

Row = Mapping[str, Any]


def _constant(row: Any) -> None:
    """Assign every row to the same stratum or text."""


def draw_balanced(
    rows: Sequence[Row],
    n_rows: int,
    seed: int,
    stratum: Callable[[Row], Hashable] = _constant,
    text: Callable[[Row], Hashable] = _constant,
    label: Callable[[Row], bool] = lambda row: row["changed"],
    minimum: int = 0,
) -> list[int]:
    """Indices of a balanced sample (see `balanced`) of about `n_rows` rows, drawn per split in proportion to its size.

    Args:
        rows: candidates with `group` and the columns that the functions below read.
        n_rows: number of rows to draw from all splits together.
        seed: seed of the splits and of the sample.
        stratum: function that returns the properties of a row that the lookup rule uses.
        text: function that returns the text of a row without its vector.
        label: the label to balance.
        minimum: minimum number of rows to request per split.
    """
    rng = random.Random(seed)
    groups = [{"group": row["group"], "index": index} for index, row in enumerate(rows)]
    drawn: list[int] = []
    for part in by_split(groups, seed).values():
        n_split = max(minimum, round(n_rows * len(part) / len(rows)))
        indices = [entry["index"] for entry in part]
        drawn += balanced(
            indices, lambda i: stratum(rows[i]), lambda i: label(rows[i]), n_split, rng, lambda i: text(rows[i])
        )
    return drawn


def balanced(
    rows: Sequence,
    stratum: Callable[..., Hashable],
    label: Callable[..., bool],
    n: int,
    rng: random.Random,
    text: Callable[..., Hashable] = _constant,
) -> list:
    """At most `n` rows. Half of them are positive in every stratum, and as nearly as possible in every text.

    A stratum gets at most `MAX_SHARE` of the rows if the other strata are large enough to provide the rest.

    Args:
        rows: candidates.
        stratum: function that returns the properties of a row that the lookup rule uses.
        label: the label to balance.
        n: number of rows to draw.
        rng: source of randomness.
        text: function that returns the text of a row without its vector.
    """
    pools: dict[Hashable, tuple[list, list]] = defaultdict(lambda: ([], []))
    for row in rows:
        pools[stratum(row)][label(row)].append(row)
    pairs = {key: min(map(len, pool)) for key, pool in pools.items() if min(map(len, pool))}
    quota = sorted(_quota(pairs, n // 2).items(), key=str)
    drawn = [row for key, count in quota for row in rng.sample(pools[key][True], count)]
    surplus = Counter(map(text, drawn))  # text -> positive rows minus negative rows
    for key, count in quota:
        drawn += _reduce_surplus(rng.sample(pools[key][False], len(pools[key][False])), count, text, surplus)
    rng.shuffle(drawn)
    return drawn


def _reduce_surplus(rows: Sequence, n: int, text: Callable[..., Hashable], surplus: Counter) -> list:
    """Take `n` rows one by one, each of the text with the largest surplus at that moment, and update `surplus`."""
    by_text: dict[Hashable, list] = defaultdict(list)
    for row in rows:
        by_text[text(row)].append(row)
    heap = [(-surplus[key], order, key) for order, key in enumerate(by_text)]
    heapify(heap)
    taken: list = []
    while len(taken) < n:
        negative, order, key = heappop(heap)
        taken.append(by_text[key].pop())
        surplus[key] -= 1
        if by_text[key]:
            heappush(heap, (negative + 1, order, key))
    return taken


def measure(
    train: Sequence[Row], test: Sequence[Row], cell: Callable[[Row], Hashable], text_column: str | None = None
) -> Balance:
    """Score rules that see no vector on rows of which half are changed.

    Args:
        train: training rows, from which the lookup rule is built.
        test: test rows, on which the lookup rule is scored.
        cell: function that returns the properties of a row that the lookup rule uses (`Task.cell`).
        text_column: column with the target's text, to measure the majority label per text; None to skip that.
    """
    confusion = Counter(zip(lookup_rule(cell, train, test), [row["changed"] for row in test], strict=True))
    text_majority = None
    if text_column is not None:
        by_text: dict[Hashable, Counter[bool]] = defaultdict(Counter)
        for row in (*train, *test):
            by_text[row[text_column]][row["changed"]] += 1
        text_majority = sum(max(counts.values()) for counts in by_text.values()) / (len(train) + len(test))
    return Balance(
        lookup_rule_accuracy=(confusion[True, True] + confusion[False, False]) / len(test),
        lookup_rule_macro_f1=sum(_f1(confusion, label) for label in (True, False)) / 2,
        text_majority=text_majority,
    )


def _f1(confusion: Counter[tuple[bool, bool]], label: bool) -> float:
    """F1 of one label, from the counts of (prediction, truth); 0 if the label never occurs."""
    total = 2 * confusion[label, label] + confusion[label, not label] + confusion[not label, label]
    return 2 * confusion[label, label] / total if total else 0.0


def _quota(available: dict[Hashable, int], n: int) -> dict[Hashable, int]:
    """Divide `n` among strata as their sizes allow, each limited to `MAX_SHARE` of the total."""
    total = min(n, sum(available.values()))
    if not total:
        return {}
    is_capped = len(available) * MAX_SHARE > 1
    if is_capped:
        while (capped := sum(min(size, max(1, int(total * MAX_SHARE))) for size in available.values())) < total:
            total = capped
    cap = max(1, int(total * MAX_SHARE)) if is_capped else total
    sizes = {key: min(size, cap) for key, size in available.items()}
    quota: Counter = Counter()
    # Small strata first; the others share the rest.
    for key, size in sorted(sizes.items(), key=lambda item: (item[1], str(item[0]))):
        left = len(sizes) - len(quota)
        quota[key] = min(size, -(-(total - quota.total()) // left))
    return {key: count for key, count in quota.items() if count > 0}
