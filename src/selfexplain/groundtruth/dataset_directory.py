"""The files of one dataset: their paths, and the records in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from selfexplain.groundtruth.statistics import DatasetStatistics
from selfexplain.utils.hashing import file_sha256
from selfexplain.utils.records import Record


class DatasetManifest(Record):
    """`manifest.json` of a dataset, written last: what it was made from and which files it consists of.

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
    """A directory with one task's rows."""

    root: Path

    @property
    def statistics_path(self) -> Path:
        return self.root / "statistics.json"

    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.json"

    @property
    def card(self) -> Path:
        return self.root / "README.md"

    @property
    def vectors(self) -> Path:
        """Vectors that rows refer to by index, where rows share them."""
        return self.root / "vectors.parquet"

    @property
    def saes(self) -> Path:
        """SAEs that were trained for this dataset."""
        return self.root / "saes"

    @property
    def work(self) -> Path:
        """Unfinished shards; deleted when the dataset is complete."""
        return self.root / ".work"

    def rows(self, name: str) -> Path:
        """The parquet file of a split or of an out-of-distribution test set."""
        return self.root / f"{name}.parquet"

    def statistics(self) -> DatasetStatistics:
        return DatasetStatistics.read(self.statistics_path)

    def out_of_distribution(self) -> list[str]:
        """Names of the out-of-distribution test sets; none where there are no statistics."""
        return list(self.statistics().out_of_distribution) if self.statistics_path.is_file() else []

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256 of every parquet file."""
        return {path.name: file_sha256(path) for path in sorted(self.root.glob("*.parquet"))}

    def is_complete(self, inputs: str | None = None) -> bool:
        """Whether every file is as it was written and, if `inputs` is given, was made from inputs with that hash."""
        if not self.manifest_path.is_file():
            return False
        manifest = DatasetManifest.read(self.manifest_path)
        return inputs in (None, manifest.inputs) and manifest.files == self.hashes()
