"""Build one task's dataset: items -> shards of candidates -> a balanced draw -> parquet splits and what was counted.

The same code runs in one process and under `accelerate launch`: shards are shared out, the main process does the rest.
"""

import json
import logging
import os
import shutil
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter

from selfexplain import __version__
from selfexplain.bundled import TINY_WORLD
from selfexplain.errors import SelfExplainError
from selfexplain.features.exemplars import ExemplarState
from selfexplain.groundtruth import balance, formats, schema, shards
from selfexplain.groundtruth.builders import ablation, features, patching
from selfexplain.groundtruth.builders.activations import Vectors, activation_vectors, difference_vectors, vector_rows
from selfexplain.groundtruth.config import PairSource, what_counts
from selfexplain.groundtruth.sources import (
    Corpus,
    Found,
    HintedQuestion,
    Pair,
    fact_pairs,
    story_pairs,
    table_pairs,
    table_questions,
)
from selfexplain.groundtruth.sources.tables import read_table
from selfexplain.groundtruth.splits import SPLITS, by_split, split_of
from selfexplain.target.load import Target
from selfexplain.tasks import activation_patching, input_ablation
from selfexplain.utils import hashing, io, processes

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

ITEMS_PER_SHARD = {"activation_patching": 128, "input_ablation": 1024}  # what a kill loses at most, in each process
TEXTS_PER_SHARD = 8192  # of a pass for exemplars
PAIRS = "counterfactual pairs"
PAIRS_FOR_ONE = 8  # drawn for each that is wanted of the test split
NOT_FINITE = "activations that are not finite"  # a count
MAX_SAMPLE = 8  # items that are run to tell what all will take; one in fifty of few
ROW_GROUP_BYTES = 64 * 2**20
# What the draw does not look at.
HEAVY = {
    "activations", "prompt", "completion", "placeholder_offsets", "prompt_ids", "prompt_tokens", "source_prompt",
    "exemplars", "scoring_exemplars",
}  # fmt: skip
CELLS = {"activation_patching": activation_patching.cell, "input_ablation": input_ablation.cell}

Rows = list[dict[str, Any]]
Parts = dict[str, list[int]]  # split -> indices of its rows among the candidates
Draw = Callable[[Rows, list[dict[str, Any]]], tuple[Parts, dict[str, Any]]]


def build(task: str, config: Any, target: Target, corpus: Corpus, out_dir: Path, seed: int) -> None:
    """Write `train`, `validation`, `test` `.parquet`, `statistics.json` and a `README.md` that names the splits.

    Feature description has up to two test sets out of distribution beside them, `activations` and `differences`.

    Nothing is done where the same dataset is there in full; what a killed build left is taken up. `manifest.json` comes
    last, with the SHA-256 of every file.

    Args:
        config: the task's own settings, of `groundtruth.config`.

    Raises:
        SelfExplainError: the source gives no rows for this task, or none in some split, or the disk is too small.
    """
    state = processes.process_state()
    inputs = {
        "task": task,
        "config": json.loads(json.dumps(what_counts(config))),
        "target": [target.name, target.revision, _weights(target)],
        "corpus": hashing.fingerprint([corpus.name, corpus.texts]),
        "source": shards.fingerprint_table(config),
        "seed": seed,
        "version": __version__,
    }
    key = hashing.fingerprint(inputs)
    if is_whole(out_dir, key):
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    work = out_dir / ".work"
    out_of_distribution: dict[str, Path] = {}
    with io.report_full_disk(out_dir):
        if task == "feature_description":
            paths, draw, out_of_distribution = _feature_shards(config, target, corpus, out_dir, work, inputs, seed)
        elif config.source.kind == "transluce":
            paths, draw = _transluce_shards(task, config, target, work, inputs, seed)
        else:
            paths, draw = _intervention_shards(task, config, target, corpus, work, inputs, seed)
        if state.process_index == 0:
            _gather(task, config, target, paths, draw, out_of_distribution, out_dir, seed)
            io.write_json(out_dir / "manifest.json", {"inputs": key, "files": _hashes(out_dir)})
            shutil.rmtree(work)
            return
    while not is_whole(out_dir, key):
        time.sleep(shards.POLL_SECONDS)


