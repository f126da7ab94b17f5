"""The metadata of dataset cards that tells `load_dataset` which files are data, and which content they have."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from selfexplain.groundtruth.splits import SPLITS
from selfexplain.utils.hashing import fingerprint

VECTORS_CONFIGURATION = "vectors"


def configurations(
    test_sets: Iterable[str], has_vectors_file: bool, hashes: Mapping[str, str], name: str = "", is_default: bool = True
) -> Iterator[dict[str, Any]]:
    """The configurations of a dataset: the splits, the vectors file, and each out-of-distribution test set.

    `datasets` names its cache of a local directory by the directory's last component and the metadata of its card, not
    by the files. The content hash in each description makes the metadata, and thereby the cache, specific to the files.

    Args:
        test_sets: names of the out-of-distribution test sets.
        has_vectors_file: whether rows refer to vectors in a separate file.
        hashes: name of a parquet file -> its SHA-256. Configurations with unknown files get no content hash.
        name: name of the configuration with the splits, of the directory with the files, and prefix of the other names;
            empty if the files are next to the card.
        is_default: whether `load_dataset` reads the splits if no configuration is requested.
    """
    files = {"": {split: f"{split}.parquet" for split in SPLITS}}
    if has_vectors_file:
        files[VECTORS_CONFIGURATION] = {"train": f"{VECTORS_CONFIGURATION}.parquet"}
    files |= {test_set: {"test": f"{test_set}.parquet"} for test_set in test_sets}
    directory = f"{name}/" if name else ""
    for suffix, paths in files.items():
        is_known = all(path in hashes for path in paths.values())
        yield {
            "config_name": "-".join(part for part in (name, suffix) if part) or "default",
            **({"default": True} if is_default and not suffix else {}),
            **({"description": content_description([hashes[path] for path in paths.values()])} if is_known else {}),
            "data_files": [{"split": split, "path": directory + path} for split, path in paths.items()],
        }


def content_description(value: Any) -> str:
    """A description of a configuration that differs for different contents.

    Args:
        value: JSON value that determines the content of the files.
    """
    return f"content hash {fingerprint(value)[:32]}"
