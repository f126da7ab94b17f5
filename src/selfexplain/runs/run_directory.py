"""Paths and readers of the files of a run. All other modules get the paths from here."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.dataset_directory import DatasetDirectory
from selfexplain.utils.names import check_relative_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selfexplain.evaluation.predictions import Prediction
    from selfexplain.evaluation.results import Comparison, Results
    from selfexplain.runs.manifest import RunManifest
    from selfexplain.runs.recipe import Recipe

_CONTENTS = {
    "results_path": "all scores with their intervals, controls and baselines",
    "summary_figure": "the main scores as a figure",
    "privileged_access_figure": "how well each model explains itself and the other models",
    "data_efficiency_figure": "scores against the number of training rows",
    "comparison": "explainers and answers of the comparison",
    "predictions": "every test row with the answers of all systems",
    "cards": "the model card and the dataset cards",
    "datasets": "the ground truth; load_dataset reads each directory",
    "explainer": "the trained explainer; SelfExplainerForCausalLM.from_pretrained reads it",
    "without_vectors": "the same explainer, trained on the same rows without their vectors, as a baseline",
    "weights": "the embedded models; copy them to src/selfexplain/tiny/weights to ship them",
    "replies": "cached replies of the chat model, so that no request is sent twice",
    "recipe_path": "the recipe with all defaults filled in",
    "manifest_path": "the steps that ran, with seed, versions and durations",
}


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run and typed readers of the files there.

    Raises (all readers):
        SelfExplainError: the file is missing or damaged, or a newer version of selfexplain wrote it.
    """

    root: Path

    @property
    def manifest_path(self) -> Path:
        """Which run this is and which steps are done (`runs.manifest`)."""
        return self.root / "manifest.json"

    @property
    def lock_path(self) -> Path:
        """The file that the operating system locks while a process changes the run (`runs.lock`)."""
        return self.root / ".lock"

    @property
    def lock_holder_path(self) -> Path:
        """Which process that is."""
        return self.root / "lock.json"

    @property
    def recipe_path(self) -> Path:
        """The recipe with every default filled in."""
        return self.root / "recipe.yaml"

    @property
    def results_path(self) -> Path:
        return self.root / "results.json"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def explainer(self) -> Path:
        return self.root / "explainer"

    @property
    def without_vectors(self) -> Path:
        """The baseline that is trained on the same rows without their vectors."""
        return self.root / "without_vectors"

    @property
    def explainer_without_vectors(self) -> Path:
        return self.without_vectors / "explainer"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def summary_figure(self) -> Path:
        return self.figures / "summary.png"

    @property
    def privileged_access_figure(self) -> Path:
        """Figure of a comparison: scores of models that explain themselves or each other."""
        return self.figures / "privileged_access.png"

    @property
    def data_efficiency_figure(self) -> Path:
        """Figure of a comparison: scores against the number of training rows."""
        return self.figures / "data_efficiency.png"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    @property
    def answer_cache(self) -> Path:
        """Answers of an unfinished evaluation; deleted when it finishes."""
        return self.predictions / "cache"

    @property
    def cards(self) -> Path:
        return self.root / "cards"

    @property
    def comparison(self) -> Path:
        """Explainers, answers and datasets of the comparison."""
        return self.root / "comparison"

    @property
    def comparison_path(self) -> Path:
        return self.root / "comparison.json"

    @property
    def replies(self) -> Path:
        """Cached replies of a chat model."""
        return self.root / "replies.sqlite"

    @property
    def weights(self) -> Path:
        """The embedded models that a recipe of kind `tiny_target` trains."""
        return self.root / "weights"

    def dataset(self, task: str) -> DatasetDirectory:
        return DatasetDirectory(self.datasets / task)

    def other_model(self, name: str) -> "RunDirectory":
        """Where the comparison keeps the ground truth about another model, laid out like a run."""
        return RunDirectory(self.comparison / name)

    def compared_explainer(self, cell: str) -> Path:
        """The explainer of one cell of the comparison (`pipeline.comparison.Cell.name`)."""
        return self.comparison / cell / "explainer"

    def compared_answers(self, cell: str) -> Path:
        """Directory with the answers of one cell of the comparison, one file per task."""
        return self.comparison / cell / "answers"

    def predictions_path(self, section: str) -> Path:
        """Predictions of a task, or of `<task>/<out-of-distribution test set>`."""
        return self.predictions / f"{section}.jsonl"

    def relative(self, path: Path) -> str:
        """A path of this run as steps and manifests name it."""
        return path.relative_to(self.root).as_posix()

    def file(self, name: str) -> Path:
        """The path of a file that a step or a manifest names.

        Raises:
            SelfExplainError: the name is not a relative path, or it or a directory on the way is a symbolic link. The
                run directory itself may be a link.
        """
        path = self.root / check_relative_path(name)
        if os.path.realpath(path) != os.path.join(os.path.realpath(self.root), name):
            raise SelfExplainError(
                f"{path} is a symbolic link or is reached through one. Replace the link by its files."
            )
        return path

    def delete_leftovers(self) -> None:
        """Delete temporary files of an interrupted process; the lock of the run must be held."""
        for pattern in ("*.tmp", "*.partial"):
            for path in self.root.rglob(pattern):
                if path.is_file() or path.is_symlink():
                    path.unlink(missing_ok=True)

    def check_links(self) -> None:
        """Check that no symbolic link in the directory leads out of it, so that no step reads or writes other files.

        Raises:
            SelfExplainError: there is such a link.
        """
        root = Path(os.path.realpath(self.root))
        for directory, directories, files in os.walk(root):
            for entry in (Path(directory, name) for name in (*directories, *files)):
                if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
                    raise SelfExplainError(
                        f"{entry} is a symbolic link to {os.readlink(entry)}, which is outside of the run directory. "
                        "Replace the link by its files, or delete it."
                    )

    def contents(self) -> dict[Path, str]:
        """The files and directories of the run that exist -> one line about each."""
        paths = {getattr(self, name): line for name, line in _CONTENTS.items()}
        return {path: line for path, line in paths.items() if path.exists()}

    @property
    def is_empty(self) -> bool:
        """Whether there are no files but those that a process leaves if it is interrupted before the first step."""
        unfinished = {self.lock_path, self.lock_holder_path}
        return all(path in unfinished or path.suffix == ".tmp" for path in self.root.iterdir())

    @property
    def is_run(self) -> bool:
        return self.manifest_path.is_file()

    @property
    def has_explainer(self) -> bool:
        return (self.explainer / "config.json").is_file()

    def read_recipe(self) -> "Recipe":
        from selfexplain.runs.recipe import read_resolved

        return read_resolved(self.recipe_path)

    def read_manifest(self) -> "RunManifest":
        from selfexplain.runs.manifest import RunManifest

        return RunManifest.read(self.manifest_path)

    def read_results(self) -> "Results":
        from selfexplain.evaluation.results import Results

        return Results.read(self.results_path)

    def read_comparison(self) -> "Comparison":
        from selfexplain.evaluation.results import Comparison

        return Comparison.read(self.comparison_path)

    def read_predictions(self, section: str) -> "Iterator[Prediction]":
        from selfexplain.evaluation.predictions import read_predictions

        return read_predictions(self.predictions_path(section))
