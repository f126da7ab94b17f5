"""Work cut into shards: each is written whole or not at all, checked by its hash, and made by one of the processes.

A shard is a file beside a small JSON file that holds its hash and the inputs it was made from. Both appear by an
atomic rename, the JSON last, so whatever a kill leaves behind is either a whole shard or none. A shard depends on its
index and inputs alone, never on the process that makes it: any number of processes ends in the same bytes.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selfexplain.groundtruth.config import table_of
from selfexplain.utils.hashing import file_sha256, fingerprint, fingerprint_files
from selfexplain.utils.io import report_full_disk, write_json
from selfexplain.utils.processes import fixed_threads, process_state

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5


def run_shards(
    directory: Path, n_shards: int, make: Callable[[int, Path], None], inputs: Mapping[str, Any], desc: str
) -> list[Path]:
    """Make the shards that are not there yet, and return the paths of all of them, in order.

    Under `accelerate launch` each process makes every world-size-th shard, and all return when the last one is done;
    `directory` then has to be on a disk that all of them see.

    Args:
        make: `make(index, path)` writes shard `index` to exactly `path`; it may depend on `index` and `inputs` only.
        inputs: JSON values that the shards depend on; shards made from others are made anew.
        desc: what is made, for the progress bar.

    Raises:
        SelfExplainError: the disk is full, or the processes do not know of each other.
    """
    state = process_state()
    key = fingerprint({"inputs": inputs, "n_shards": n_shards})
    paths = [directory / f"shard-{index:05d}-of-{n_shards:05d}" for index in range(n_shards)]
    own = range(state.process_index, n_shards, state.num_processes)
    missing = [index for index in own if not _intact(paths[index], key)]
    if len(missing) < len(own):
        logger.info("%s: %d of %d shards were made before", desc, len(own) - len(missing), len(own))
    directory.mkdir(parents=True, exist_ok=True)
    bar = tqdm(missing, desc=desc, unit="shard", disable=len(missing) < 2 or state.process_index > 0)
    with fixed_threads(), report_full_disk(directory):
        for index in bar:
            _write(index, paths[index], key, make)
    _wait([path for index, path in enumerate(paths) if index not in own], key, desc)
    state.wait_for_everyone()  # nobody deletes what another one still looks at
    return paths


def fingerprint_table(config: Any) -> str | None:
    """Content of the local table that a task's items come from; what lies on the Hub is known by its revision."""
    name = table_of(config).path
    path = Path(name or "").expanduser()
    return fingerprint_files(path) if name and path.exists() else None


def _record(shard: Path) -> Path:
    return shard.with_name(shard.name + ".json")


def _write(index: int, shard: Path, key: str, make: Callable[[int, Path], None]) -> None:
    partial = shard.with_name(shard.name + ".partial")
    try:
        make(index, partial)
        record = {"inputs": key, "sha256": file_sha256(partial)}
        _record(shard).unlink(missing_ok=True)  # a record never stands beside a shard it was not written for
        os.replace(partial, shard)
        write_json(_record(shard), record)
    finally:
        partial.unlink(missing_ok=True)


def _intact(shard: Path, key: str) -> bool:
    try:
        record = json.loads(_record(shard).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if record["inputs"] != key or not shard.is_file():
        return False
    if file_sha256(shard) == record["sha256"]:
        return True
    logger.warning("%s is not what was written there (its SHA-256 differs): it is made anew.", shard)
    return False


def _wait(paths: Sequence[Path], key: str, desc: str) -> None:
    """Until the other processes are done with these. One that dies takes all down: the launcher sees to that."""
    told = time.monotonic()
    waiting = paths
    while waiting := [path for path in waiting if not _intact(path, key)]:
        if time.monotonic() - told > 60:
            logger.info("%s: waiting for %d shards of other processes", desc, len(waiting))
            told = time.monotonic()
        time.sleep(POLL_SECONDS)
