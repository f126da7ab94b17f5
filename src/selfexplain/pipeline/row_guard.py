"""Detect that the rows of a run change between training and evaluation."""

from collections.abc import Iterable, Mapping

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.runs.revisions import ROWS
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.hashing import fingerprint


class RowGuard:
    """Compares the rows of a run's datasets each time that a step reads them or is about to write scores.

    Args:
        run: the run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._known: dict[str, str] = {}

    def start(self, datasets: Iterable[DatasetDirectory]) -> dict[str, str]:
        """Remember the rows on which training starts.

        Returns:
            `rows <directory>` -> SHA-256 of the rows there, for `RunManifest.revisions`.
        """
        hashes = self._hashes(datasets)
        self._known |= hashes
        return hashes

    def expect(self, revisions: Mapping[str, str]) -> None:
        """Remember the rows of a training in an earlier process, from the manifest."""
        for key, value in revisions.items():
            if key.startswith(ROWS):
                self._known.setdefault(key, value)

    def check(self, datasets: Iterable[DatasetDirectory]) -> None:
        """Check that rows are the ones that an explainer was trained on; rows that were never seen are remembered.

        Raises:
            SelfExplainError: they are different rows.
        """
        for key, value in self._hashes(datasets).items():
            if self._known.setdefault(key, value) != value:
                place = self._run.root / key.removeprefix(ROWS)
                raise SelfExplainError(
                    f"The rows in {place} were changed after the explainer was trained, so it may be scored on rows "
                    f"that it was trained on. No scores were written. Delete {self._run.explainer} and run the recipe "
                    "again to train on the present rows."
                )

    def _hashes(self, datasets: Iterable[DatasetDirectory]) -> dict[str, str]:
        return {f"{ROWS}{self._run.relative(one.root)}": fingerprint(one.hashes()) for one in datasets}
