"""Read descriptions of features from Neuronpedia's bulk exports.

An export consists of files `<model>/<source>/explanations/batch-<n>.jsonl.gz` with one JSON record per line. A source
is one SAE. Records are in lexicographic order and are joined with features on their `index`, a string.
"""

import gzip
import hashlib
import json
import logging
import os
import re
import urllib.error
import urllib.request
import zlib
from collections import defaultdict
from http.client import HTTPException
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.features.dictionary import Dictionary
from selfexplain.utils.names import local_path

logger = logging.getLogger(__name__)

BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com/v1"
TIMEOUT = 60  # seconds


def read_descriptions(
    dictionary: Dictionary, location: str | None, cache_dir: Path
) -> tuple[dict[int, list[str]], dict[str, Any]]:
    """Read the descriptions of a dictionary's features from an export.

    Args:
        dictionary: dictionary whose features are described.
        location: directory or URL that contains `explanations/`, with `{layer}` for the layer. None for Neuronpedia's
            public bucket, if the metadata of the SAE names its source there.
        cache_dir: directory for downloads.

    Returns:
        The descriptions, as index of the feature in the dictionary -> its descriptions (often several), and a report
        with the numbers of batches, records, described and missing features, and the SHA-256 of the batches, because
        exports have no version.

    Raises:
        SelfExplainError: the export does not exist, is incomplete or damaged, or belongs to another layer.
    """
    if location is None and dictionary.neuronpedia_id is None:
        raise SelfExplainError(
            f"The metadata of {dictionary.sae_id} of {dictionary.release} does not name a source on Neuronpedia. Set "
            f"neuronpedia to the directory or URL of its export, such as "
            f"{BUCKET}/gemma-2-2b/{{layer}}-gemmascope-res-16k."
        )
    address = (location or f"{BUCKET}/{dictionary.neuronpedia_id}").replace("{layer}", str(dictionary.layer))
    paths = _download(address, cache_dir) if address.startswith(("http://", "https://")) else _local(address)
    texts: defaultdict[int, list[str]] = defaultdict(list)
    n_records = 0
    for path in paths:
        for record in _records(path):
            n_records += 1
            source = str(record.get("layer", ""))
            if (layer := re.match(r"\d+", source)) and int(layer[0]) != dictionary.layer:
                raise SelfExplainError(
                    f"{path} describes {source!r}; expected layer {dictionary.layer}. Set neuronpedia to its export."
                )
            description = record.get("description")
            if isinstance(description, str) and (text := " ".join(description.split())):
                texts[int(record["index"])].append(text)
    descriptions = {row: texts[index] for row, index in enumerate(dictionary.indices.tolist()) if index in texts}
    report = {
        "batches": len(paths),
        "records": n_records,
        "described": len(descriptions),
        "missing": dictionary.n_features - len(descriptions),
        "sha256": hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest(),
    }
    if not descriptions:
        raise SelfExplainError(
            f"None of the {n_records} descriptions in {address} belongs to a feature of {dictionary.sae_id} "
            f"({dictionary.release}). Set neuronpedia to the export of this SAE."
        )
    if report["missing"]:
        logger.warning("%s: %d of %d features have no description", address, report["missing"], dictionary.n_features)
    return descriptions, report


def _local(location: str) -> list[Path]:
    """The batches of an export in a directory, in order."""
    folder = local_path(location)
    folder = folder / "explanations" if (folder / "explanations").is_dir() else folder
    numbered = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"batch-(\d+)\.jsonl\.gz", path.name))
    }
    if not numbered:
        raise SelfExplainError(
            f"{location} contains no export of Neuronpedia. Expected explanations/batch-<n>.jsonl.gz. Set "
            "neuronpedia to the directory or URL of an export."
        )
    if missing := sorted(set(range(max(numbered))) - set(numbered)):
        raise SelfExplainError(
            f"The export in {location} lacks batch {', '.join(map(str, missing))}. Download it again."
        )
    return [numbered[number] for number in sorted(numbered)]


def _download(url: str, cache_dir: Path) -> list[Path]:
    """Download the batches from 0 on until there are no more. Batches in the cache are not downloaded again."""
    folder = cache_dir / f"neuronpedia-{zlib.crc32(url.encode()):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    end = folder / "complete"
    paths: list[Path] = []
    while not end.exists():
        path = folder / f"batch-{len(paths)}.jsonl.gz"
        if not path.exists():
            partial = path.with_suffix(".tmp")
            try:
                with urllib.request.urlopen(f"{url}/explanations/{path.name}", timeout=TIMEOUT) as response:
                    partial.write_bytes(response.read())
            except urllib.error.HTTPError as error:
                # A bucket that cannot be listed returns 403 for files that do not exist.
                if error.code in (403, 404) and paths:
                    end.touch()
                    break
                raise SelfExplainError(
                    f"{error.url} returned HTTP {error.code} {error.reason}. Check the address."
                ) from error
            except (OSError, HTTPException) as error:  # no connection, a timeout, or a truncated response
                raise SelfExplainError(
                    f"{url} cannot be read: {error}. Run again. Downloaded files are kept."
                ) from error
            os.replace(partial, path)
        paths.append(path)
    return _local(str(folder))


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of one batch."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines if line.strip()]
        for record in records:
            int(record["index"])
        return records
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise SelfExplainError(
            f"{path} is truncated or not an export of explanations ({type(error).__name__}: {error}). Delete it and "
            "download it again."
        ) from error
