"""Divide work into shards that are written atomically, verified by their hash, and computed by any number of processes.

A shard is a file with a record next to it, a small JSON file with the hash of the shard and of the inputs it was built
from. Both are renamed into place, the record last. After an interruption each shard is either complete or missing. A
shard depends only on its index and its inputs, so any number of processes produces the same bytes.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selfexplain.groundtruth.config import source_path
from selfexplain.utils.hashing import file_sha256, fingerprint, fingerprint_files
from selfexplain.utils.io import report_full_disk, write_json
from selfexplain.utils.names import local_path
from selfexplain.utils.processes import fixed_threads, process_state

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOG_SECONDS = 60


def run_shards(
    directory: Path, n_shards: int, make: Callable[[int, Path], None], inputs: Mapping[str, Any], desc: str
) -> list[Path]:
    """Build the shards that do not exist yet, and return the paths of all shards in order.

    Under `accelerate launch`, each of the n processes builds every n-th shard, and all processes return when the last
    shard is complete. In that case `directory` must be on a disk that all processes share.

    Args:
        directory: directory of the shards.
        n_shards: number of shards.
        make: `make(index, path)` writes shard `index` to exactly `path`. It must depend only on `index` and `inputs`.
        inputs: JSON values that the shards depend on. Shards that were built from other inputs are rebuilt.
        desc: label of the progress bar.

    Raises:
        SelfExplainError: the disk is full, or the launched processes are not connected to each other.
    """
    state = process_state()
    key = fingerprint({"inputs": inputs, "n_shards": n_shards})
    paths = [directory / f"shard-{index:05d}-of-{n_shards:05d}" for index in range(n_shards)]
    assigned = range(state.process_index, n_shards, state.num_processes)
    missing = [index for index in assigned if not _is_intact(paths[index], key)]
    if len(missing) < len(assigned):
        logger.info("%s: %d of %d shards exist already", desc, len(assigned) - len(missing), len(assigned))
    directory.mkdir(parents=True, exist_ok=True)
    bar = tqdm(missing, desc=desc, unit="shard", disable=len(missing) < 2 or state.process_index > 0)
    with fixed_threads(), report_full_disk(directory):
        for index in bar:
            _write(index, paths[index], key, make)
    _wait([path for index, path in enumerate(paths) if index not in assigned], key, desc)
    state.wait_for_everyone()  # so that no process deletes a file that another one still reads
    return paths


def fingerprint_table(config: Any) -> str | None:
    """Hash of the local table that a task reads its items from; None for tables on the Hub, which have a revision.

    Args:
        config: settings of a task.
    """
    name = source_path(config)
    path = local_path(name or "")
    return fingerprint_files(path) if name and path.exists() else None


def _record(shard: Path) -> Path:
    return shard.with_name(shard.name + ".json")


def _write(index: int, shard: Path, key: str, make: Callable[[int, Path], None]) -> None:
    partial = shard.with_name(shard.name + ".partial")
    try:
        make(index, partial)
        record = {"inputs": key, "sha256": file_sha256(partial)}
        _record(shard).unlink(missing_ok=True)  # so that no record is next to a shard that it does not describe
        os.replace(partial, shard)
        write_json(_record(shard), record)
    finally:
        partial.unlink(missing_ok=True)


def _is_intact(shard: Path, key: str) -> bool:
    """Whether a shard is complete and was built from the inputs with this hash."""
    try:
        record = json.loads(_record(shard).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if record["inputs"] != key or not shard.is_file():
        return False
    if file_sha256(shard) == record["sha256"]:
        return True
    logger.warning("%s was modified after it was written (its SHA-256 differs). It is rebuilt.", shard)
    return False


def _wait(paths: Sequence[Path], key: str, desc: str) -> None:
    """Wait until other processes have built these shards. If one of them dies, the launcher stops all processes."""
    logged = time.monotonic()
    missing = paths
    while missing := [path for path in missing if not _is_intact(path, key)]:
        if time.monotonic() - logged > LOG_SECONDS:
            logger.info("%s: waiting for %d shards of other processes", desc, len(missing))
            logged = time.monotonic()
        time.sleep(POLL_SECONDS)
