"""Assign rows to the training, validation and test splits by group, and find groups of near-duplicate texts."""

import hashlib
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from selfexplain.utils.graphs import connected_components

SPLITS = ("train", "validation", "test")


def split_of(group: str, seed: int, validation: float = 0.08, test: float = 0.2) -> str:
    """The split of a group. It depends only on the group's name and the seed, so adding groups moves no other group.

    Args:
        validation: expected fraction of groups in the validation split.
        test: expected fraction of groups in the test split.
    """
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if fraction < test else "validation" if fraction < test + validation else "train"


def by_split(rows: Iterable[dict], seed: int) -> dict[str, list[dict]]:
    """Split -> its rows, in the given order."""
    result: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for row in rows:
        result[split_of(row["group"], seed)].append(row)
    return result


def share_of(groups: Sequence[str], share: float, seed: int) -> list[int]:
    """Indices of the rows of a random subset of groups whose size is closest to a fraction of all rows.

    Subsets are nested for the same seed. They contain at least one group.

    Args:
        groups: the group of each row.
        share: fraction of the rows to keep.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"share {seed}:{group}".encode()).digest())
    cumulative = np.cumsum([sizes[group] for group in order])
    n_groups = 1 + int(np.abs(cumulative - share * len(groups)).argmin()) if order else 0
    kept = set(order[:n_groups])
    return [index for index, group in enumerate(groups) if group in kept]


SHINGLE = 4  # characters per shingle
BANDS, ROWS_PER_BAND = 32, 4  # a pair that shares 70 % of its shingles becomes a candidate with probability 0.9998
SAME_TEXT = 0.8  # minimum Jaccard similarity of near-duplicate texts
SAME_NAME = 0.7  # the same for names, which are short


def normalised(text: str) -> str:
    """A text without case, accents, punctuation and repeated spaces."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", plain)) or plain.strip()


def near_duplicate_groups(texts: Sequence[str], same: float = SAME_TEXT) -> list[str]:
    """The group of each text. Near-duplicate texts share a group, named after its alphabetically first text.

    Two texts are near-duplicates if the Jaccard similarity of their shingles (runs of `SHINGLE` characters of the
    normalised text) is at least `same`. Candidate pairs come from locality-sensitive hashing of MinHash signatures
    (Broder, 1997) and are then compared exactly. Groups are the connected components.
    """
    keys = [normalised(text) for text in texts]
    unique = sorted(set(keys))
    shingles = [_shingles(key) for key in unique]
    pairs = (
        (i, j)
        for i, j in _candidate_pairs(shingles)
        if len(shingles[i] & shingles[j]) >= same * len(shingles[i] | shingles[j])
    )
    components = connected_components(len(unique), pairs).tolist()
    names: dict[int, str] = {}
    for key, component in zip(unique, components, strict=True):
        names.setdefault(component, key)
    group = {key: names[component] for key, component in zip(unique, components, strict=True)}
    return [group[key] for key in keys]


def _shingles(text: str) -> set[int]:
    """Hashes of the character shingles of a text, 32 bits each."""
    padded = f" {text} "
    return {zlib.crc32(padded[i : i + SHINGLE].encode()) for i in range(max(1, len(padded) - SHINGLE + 1))}


def _candidate_pairs(shingles: Sequence[set[int]]) -> Iterator[tuple[int, int]]:
    """Index pairs of sets that share all MinHash values of at least one band, each pair once."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS_PER_BAND, params=(BANDS, ROWS_PER_BAND))
    signatures = MinHash.generator(shingles, num_perm=BANDS * ROWS_PER_BAND, seed=0, hashfunc=_identity)
    for number, signature in enumerate(signatures):
        yield from ((earlier, number) for earlier in index.query(signature))
        index.insert(number, signature, check_duplication=False)


def _identity(value: int) -> int:
    """Shingles are hashed already."""
    return value
