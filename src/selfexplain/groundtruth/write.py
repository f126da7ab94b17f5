"""Write a dataset from its candidate rows: draw rows by their small columns, then read the drawn rows in full."""

import logging
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import balance, formats, schema
from selfexplain.groundtruth.builders import BuildContext, Candidates, DatasetBuilder, Draw
from selfexplain.groundtruth.card_metadata import configurations
from selfexplain.groundtruth.row_shards import Rows, read_columns, read_row_shard, shard_counts
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.groundtruth.statistics import Balance, DatasetStatistics, SplitSize
from selfexplain.tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

ROW_GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _CandidateRows:
    """The small columns of all candidates.

    Attributes:
        rows: all rows.
        starts: index of the first row of each shard.
        counts: counts of each shard.
        is_float32: whether a shard has float32 vectors.
    """

    rows: Rows
    starts: list[int]
    counts: list[dict[str, Any]]
    is_float32: bool

    @property
    def dtype(self) -> schema.Dtype:
        return "float32" if self.is_float32 else "float16"


def write_dataset(context: BuildContext, builder: DatasetBuilder, candidates: Candidates) -> dict[str, str]:
    """Write the splits, the additional test sets, the statistics and the card of a dataset.

    Returns:
        Name -> SHA-256 of every parquet file.

    Raises:
        SelfExplainError: a split is empty.
    """
    directory, task = context.directory, context.task
    read = _read_candidates(context, builder, candidates)
    draw = builder.draw(context, candidates, read.rows, read.counts)
    sizes = _split_sizes(task, draw, read.rows)
    shares_vectors = bool(getattr(context.config, "share_vectors", False))
    written = _write_splits(context, candidates, read, draw, shares_vectors)
    for name, path in candidates.test_sets.items():
        _write_parquet(read_row_shard(path), directory.rows(name))
    for path in directory.root.glob("*.parquet"):
        if path.stem not in {*written, *candidates.test_sets}:  # from a dataset with other settings
            path.unlink()
    quantization = getattr(context.target.model.config, "quantization_config", None)
    statistics = DatasetStatistics.model_validate({
        **draw.statistics,
        **({"corpus": {"skipped": dict(context.corpus.skipped)}} if context.corpus.skipped else {}),
        "balance": _measure_balance(task, draw, read.rows),
        "target_dtype": str(context.target.model.dtype).removeprefix("torch."),
        "target_weights": context.target.weights,
        "target_quantization": quantization.to_dict() if quantization else None,
        "vector_dtype": read.dtype,
        "splits": sizes,
    })  # fmt: skip
    statistics.write(directory.statistics_path)
    hashes = directory.hashes()
    test_sets = [*candidates.test_sets, *draw.test_sets]
    directory.card.write_text(_card(context, shares_vectors, test_sets, hashes), encoding="utf-8")
    logger.info("%s: %s", task.name, ", ".join(f"{size.rows:,} {split} rows" for split, size in sizes.items()))
    return hashes


def _read_candidates(context: BuildContext, builder: DatasetBuilder, candidates: Candidates) -> _CandidateRows:
    import pyarrow.parquet as parquet

    float16 = schema.features(context.task.name, context.target.d_model).arrow_schema
    names = builder.columns_for_draw(context.task)
    rows: Rows = []
    starts = []
    for path in candidates.shards:
        starts.append(len(rows))
        rows += read_columns(path, names)
    is_float32 = any(parquet.read_schema(path) != float16 for path in candidates.shards)
    return _CandidateRows(rows, starts, [shard_counts(path) for path in candidates.shards], is_float32)


def _split_sizes(task: Task, draw: Draw, rows: Rows) -> dict[str, SplitSize]:
    """Split -> its size.

    Raises:
        SelfExplainError: a split is empty.
    """
    sizes = {
        split: SplitSize(rows=len(part), groups=len({rows[index]["group"] for index in part}))
        for split, part in draw.splits.items()
    }
    if empty := [split for split in SPLITS if not sizes[split].rows]:
        n_rows, n_groups = sum(size.rows for size in sizes.values()), sum(size.groups for size in sizes.values())
        raise SelfExplainError(
            f"{task.name}: {n_rows} rows in {n_groups} groups leave no row for {', '.join(empty)}. "
            "Use more data: a larger corpus, or more pairs, questions or features."
        )
    return sizes


def _write_splits(
    context: BuildContext, candidates: Candidates, read: _CandidateRows, draw: Draw, shares_vectors: bool
) -> set[str]:
    """Write the splits, drawn test sets, and the distinct vectors if rows share them; return the names of the files."""
    parts = {**draw.splits, **draw.test_sets}
    indices = sorted(index for part in parts.values() for index in part)
    table = _drawn_rows(context, candidates.shards, read, indices)
    written = set(parts)
    if shares_vectors:
        table, vectors = formats.share_vectors(table)
        _write_parquet(vectors, context.directory.vectors)
        written.add(context.directory.vectors.stem)
    for split, part in parts.items():
        _write_parquet(table.take([bisect_left(indices, index) for index in part]), context.directory.rows(split))
    return written


def _drawn_rows(
    context: BuildContext, paths: Sequence[Path], read: _CandidateRows, indices: Sequence[int]
) -> "pa.Table":
    """All columns of the candidates with these sorted indices."""
    import pyarrow as pa

    task, d_model = context.task.name, context.target.d_model
    parts = []
    for start, end, path in zip(read.starts, [*read.starts[1:], len(read.rows)], paths, strict=True):
        in_shard = indices[bisect_left(indices, start) : bisect_left(indices, end)]
        table = read_row_shard(path).take([index - start for index in in_shard]).replace_schema_metadata(None)
        parts.append(schema.to_float32(table, task, d_model) if read.is_float32 else table)
    return pa.concat_tables(parts).cast(schema.features(task, d_model, read.dtype).arrow_schema)


def _measure_balance(task: Task, draw: Draw, rows: Rows) -> Balance | None:
    """Scores of rules that see no vector, with a warning for each that is above chance; None without a has-changed
    label."""
    if task.cell is None:
        return None
    train, test = ([rows[index] for index in draw.splits[split]] for split in ("train", "test"))
    measured = balance.measure(train, test, task.cell, task.text_column)
    for rule, score in measured.model_dump(exclude_none=True).items():
        if score > 0.5 + balance.MARGIN:
            logger.warning(
                "%s: %s is %.2f, where chance is 0.50. Compare every score of this task with it.",
                task.name,
                rule,
                score,
            )
    return measured


def _write_parquet(table: "pa.Table", path: Path) -> None:
    import pyarrow.parquet as parquet

    rows = max(1, int(ROW_GROUP_BYTES / max(1, table.nbytes / max(1, len(table)))))
    partial = path.with_name(f".{path.name}.partial")
    parquet.write_table(table, partial, compression="zstd", row_group_size=rows)
    os.replace(partial, path)


def _card(context: BuildContext, shares_vectors: bool, test_sets: Iterable[str], hashes: Mapping[str, str]) -> str:
    """A minimal card that tells `load_dataset` which files are data. The card stage replaces it."""
    header = yaml.safe_dump({"configs": list(configurations(test_sets, shares_vectors, hashes))}, sort_keys=False)
    return f"---\n{header}---\n# {context.task.name} of {context.target.name}\n"