def is_whole(out_dir: Path, key: str | None = None) -> bool:
    """Whether a dataset is there in full, every file as it was written, and made from the inputs with this hash."""
    try:
        manifest = json.loads((out_dir / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return key in (None, manifest["inputs"]) and manifest["files"] == _hashes(out_dir)


def _hashes(out_dir: Path) -> dict[str, str]:
    return {path.name: hashing.file_sha256(path) for path in sorted(out_dir.glob("*.parquet"))}


def _weights(target: Target) -> str:
    """Tells models of one name apart: a hash of the first values of every parameter."""
    parameters = {name: p.detach().flatten()[:32].float().tolist() for name, p in target.model.named_parameters()}
    return hashing.fingerprint([parameters, str(target.model.dtype)])


def _intervention_shards(
    task: str, config: Any, target: Target, corpus: Corpus, work: Path, inputs: Mapping[str, Any], seed: int
) -> tuple[list[Path], Draw]:
    """Shards of the rows of all interventions, and how rows are drawn from them."""
    builder: ModuleType = patching if task == "activation_patching" else ablation
    item_type: TypeAdapter[Any] = TypeAdapter(list[Pair] if task == "activation_patching" else list[HintedQuestion])

    def find(index: int, path: Path) -> None:
        found = _find(task, config, target, corpus, seed)
        path.write_bytes(json.dumps(found.skipped).encode() + b"\n" + item_type.dump_json(found.items))

    items_path = shards.run_shards(work / "items", 1, find, inputs, f"{task}: items")[0]
    first_line, rest = items_path.read_bytes().split(b"\n", 1)
    skipped, items = Counter(json.loads(first_line)), item_type.validate_json(rest)
    asked = config.n_pairs if task == "activation_patching" else config.n_questions
    _tell_items(task, PAIRS if task == "activation_patching" else "questions", len(items), asked, skipped)

    size = ITEMS_PER_SHARD[task]
    n_shards = -(-len(items) // size)

    def make(index: int, path: Path, part: Sequence | None = None) -> None:
        part = items[index * size : (index + 1) * size] if part is None else part
        rows, counts = builder.candidates(config, target, part, seed)
        _write_shard(task, target, rows, counts, path)

    candidates = {"items": hashing.file_sha256(items_path), "inputs": inputs}
    if processes.process_state().process_index == 0 and not any((work / "candidates").glob("shard-*")):
        _estimate(task, target, items, make, work)
    paths = shards.run_shards(work / "candidates", n_shards, make, candidates, f"{task}: interventions")

    def draw(rows: Rows, counts: list[dict[str, Any]]) -> tuple[Parts, dict[str, Any]]:
        indices, statistics = builder.draw(config, rows, seed)
        if len(indices) < config.n_rows:
            logger.warning("%s: %d balanced rows are all there are; %d wanted.", task, len(indices), config.n_rows)
        for own in counts:
            skipped.update(own)
        return _by_group(rows, indices, seed), {
            "items": {"asked": asked, "found": len(items)},
            "counted": dict(skipped),
            **statistics,
        }

    return paths, draw


def _feature_shards(
    config: Any, target: Target, corpus: Corpus, out_dir: Path, work: Path, inputs: Mapping[str, Any], seed: int
) -> tuple[list[Path], Draw, dict[str, Path]]:
    """One shard of rows, from exemplars that are searched for in as many shards of the corpus as it has.

    Beside it, by name, one shard of rows of each test set out of distribution; the search is the same for all.
    """
    import pyarrow.parquet as parquet

    layers, token_ids = features.layers_and_token_ids(config, target, corpus.texts)
    n_shards = -(-len(token_ids) // TEXTS_PER_SHARD)
    names = [name for name, n in (("activations", config.n_activations), ("differences", config.n_differences)) if n]

    def train(index: int, path: Path) -> None:
        features.train_dictionaries(config, target, token_ids, layers, out_dir, seed)
        path.write_text("trained")

    def choose(index: int, path: Path) -> None:
        if names[index] == "activations":
            activation_vectors(config, target, token_ids, layers, seed).save(path)
        else:
            pairs = _held_out_pairs(config, target, corpus, seed)
            difference_vectors(config, target, pairs, token_ids, layers, seed).save(path)

    def search(index: int, path: Path) -> None:
        together = [dictionary for own in dictionaries for dictionary in own]
        features.pass_over(config, target, token_ids, together, index, n_shards).save(path)

    def make(index: int, path: Path) -> None:
        state = reduce(ExemplarState.merge, map(ExemplarState.load, states)).to(target.model.device)
        passed = state.split([[one.n_features for one in own] for own in dictionaries])[index]
        settled = (corpus.classes, seed, passed)
        if index == 0:
            rows, statistics = features.build_rows(config, target, corpus.texts, out_dir, *settled)
        else:
            rows, statistics = vector_rows(config, target, token_ids, vectors[index - 1], out_dir, *settled)
        _write_shard("feature_description", target, rows, statistics, path)

    def draw(rows: Rows, counts: list[dict[str, Any]]) -> tuple[Parts, dict[str, Any]]:
        told = {
            name: json.loads(parquet.read_metadata(path).metadata[b"counts"])
            for name, path in out_of_distribution.items()
        }
        return _by_group(rows, range(len(rows)), seed), counts[0] | ({"out_of_distribution": told} if told else {})

    title = "feature_description"
    shards.run_shards(work / "dictionaries", 1, train, inputs, f"{title}: dictionaries")
    vectors = [
        Vectors.load(path)
        for path in shards.run_shards(work / "vectors", len(names), choose, inputs, f"{title}: vectors")
    ]
    dictionaries = [
        features.find_dictionaries(config, target, token_ids, layers, out_dir, seed),
        *(own.dictionaries(target) for own in vectors),
    ]
    states = shards.run_shards(work / "exemplars", n_shards, search, inputs, f"{title}: exemplars")
    paths = shards.run_shards(work / "candidates", len(dictionaries), make, inputs, f"{title}: rows")
    out_of_distribution = dict(zip(names, paths[1:], strict=True))
    return paths[:1], draw, out_of_distribution


def _held_out_pairs(config: Any, target: Target, corpus: Corpus, seed: int) -> list[Pair]:
    """Pairs whose facts lie in the test split, of activation patching too: no explainer was trained on them."""
    found = _pairs(config.pairs, target, corpus, PAIRS_FOR_ONE * config.n_differences, seed)
    held_out = [pair for pair in dict.fromkeys(found.items) if split_of(pair.clean.group, seed) == "test"]
    held_out = held_out[: config.n_differences]
    _tell_items("feature_description, differences", PAIRS, len(held_out), config.n_differences, found.skipped)
    return held_out


def _transluce_shards(
    task: str, config: Any, target: Target, work: Path, inputs: Mapping[str, Any], seed: int
) -> tuple[list[Path], Draw]:
    """The rows of a published dataset as they are, in its own test split; ours for validation is cut from training."""
    splits = ("train", "test")

    def make(index: int, path: Path) -> None:
        records = read_table(replace(config.source, split=splits[index]))
        rows = [formats.from_transluce(task, record, target.tokenizer) for record in records]
        widths = {len(vector) for row in rows for vector in row["activations"]} - {target.d_model}
        if widths:
            raise SelfExplainError(
                f"{config.source.path} holds vectors of width {sorted(widths)}, {target.name} has width "
                f"{target.d_model}: it is about another model."
            )
        _write_shard(task, target, rows, {splits[index]: len(rows)}, path)

    paths = shards.run_shards(work / "candidates", 2, make, inputs, f"{task}: published rows")

    def draw(rows: Rows, counts: list[dict[str, Any]]) -> tuple[Parts, dict[str, Any]]:
        published = counts[0] | counts[1]
        n_train = counts[0]["train"] - counts[0].get(NOT_FINITE, 0)
        parts = _by_group(rows, range(n_train), seed)
        return {
            "train": sorted(parts["train"] + parts["test"]),
            "validation": parts["validation"],
            "test": list(range(n_train, len(rows))),
        }, {"published": published}

    return paths, draw


def _find(task: str, config: Any, target: Target, corpus: Corpus, seed: int) -> Found:
    """The pairs or questions that interventions are run on."""
    source = config.source
    if task == "activation_patching":
        return _pairs(source, target, corpus, config.n_pairs, seed, config.max_text_tokens)
    if source.kind == "multiple_choice":
        return table_questions(source, target, config.n_questions, seed)
    if corpus.questions is None:
        raise SelfExplainError(
            f"input_ablation needs questions with hints, and {corpus.name} is plain text: give "
            "input_ablation.source.kind=multiple_choice and its path, leave the task out "
            f"(tasks=[feature_description, activation_patching]), or take corpus={TINY_WORLD}."
        )
    return Found(list(corpus.questions(config.n_questions, seed)))


def _pairs(
    source: PairSource, target: Target, corpus: Corpus, n: int, seed: int, max_text_tokens: int = 64
) -> Found[Pair]:
    if source.kind in ("counterfact", "relations"):
        return fact_pairs(source, target, n, seed)
    if source.kind == "pairs":
        return table_pairs(source, target, n, seed)
    if source.kind == "transluce":
        raise SelfExplainError("pairs.kind is transluce, whose rows are finished: give a source of pairs of prompts.")
    if corpus.pairs is not None:
        return Found(list(corpus.pairs(n, seed)))
    return Found(story_pairs(target, corpus.texts, n, seed, max_text_tokens))


def _tell_items(title: str, noun: str, found: int, asked: int, skipped: Mapping[str, int]) -> None:
    reasons = "; ".join(f"{count:,} skipped: {reason}" for reason, count in skipped.items() if count)
    if not found:
        raise SelfExplainError(
            f"no {noun}: the source gave none that this target can be asked about. {reasons or 'It is empty.'}"
        )
    if found < asked or reasons:
        logger.warning("%s: %d of %d %s wanted were found. %s", title, found, asked, noun, reasons)


def _estimate(task: str, target: Target, items: Sequence, make: Callable, work: Path) -> None:
    """Run a few items, and tell what all of them take.

    Raises:
        SelfExplainError: the disk cannot hold that.
    """
    import pyarrow.parquet as parquet

    size = min(MAX_SAMPLE, -(-len(items) // 50))
    sample = [items[i * len(items) // size] for i in range(size)]
    path = work / "sample"
    with processes.fixed_threads():
        make(0, path, sample[:1])  # the first run of a model is slow
        started = time.monotonic()
        make(0, path, sample)
        seconds = time.monotonic() - started
    times = len(items) / len(sample)
    rows, n_bytes = parquet.read_metadata(path).num_rows * times, path.stat().st_size * times
    path.unlink()
    texts = [text for item in sample for text in item.texts]
    tokens = sum(len(ids) for ids in target.tokenizer(texts)["input_ids"]) * times
    n_processes = processes.process_state().num_processes
    needed = 2 * n_bytes  # the candidates and, at most, as much again for the dataset
    free = shutil.disk_usage(work).free
    logger.info(
        "%s: %s items, about %s interventions on %s tokens of text: %s in %d process%s, at most %s of disk",
        task, f"{len(items):,}", f"{rows:,.0f}", f"{tokens:,.0f}", _duration(seconds * times / n_processes),
        n_processes, "" if n_processes == 1 else "es", _size(needed),
    )  # fmt: skip
    if needed > free:
        raise SelfExplainError(
            f"{task} will need about {_size(needed)} of disk, and {_size(free)} are free at {work}: "
            "free some, give another output_dir, or ask for fewer items."
        )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"


def _write_shard(task: str, target: Target, rows: Rows, counts: Mapping[str, Any], path: Path) -> None:
    """Rows as parquet, what was counted beside them in its metadata."""
    import numpy as np
    import pyarrow.parquet as parquet

    finite = [all(np.isfinite(vector).all() for vector in map(np.asarray, row["activations"])) for row in rows]
    filled = [
        row | {"target_model": target.name, "target_revision": target.revision}
        for row, is_finite in zip(rows, finite, strict=True)
        if is_finite
    ]
    if len(filled) < len(rows):
        counts = {**counts, NOT_FINITE: len(rows) - len(filled)}
    table = schema.to_table(task, filled, target.d_model)
    table = table.replace_schema_metadata({**table.schema.metadata, "counts": json.dumps(counts)})
    parquet.write_table(table, path, compression="zstd")


def _gather(
    task: str,
    config: Any,
    target: Target,
    paths: Sequence[Path],
    draw: Draw,
    out_of_distribution: Mapping[str, Path],
    out_dir: Path,
    seed: int,
) -> None:
    """Draw rows by their light columns, fetch them whole, and write splits; sets out of distribution as they are."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    light: Rows = []
    starts, counts, wide = [], [], False
    for path in paths:
        own = parquet.read_schema(path)
        starts.append(len(light))
        light += parquet.read_table(path, columns=[name for name in own.names if name not in HEAVY]).to_pylist()
        counts.append(json.loads(own.metadata[b"counts"]))
        wide |= own != schema.features(task, target.d_model).arrow_schema
    parts, statistics = draw(light, counts)
    indices = sorted(index for part in parts.values() for index in part)
    groups = {split: len({light[index]["group"] for index in part}) for split, part in parts.items()}
    if empty := [split for split in SPLITS if not parts[split]]:
        raise SelfExplainError(
            f"{task}: {len(indices)} rows in {sum(groups.values())} groups leave no row for {', '.join(empty)}: "
            "take more data (a larger corpus, more pairs, questions or features)."
        )

    drawn = []
    for start, end, path in zip(starts, [*starts[1:], len(light)], paths, strict=True):
        own = indices[bisect_left(indices, start) : bisect_left(indices, end)]
        table = parquet.read_table(path).take([index - start for index in own])
        drawn.append(schema.widened(table, task, target.d_model) if wide else table.replace_schema_metadata(None))
    dtype: schema.Dtype = "float32" if wide else "float16"
    table = pa.concat_tables(drawn).cast(schema.features(task, target.d_model, dtype).arrow_schema)
    shared = getattr(config, "share_vectors", False)
    if shared:
        table, vectors = formats.vectors_apart(table)
        _write_parquet(vectors, out_dir / "vectors.parquet")
    for split, part in parts.items():
        _write_parquet(table.take([bisect_left(indices, index) for index in part]), out_dir / f"{split}.parquet")

    for name, path in out_of_distribution.items():
        own_table = parquet.read_table(path)
        metadata = {key: value for key, value in own_table.schema.metadata.items() if key != b"counts"}
        _write_parquet(own_table.replace_schema_metadata(metadata), out_dir / f"{name}.parquet")
    written = {*parts, *out_of_distribution, *(["vectors"] if shared else [])}
    for path in out_dir.glob("*.parquet"):
        if path.stem not in written:  # of other settings, built here before
            path.unlink()

    if task in CELLS:
        train, test = ([light[index] for index in parts[split]] for split in ("train", "test"))
        text = (lambda row: row["target_prompt"]) if task == "activation_patching" else None
        statistics["balance"] = balance.measure(train, test, CELLS[task], text)
        for rule, score in statistics["balance"].items():
            if score > 0.5 + balance.MARGIN:
                logger.warning("%s: %s is %.2f where chance is 0.50: judge every score by it.", task, rule, score)
    quantization = getattr(target.model.config, "quantization_config", None)
    statistics |= {
        "target_dtype": str(target.model.dtype).removeprefix("torch."),
        **({"target_quantization": quantization.to_dict()} if quantization else {}),
        "vector_dtype": dtype,
        "splits": {split: {"rows": len(part), "groups": groups[split]} for split, part in parts.items()},
    }
    io.write_json(out_dir / "statistics.json", statistics)
    (out_dir / "README.md").write_text(_readme(task, target, shared, out_of_distribution), encoding="utf-8")
    logger.info("%s: %s", task, ", ".join(f"{len(part):,} {split} rows" for split, part in parts.items()))


def _write_parquet(table: "pa.Table", path: Path) -> None:
    import pyarrow.parquet as parquet

    rows = max(1, int(ROW_GROUP_BYTES / max(1, table.nbytes / max(1, len(table)))))
    partial = path.with_name(f".{path.name}.partial")
    parquet.write_table(table, partial, compression="zstd", row_group_size=rows)
    os.replace(partial, path)


def _by_group(rows: Rows, indices: Iterable[int], seed: int) -> Parts:
    parts = by_split(({"group": rows[index]["group"], "index": index} for index in indices), seed)
    return {split: [place["index"] for place in part] for split, part in parts.items()}


def _readme(task: str, target: Target, shared_vectors: bool, out_of_distribution: Iterable[str]) -> str:
    """Tells `load_dataset` which files are data; the card stage writes the card in its place."""
    files = {"default": {split: f"{split}.parquet" for split in SPLITS}}
    if shared_vectors:
        files["vectors"] = {"train": "vectors.parquet"}
    files |= {name: {"test": f"{name}.parquet"} for name in out_of_distribution}
    configs = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in own.items()]}
        for name, own in files.items()
    ]
    return f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---\n# {task} of {target.name}\n"
