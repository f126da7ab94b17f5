"""Datasets and fake explainers for tests of the evaluation."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.groundtruth.statistics import DatasetStatistics


class Oracle:
    """An oracle: answers with the completion of a row's vector, or of its prompt without vectors; otherwise with "?".

    Args:
        rows: rows whose completions it returns.
        stop_after: number of answers after which it raises KeyboardInterrupt.
    """

    def __init__(self, rows, stop_after=None):
        self.completions = {self.key(row): row["completion"] for row in rows}
        self.n_answered = 0
        self.stop_after = stop_after

    @staticmethod
    def key(row):
        return np.asarray(row["activations"]).tobytes() or row["prompt"]

    def answer(self, rows, batch_size=64, progress=None):
        if self.stop_after is not None and self.n_answered >= self.stop_after:
            raise KeyboardInterrupt
        self.n_answered += len(rows)
        return [SimpleNamespace(text=self.completions.get(self.key(row), "?"), log_prob=0.0) for row in rows]


def write_dataset(directory: Path, rows, splits=("train", "test"), statistics: DatasetStatistics | None = None):
    """Write the same rows as every split, and return the dataset directory."""
    import datasets

    vector = datasets.List(datasets.List(datasets.Value("float16"), length=8))
    directory.mkdir(parents=True, exist_ok=True)
    lists = [{**row, "activations": row["activations"].tolist()} for row in rows]
    data = datasets.Dataset.from_list(lists).cast_column("activations", vector)
    for split in splits:
        data.to_parquet(directory / f"{split}.parquet")
    dataset = DatasetDirectory(directory)
    if statistics:
        statistics.write(dataset.statistics_path)
    return dataset
