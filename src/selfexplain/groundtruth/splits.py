"""Splits by group: the same fact, question or feature stands on one side only."""

import hashlib
from collections.abc import Iterable

SPLITS = ("train", "validation", "test")


def split_of(group: str, seed: int, validation: float = 0.08, test: float = 0.2) -> str:
    """The split of a group, from its name and the seed alone: adding groups moves none of the others."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"


def by_split(rows: Iterable[dict], seed: int) -> dict[str, list[dict]]:
    """Rows by split, in the order given."""
    result: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for row in rows:
        result[split_of(row["group"], seed)].append(row)
    return result
