"""Splits by group: the same fact, question or feature stands on one side only."""

import hashlib
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

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


def share_of(groups: Sequence[str], share: float, seed: int) -> list[int]:
    """Indices of the rows of as many groups as come nearest to a share of all rows, at least one group.

    Every share holds the smaller ones of its seed.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"share {seed}:{group}".encode()).digest())
    so_far = np.cumsum([sizes[group] for group in order])
    n_groups = 1 + int(np.abs(so_far - share * len(groups)).argmin()) if order else 0
    kept = set(order[:n_groups])
    return [index for index, group in enumerate(groups) if group in kept]


SHINGLE = 4  # characters
BANDS, ROWS_PER_BAND = 32, 4  # texts that share 7 of 10 shingles meet in some band with a probability above 0.999
SAME_TEXT, SAME_NAME = 0.8, 0.7  # shared shingles of two texts that count as one; of two names, which are short


def normalised(text: str) -> str:
    """A text without case, accents, punctuation and runs of spaces."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", plain)) or plain.strip()


def near_duplicate_groups(texts: Sequence[str], same: float = SAME_TEXT) -> list[str]:
    """A group for each text: texts that are nearly the same share one, named after the first of them in the alphabet.

    Nearly the same are texts that have a share of `same` of all their shingles (runs of `SHINGLE` characters,
    normalised) in common. They are found by MinHash (Broder, 1997) in bands, and compared in full where a band agrees;
    groups are connected components.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys = [normalised(text) for text in texts]
    unique = sorted(set(keys))
    shingles = [_shingles(key) for key in unique]
    rng = np.random.default_rng(0)
    factors, offsets = rng.integers(1, 2**63, (2, BANDS * ROWS_PER_BAND), dtype=np.uint64)
    factors |= np.uint64(1)
    buckets: dict[tuple[int, bytes], int] = {}
    pairs: dict[tuple[int, int], None] = {}
    for index, own in enumerate(shingles):
        values = np.fromiter(own, np.uint64, len(own))[:, None] * factors + offsets  # (n_shingles, n_hashes), mod 2**64
        smallest = (values >> np.uint64(32)).min(axis=0).reshape(BANDS, ROWS_PER_BAND)
        for band, signature in enumerate(smallest):
            first = buckets.setdefault((band, signature.tobytes()), index)
            if first != index:
                pairs[first, index] = None
    alike = [(i, j) for i, j in pairs if len(shingles[i] & shingles[j]) >= same * len(shingles[i] | shingles[j])]
    i, j = np.array(alike, dtype=np.int64).reshape(-1, 2).T
    _, labels = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(len(unique),) * 2), directed=False)
    names: dict[int, str] = {}
    for key, label in zip(unique, labels.tolist(), strict=True):
        names.setdefault(label, key)
    group = {key: names[label] for key, label in zip(unique, labels.tolist(), strict=True)}
    return [group[key] for key in keys]


def _shingles(text: str) -> set[int]:
    padded = f" {text} "
    return {zlib.crc32(padded[i : i + SHINGLE].encode()) for i in range(max(1, len(padded) - SHINGLE + 1))}
