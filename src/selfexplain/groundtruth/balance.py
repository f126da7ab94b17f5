"""Draw rows so that a lookup rule cannot tell whether the output changes."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

MAX_SHARE = 0.25


def balanced(
    rows: Sequence, stratum: Callable[..., Hashable], changed: Callable[..., bool], n: int, rng: random.Random
) -> list:
    """At most `n` rows, half of them changed in every stratum.

    No stratum is above a quarter of the rows where others can fill in.

    Args:
        rows: the candidates.
        stratum: what the lookup rule would see of a row.
        changed: the label.
    """
    pools: dict[Hashable, tuple[list, list]] = defaultdict(lambda: ([], []))
    for row in rows:
        pools[stratum(row)][changed(row)].append(row)
    pairs = {key: min(map(len, pool)) for key, pool in pools.items() if min(map(len, pool))}
    quota = _quota(pairs, n // 2)
    drawn = [
        row for key, count in sorted(quota.items(), key=str) for pool in pools[key] for row in rng.sample(pool, count)
    ]
    rng.shuffle(drawn)
    return drawn


def _quota(available: dict[Hashable, int], n: int) -> dict[Hashable, int]:
    """Share `n` over strata as their sizes allow, each cut at `MAX_SHARE` of what is drawn in all."""
    total = min(n, sum(available.values()))
    if not total:
        return {}
    if len(available) * MAX_SHARE > 1:
        while (capped := sum(min(size, max(1, int(total * MAX_SHARE))) for size in available.values())) < total:
            total = capped
    cap = max(1, int(total * MAX_SHARE)) if len(available) * MAX_SHARE > 1 else total
    sizes = {key: min(size, cap) for key, size in available.items()}
    quota: Counter = Counter()
    for key, size in sorted(
        sizes.items(), key=lambda item: (item[1], str(item[0]))
    ):  # small strata first, the rest share what is left
        left = len(sizes) - len(quota)
        quota[key] = min(size, -(-(total - quota.total()) // left))
    return {key: count for key, count in quota.items() if count > 0}
