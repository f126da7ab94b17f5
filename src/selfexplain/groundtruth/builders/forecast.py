"""Forecast the time and disk space of a build from a sample of its items."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.utils.formatting import format_bytes, format_duration
from selfexplain.utils.processes import fixed_threads, process_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_SAMPLE = 8  # items; at most one in fifty


def forecast(
    title: str,
    items: Sequence[Any],
    write_rows: Callable[[Sequence[Any], Path], None],
    tokenizer: "PreTrainedTokenizerBase",
    directory: Path,
) -> None:
    """Compute the rows of a few items, and log the time and disk space that all items will take.

    Args:
        title: beginning of the message.
        items: all items, each a string or an object with a property `texts`.
        write_rows: `write_rows(items, path)` writes the rows of some items to a parquet file.
        tokenizer: the target's tokenizer.
        directory: directory on the disk that rows are written to.

    Raises:
        SelfExplainError: the disk is too small.
    """
    import pyarrow.parquet as parquet

    size = min(MAX_SAMPLE, -(-len(items) // 50))
    sample = [items[i * len(items) // size] for i in range(size)]
    path = directory / "sample"
    with fixed_threads():
        write_rows(sample[:1], path)  # warm-up, because the first forward pass of a model is slow
        started = time.monotonic()
        write_rows(sample, path)
        seconds = time.monotonic() - started
    ratio = len(items) / len(sample)
    n_rows, n_bytes = parquet.read_metadata(path).num_rows * ratio, path.stat().st_size * ratio
    path.unlink()
    texts = [text for item in sample for text in ([item] if isinstance(item, str) else item.texts)]
    n_tokens = sum(len(ids) for ids in tokenizer(texts)["input_ids"]) * ratio
    n_processes = process_state().num_processes
    required = 2 * n_bytes  # the candidates and at most the same amount for the dataset
    free = shutil.disk_usage(directory).free
    logger.info(
        "%s: %s items, about %s interventions on %s tokens of text: %s in %d process%s, at most %s of disk",
        title, f"{len(items):,}", f"{n_rows:,.0f}", f"{n_tokens:,.0f}", format_duration(seconds * ratio / n_processes),
        n_processes, "" if n_processes == 1 else "es", format_bytes(required),
    )  # fmt: skip
    if required > free:
        raise SelfExplainError(
            f"{title} will need about {format_bytes(required)} of disk, but {format_bytes(free)} are free at "
            f"{directory}. Free some space, set another output_dir, or request fewer items."
        )
