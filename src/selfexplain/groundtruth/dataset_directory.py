"""Paths and records of one dataset directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.statistics import DatasetStatistics
from selfexplain.utils.hashing import file_sha256
from selfexplain.utils.records import Record


class DatasetManifest(Record):
    """`manifest.json` of a dataset, which is written last: the inputs of the dataset and its files.

    Attributes:
        inputs: hash of everything that the rows depend on.
        files: name of a parquet file -> its SHA-256.
    """

    remedy: ClassVar[str] = "Build the dataset again: selfexplain run RECIPE --stage dataset."

    schema_version: Literal[1] = 1
    inputs: str
    files: dict[str, str]


@dataclass(frozen=True)
class DatasetDirectory:
    """A directory with the rows of one task."""

    root: Path

    @property
    def statistics_path(self) -> Path:
        """The file of `DatasetStatistics`."""
        return self.root / "statistics.json"

    @property
    def manifest_path(self) -> Path:
        """The file of `DatasetManifest`."""
        return self.root / "manifest.json"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "README.md"

    @property
    def vectors(self) -> Path:
        """The distinct vectors, if rows refer to them by index (`share_vectors`)."""
        return self.root / "vectors.parquet"

    @property
    def saes(self) -> Path:
        """The SAEs that were trained for this dataset."""
        return self.root / "saes"

    @property
    def work(self) -> Path:
        """Unfinished shards, which are deleted when the dataset is complete."""
        return self.root / ".work"

    def rows(self, name: str) -> Path:
        """The parquet file of a split or of an out-of-distribution test set."""
        return self.root / f"{name}.parquet"

    def statistics(self) -> DatasetStatistics:
        """The statistics collected while the dataset was built.

        Raises:
            SelfExplainError: the file is missing or damaged.
        """
        return DatasetStatistics.read(self.statistics_path)

    def out_of_distribution(self) -> list[str]:
        """Names of the out-of-distribution test sets; empty if there are no statistics."""
        return list(self.statistics().out_of_distribution) if self.statistics_path.is_file() else []

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256 of every parquet file."""
        return {path.name: file_sha256(path) for path in sorted(self.root.glob("*.parquet"))}

    def is_complete(self, inputs: str | None = None) -> bool:
        """Whether no parquet file was added, removed or modified after the dataset was built.

        Args:
            inputs: hash that the manifest must name as well; None for any.
        """
        try:
            manifest = DatasetManifest.read(self.manifest_path)
        except SelfExplainError:  # missing, damaged, or from a newer version: the dataset has to be built again
            return False
        return inputs in (None, manifest.inputs) and manifest.files == self.hashes()
