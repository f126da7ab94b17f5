"""Build the dataset of one task: compute candidate rows in shards, draw a balanced sample, and write the splits.

The same code runs in one process and under `accelerate launch`. There, the processes share the shards, and the main
process writes the dataset.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from selfexplain.groundtruth import shards
from selfexplain.groundtruth.builders import BUILDERS, BuildContext
from selfexplain.groundtruth.config import result_settings
from selfexplain.groundtruth.dataset_directory import DatasetDirectory, DatasetManifest
from selfexplain.groundtruth.sources import Corpus
from selfexplain.groundtruth.write import write_dataset
from selfexplain.target.load import Target
from selfexplain.tasks import TASKS
from selfexplain.utils.hashing import fingerprint
from selfexplain.utils.io import report_full_disk
from selfexplain.utils.processes import process_state
from selfexplain.version import __version__


def build(task: str, config: Any, target: Target, corpus: Corpus, out_dir: Path, seed: int) -> None:
    """Write a dataset: `train.parquet`, `validation.parquet`, `test.parquet`, `statistics.json` and `README.md`.

    Feature description has up to two additional test sets, `activations.parquet` and `differences.parquet`.

    If `out_dir` contains the same dataset, nothing is done. An interrupted build continues where it stopped.
    `manifest.json`, with the SHA-256 of every parquet file, is written last.

    Args:
        task: name of the task.
        config: settings of the task, an instance of the `config_class` of its builder.
        target: the model that is explained.
        corpus: texts.
        out_dir: directory of the dataset.
        seed: seed of the splits and of everything that is drawn.

    Raises:
        SelfExplainError: the task is unknown, the source contains no rows for it, a split is empty, or the disk is too
            small.
    """
    directory = DatasetDirectory(out_dir)
    inputs = {
        "task": task,
        "config": json.loads(json.dumps(result_settings(config))),
        "target": [target.name, target.revision, _fingerprint_weights(target)],
        "corpus": fingerprint([corpus.name, corpus.texts]),
        "source": shards.fingerprint_table(config),
        "seed": seed,
        "version": __version__,
    }
    key = fingerprint(inputs)
    if directory.is_complete(key):
        return
    context = BuildContext(TASKS[task], config, target, corpus, directory, inputs, seed)
    builder = BUILDERS[task].for_config(config)
    out_dir.mkdir(parents=True, exist_ok=True)
    with report_full_disk(out_dir):
        candidates = builder.candidates(context)
        if process_state().process_index == 0:
            hashes = write_dataset(context, builder, candidates)
            DatasetManifest(inputs=key, files=hashes).write(directory.manifest_path)
            shutil.rmtree(directory.work)
            return
    while not directory.is_complete(key):
        time.sleep(shards.POLL_SECONDS)


def _fingerprint_weights(target: Target) -> str:
    """A hash of all parameters, which distinguishes models with the same name.

    Each parameter contributes its first values and the sum of its bit patterns as integers. The sum is the same for
    every device and order of summation.
    """
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    parameters = {
        name: [p.flatten()[:32].float().tolist(), p.view(integers[p.element_size()]).sum(dtype=torch.int64).item()]
        for name, p in ((name, p.detach()) for name, p in target.model.named_parameters())
    }
    return fingerprint([parameters, str(target.model.dtype)])
