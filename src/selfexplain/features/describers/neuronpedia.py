"""Descriptions from Neuronpedia's bulk exports.

An export has `<model>/<source>/explanations/batch-<n>.jsonl.gz`, a JSON record a line; a source is one SAE. Which
batch a feature is in says nothing (they follow a lexicographic order): records are joined on their `index`, a string.
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

logger = logging.getLogger(__name__)

BUCKET = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com/v1"
TIMEOUT = 60  # seconds


def read_descriptions(
    dictionary: Dictionary, location: str | None, cache_dir: Path
) -> tuple[dict[int, list[str]], dict[str, Any]]:
    """What an export says of a dictionary's features, by row of the dictionary: often several descriptions of one.

    Args:
        location: folder or URL of the source, with `{layer}` for the layer: what holds `explanations/`. None for
            Neuronpedia's own bucket, where the SAE says which source it is.
        cache_dir: where downloads are kept.

    Returns:
        The descriptions, and how complete they are: batches, records, features described and missing; and the SHA-256
        of the batches, since an export has no version.

    Raises:
        SelfExplainError: no export there, a batch that is missing or cut off, or an export of another layer.
    """
    if location is None and dictionary.neuronpedia_id is None:
        raise SelfExplainError(
            f"{dictionary.sae_id} of {dictionary.release} does not say where Neuronpedia has it. Set neuronpedia to "
            f"the folder or URL of its export, such as {BUCKET}/gemma-2-2b/{{layer}}-gemmascope-res-16k."
        )
    place = (location or f"{BUCKET}/{dictionary.neuronpedia_id}").format(layer=dictionary.layer)
    paths = _download(place, cache_dir) if place.startswith(("http://", "https://")) else _local(place)
    texts: defaultdict[int, list[str]] = defaultdict(list)
    n_records = 0
    for path in paths:
        for record in _records(path):
            n_records += 1
            source = str(record.get("layer", ""))
            if (layer := re.match(r"\d+", source)) and int(layer[0]) != dictionary.layer:
                raise SelfExplainError(f"{path} describes {source!r}; expected an export of layer {dictionary.layer}.")
            if text := " ".join(str(record.get("description") or "").split()):
                texts[int(record["index"])].append(text)
    found = {row: texts[index] for row, index in enumerate(dictionary.indices.tolist()) if index in texts}
    report = {
        "batches": len(paths),
        "records": n_records,
        "described": len(found),
        "missing": dictionary.n_features - len(found),
        "sha256": hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest(),
    }
    if not found:
        raise SelfExplainError(
            f"{place} has {n_records} descriptions, none of a feature of {dictionary.sae_id} ({dictionary.release})."
        )
    if report["missing"]:
        logger.warning("%s: %d of %d features have no description", place, report["missing"], dictionary.n_features)
    return found, report


def _local(place: str) -> list[Path]:
    folder = Path(place).expanduser()
    folder = folder / "explanations" if (folder / "explanations").is_dir() else folder
    numbered = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"batch-(\d+)\.jsonl\.gz", path.name))
    }
    if not numbered:
        raise SelfExplainError(f"no export of Neuronpedia at {place}: expected explanations/batch-<n>.jsonl.gz.")
    if missing := sorted(set(range(max(numbered))) - set(numbered)):
        raise SelfExplainError(f"the export at {place} lacks batch {', '.join(map(str, missing))}: download it again.")
    return [numbered[number] for number in sorted(numbered)]


def _download(url: str, cache_dir: Path) -> list[Path]:
    """Batches from 0 on, until there is no more; what is there already is not fetched again."""
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
                if error.code in (403, 404) and paths:  # a bucket that cannot be listed says 403 of what is not there
                    end.touch()
                    break
                raise SelfExplainError(f"{error.url}: HTTP {error.code} {error.reason}. Check the address.") from error
            except (OSError, HTTPException) as error:  # no connection, a timeout, or a reply that is cut off
                raise SelfExplainError(f"{url}: {error}. Run again: what has arrived is kept.") from error
            os.replace(partial, path)
        paths.append(path)
    return _local(str(folder))


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines if line.strip()]
        for record in records:
            int(record["index"])
        return records
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise SelfExplainError(
            f"{path} is cut off or no export of explanations ({type(error).__name__}: {error}). Delete it, and "
            "download it again."
        ) from error
