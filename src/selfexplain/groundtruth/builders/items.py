"""Build datasets whose rows come from independent items, such as pairs of prompts or questions."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import schema, shards
from selfexplain.groundtruth.builders.builder import (
    BuildContext,
    Candidates,
    DatasetBuilder,
    Draw,
    Rerun,
    Row,
    split_by_group,
)
from selfexplain.groundtruth.builders.forecast import forecast
from selfexplain.groundtruth.row_shards import Rows, write_row_shard
from selfexplain.groundtruth.sources import Corpus, SourceItems
from selfexplain.target.load import Target
from selfexplain.tasks import Task
from selfexplain.utils.hashing import file_sha256
from selfexplain.utils.processes import process_state

logger = logging.getLogger(__name__)

Config = TypeVar("Config")
Item = TypeVar("Item")


def keep_all(config: Any, rows: Sequence[Row], seed: int) -> tuple[list[int], dict[str, Any]]:
    """Indices of all rows, and their number."""
    return list(range(len(rows))), {"rows": len(rows)}


@dataclass(frozen=True, kw_only=True)
class Builder(Generic[Config, Item]):
    """A builder for tasks whose rows come from independent items. Items are computed in shards, in any order.

    A custom task needs `config_class`, `item_type`, `n_items`, `find_items` and `rows`; see
    `docs/examples/continuation_sentiment.py`.

    Attributes:
        config_class: dataclass of the task's settings.
        item_type: `str`, or a dataclass with a property `texts`, the texts that the target reads. Items are stored as
            JSON between the steps of a build.
        n_items: `n_items(config)` is the number of items to ask the source for.
        find_items: `find_items(config, target, corpus, seed)` returns the items, and counts of what was skipped.
        rows: `rows(config, target, items, seed)` returns the rows of some items and counts. A row must depend only on
            its own item and on `seed`. Rows have the columns of `Task.columns`, and `prompt`, `completion`,
            `placeholder_offsets`, `activations`, `activation_layers` and `group`.
        draw_rows: `draw_rows(config, rows, seed)` returns the indices of the rows to keep, and statistics.
        draw_columns: columns that `draw_rows` and `Task.cell` read; None for all columns of moderate size.
        noun: plural noun for the items, for messages.
        items_per_shard: number of items per shard. An interruption loses at most one shard per process.
        n_rows: `n_rows(config)` is the number of rows to keep; None if all are kept.
        rerun: see `DatasetBuilder.rerun`.
        published: value of `config.source.kind` -> builder that reads published rows.
    """

    config_class: type
    item_type: type
    n_items: Callable[[Config], int]
    find_items: Callable[[Config, Target, Corpus, int], SourceItems[Item]]
    rows: Callable[[Config, Target, Sequence[Item], int], tuple[list[dict], dict]]
    draw_rows: Callable[[Config, Sequence[Row], int], tuple[list[int], dict[str, Any]]] = keep_all
    draw_columns: Sequence[str] | None = None
    noun: str = "items"
    items_per_shard: int = 128
    n_rows: Callable[[Config], int] | None = None
    rerun: Rerun | None = None
    published: Mapping[str, DatasetBuilder] = field(default_factory=dict)

    def for_config(self, config: Any) -> DatasetBuilder:
        """The builder of published rows if the settings name such a source, this builder otherwise."""
        source = getattr(config, "source", None)
        return self.published.get(getattr(source, "kind", ""), self)

    def columns_for_draw(self, task: Task) -> Sequence[str]:
        """`group`, and the columns that `draw_rows` reads."""
        return schema.small_columns(task.name) if self.draw_columns is None else ("group", *self.draw_columns)

    def candidates(self, context: BuildContext) -> Candidates:
        """Find the items, forecast the time and disk space, and compute the rows of all items.

        Raises:
            SelfExplainError: the source contains no usable item, or the disk is too small.
        """
        task, work = context.task.name, context.directory.work
        (path,) = shards.run_shards(
            work / "items", 1, partial(self._write_items, context), context.inputs, f"{task}: items"
        )
        items, skipped = self._read_items(path)
        n_items = self.n_items(context.config)
        report_items(task, self.noun, len(items), n_items, skipped)
        candidates = work / "candidates"
        if process_state().process_index == 0 and not any(candidates.glob("shard-*")):
            forecast(task, items, partial(self._write_rows, context), context.target.tokenizer, work)
        paths = shards.run_shards(
            candidates,
            -(-len(items) // self.items_per_shard),
            partial(self._write_shard, context, items),
            {"items": file_sha256(path), "inputs": context.inputs},
            f"{task}: interventions",
        )
        return Candidates(paths, {"items": {"asked": n_items, "found": len(items)}, "counted": dict(skipped)})

    def draw(self, context: BuildContext, candidates: Candidates, rows: Rows, counts: Sequence[Mapping]) -> Draw:
        """Draw rows with `draw_rows`, and assign them to splits by group."""
        indices, statistics = self.draw_rows(context.config, rows, context.seed)
        if self.n_rows is not None and len(indices) < (n_rows := self.n_rows(context.config)):
            logger.warning(
                "%s: only %d rows could be drawn; %d were requested.", context.task.name, len(indices), n_rows
            )
        counted = Counter(candidates.statistics["counted"])
        for shard_counts in counts:
            counted.update(shard_counts)
        return Draw(
            split_by_group(rows, indices, context.seed),
            {"items": candidates.statistics["items"], "counted": dict(counted), **statistics},
        )

    def _write_items(self, context: BuildContext, index: int, path: Path) -> None:
        items = self.find_items(context.config, context.target, context.corpus, context.seed)
        path.write_bytes(json.dumps(items.skipped).encode() + b"\n" + self._adapter.dump_json(items.items))

    def _read_items(self, path: Path) -> tuple[list[Item], Counter[str]]:
        first_line, rest = path.read_bytes().split(b"\n", 1)
        return self._adapter.validate_json(rest), Counter(json.loads(first_line))

    def _write_shard(self, context: BuildContext, items: Sequence[Item], index: int, path: Path) -> None:
        self._write_rows(context, items[index * self.items_per_shard : (index + 1) * self.items_per_shard], path)

    def _write_rows(self, context: BuildContext, items: Sequence[Item], path: Path) -> None:
        rows, counts = self.rows(context.config, context.target, items, context.seed)
        write_row_shard(context.task.name, context.target, rows, counts, path)

    @property
    def _adapter(self) -> TypeAdapter[list[Item]]:
        return TypeAdapter(list[self.item_type])  # type: ignore[name-defined]


def report_items(title: str, noun: str, n_found: int, n_requested: int, skipped: Mapping[str, int]) -> None:
    """Log a warning if fewer items were found than requested or some were skipped.

    Raises:
        SelfExplainError: no items were found.
    """
    reasons = "; ".join(f"{count:,} skipped: {reason}" for reason, count in skipped.items() if count)
    if not n_found:
        raise SelfExplainError(
            f"{title}: the source contains no {noun} that this target can be asked about. "
            f"{reasons or 'The source is empty'}. Use a larger or a different source."
        )
    if n_found < n_requested or reasons:
        logger.warning("%s: found %d of %d requested %s. %s", title, n_found, n_requested, noun, reasons)
