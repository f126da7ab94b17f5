"""Refuse to publish unfinished runs, secrets, local paths, and files that the Hub does not accept."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.results import Results
from selfexplain.publishing.facts import DatasetFacts
from selfexplain.publishing.names import Names, configuration
from selfexplain.publishing.public_names import LOCAL_PATH, NAMING_COLUMNS, TEXT_SUFFIXES, strings_in
from selfexplain.publishing.repositories import PublishedFile, PublishedRepository
from selfexplain.publishing.secret_scan import find_secret, find_secret_in_text
from selfexplain.runs.lock import check_unused
from selfexplain.runs.manifest import RunManifest
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.parsing import parse_json, parse_yaml

MAX_FILE_BYTES = 50 * 10**9
MAX_FILES_IN_DIRECTORY = 10_000
"""Limits of the Hub, from hub/storage-limits in its documentation."""

_REPOSITORY_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?")
_ORGANISATION = re.compile(r"\w(?:[\w-]*\w)?")
_MAY_LOOK_LIKE_PATHS = (
    "tokenizer.json", "tokenizer_config.json", "injection_check.json", "card.json", "statistics.json",
)  # fmt: skip
"""Files with text that a model read or wrote, in which a word that looks like a path is not one."""

_RUN_AGAIN = "Run the recipe again (finished steps are kept), then publish"


def check_organisation(org: str) -> None:
    """Raise SelfExplainError if the name cannot belong to an organisation or user of the Hub."""
    if not _ORGANISATION.fullmatch(org):
        raise SelfExplainError(
            f"--org is {org!r}, expected the name of an organisation or user on the Hub, such as my-lab."
        )


def check_finished(run: RunDirectory) -> Recipe:
    """Check that every step of a run is done and that its files are the ones that the manifest lists.

    Returns:
        The recipe of the run.

    Raises:
        SelfExplainError: the run is in use, not finished or trusts code of its models, or its files do not belong
            together; the message says what to do.
    """
    if not run.is_run:
        raise SelfExplainError(
            f"{run.root} is not a run, because manifest.json is missing. Give the directory of a finished run."
        )
    check_unused(run.root)
    recipe, manifest = run.read_recipe(), run.read_manifest()
    if recipe.trust_remote_code:
        raise SelfExplainError(
            f"{run.root} was run with trust_remote_code=true, so others could load its models only by running the code "
            "in their repositories. Such a run is not published. Run the recipe with models that need no code."
        )
    _check_steps(run, recipe, manifest)
    _check_sizes(run, manifest)
    _check_scores(run, recipe)
    _check_row_counts(run, recipe)
    return recipe


def _check_steps(run: RunDirectory, recipe: Recipe, manifest: RunManifest) -> None:
    steps = manifest.steps
    required = [*(f"dataset/{task}" for task in recipe.tasks), "evaluate", "card"]
    not_done = [name for name in dict.fromkeys([*required, *steps]) if name not in steps or not steps[name].is_done]
    if not_done:
        raise SelfExplainError(f"{run.root} is not finished: {', '.join(not_done)} not done. {_RUN_AGAIN}.")
    if "train" not in steps:
        raise SelfExplainError(
            f"{run.root} evaluated {manifest.identity['explainer']!r} and did not train an explainer. Publish the run "
            "that trained it."
        )


def _check_sizes(run: RunDirectory, manifest: RunManifest) -> None:
    for step in manifest.steps.values():
        for name, written in step.outputs.items():
            path = run.root / name
            size = path.stat().st_size if path.is_file() else 0
            if size != written:
                problem = "It was deleted or truncated" if size < written else "It was changed: restore or delete it"
                raise SelfExplainError(
                    f"{path} has {size:,} bytes, but the run wrote {written:,}. {problem}. {_RUN_AGAIN}."
                )


def _check_scores(run: RunDirectory, recipe: Recipe) -> None:
    results = run.read_results()
    for task in recipe.tasks:
        if task not in results.tasks or "explainer" not in results.tasks[task].scores:
            raise SelfExplainError(
                f"{run.results_path} has no scores of {task}. Run the recipe again to evaluate that task."
            )


def _check_row_counts(run: RunDirectory, recipe: Recipe) -> None:
    import pyarrow.parquet as pq

    for task in recipe.tasks:
        dataset = run.dataset(task)
        for split, size in dataset.statistics().splits.items():
            path = dataset.rows(split)
            rows = pq.read_metadata(path).num_rows
            if rows != size.rows:
                raise SelfExplainError(f"{path} has {rows} rows, but its statistics count {size.rows}. {_RUN_AGAIN}.")


def check_replaced(recipe: Recipe, names: Names, earlier: Mapping[str, Path]) -> None:
    """Check that no other run was published in the same places.

    Args:
        recipe: the recipe of the run to publish, with public names.
        names: repository ids.
        earlier: dataset repository -> local directory with the small files that earlier runs published there.

    Raises:
        SelfExplainError: another run's rows about the same target, or another run's results for a recipe of the same
            name, are published already.
    """
    run: dict[str, str | int] = {
        "recipe": recipe.name,
        "target": recipe.target,
        "explainer": recipe.explainer or recipe.target,
        "seed": recipe.seed,
    }
    for task in recipe.tasks:
        path = earlier.get(names.dataset(task), Path()) / configuration(recipe.target) / "card.json"
        if path.is_file():
            published = DatasetFacts.read(path).recipe.run
            _check_same_run(run, published, names.dataset(task), path.parent.name, "publish to a different --org")
    path = earlier.get(names.results, Path()) / recipe.name / "results.json"
    if path.is_file():
        published = _run_of_results(Results.read(path))
        _check_same_run(run, published, names.results, path.parent.name, "change `name` in the recipe")


def _run_of_results(results: Results) -> dict[str, str | int]:
    return {
        "recipe": results.recipe,
        "target": results.target.name,
        "explainer": results.explainer.name,
        "seed": results.environment.seed,
    }


def _check_same_run(
    run: Mapping[str, str | int], published: Mapping[str, str | int], repository: str, directory: str, alternative: str
) -> None:
    differing = ", ".join(f"{key} {value}" for key, value in published.items() if value != run[key])
    if differing:
        raise SelfExplainError(
            f"{repository} already contains {directory} from a different run ({differing}), which this run would "
            f"replace. To replace it, add --replace; otherwise {alternative}."
        )


def check_repositories(repositories: Sequence[PublishedRepository], run: RunDirectory, copy: RunDirectory) -> None:
    """Check names, sizes and contents of everything that would be published.

    Args:
        repositories: what would be published.
        run: the run; errors name its files.
        copy: the copy of the run with public names that files were taken from.

    Raises:
        SelfExplainError: for the first problem; the message says what to change.
    """
    for repository in repositories:
        check_limits(repository)
    files = [file for repository in repositories for file in repository.files]
    for file in files:
        if file.source.suffix == ".parquet":
            check_rows(file)
    # Files of the run come first, because those that were written for publishing derive from them.
    for file in sorted(files, key=lambda file: not file.origin.is_relative_to(copy.root)):
        in_run = file.origin.is_relative_to(copy.root)
        reported = run.root / file.origin.relative_to(copy.root) if in_run else file.source
        check_secrets(file, reported)
        if file.source.suffix in TEXT_SUFFIXES:
            check_text(file, reported)


def check_limits(repository: PublishedRepository) -> None:
    """Raise SelfExplainError if the Hub would reject the repository's name, a file or a directory."""
    name = repository.id.rpartition("/")[2]
    if not _REPOSITORY_NAME.fullmatch(name) or "--" in name or ".." in name:
        raise SelfExplainError(
            f"{repository.id} is not a valid repository id: a name has at most 96 letters, digits, '-', '_' and '.'. "
            "Change `name` in the recipe."
        )
    n_files: dict[str, int] = {}
    for file in repository.files:
        directory = file.path.rpartition("/")[0]
        n_files[directory] = n_files.get(directory, 0) + 1
        if file.size > MAX_FILE_BYTES:
            raise SelfExplainError(
                f"{file.source} has {file.size / 1e9:.0f} GB, but the Hub accepts at most "
                f"{MAX_FILE_BYTES / 1e9:.0f} GB per file. Save it in smaller shards."
            )
    crowded = [directory or "the root" for directory, n in n_files.items() if n > MAX_FILES_IN_DIRECTORY]
    if crowded:
        raise SelfExplainError(
            f"{repository.id}: {crowded[0]} contains more than {MAX_FILES_IN_DIRECTORY:,} files, the maximum that the "
            "Hub accepts per directory. Use larger shards."
        )


def check_secrets(file: PublishedFile, reported: Path) -> None:
    """Raise SelfExplainError if a file or its name contains an access token or a private key.

    Args:
        file: the file.
        reported: path that the error names.
    """
    if what := find_secret_in_text(file.path) or find_secret_in_text(reported.name):
        raise SelfExplainError(
            f"The name of a published file or directory contains {what}. Rename it, and revoke the secret if "
            "anyone else has seen it."
        )
    if secret := find_secret(file.source):
        place = f" ({secret.place})" if secret.place and not find_secret_in_text(secret.place) else ""
        raise SelfExplainError(
            f"{reported} contains {secret.what}{place}. Remove it there, and revoke it if anyone else has seen the "
            "file."
        )


def check_text(file: PublishedFile, reported: Path) -> None:
    """Raise SelfExplainError if a text file contains a path of this machine.

    Args:
        file: the file.
        reported: path that the error names.
    """
    text = file.source.read_text(encoding="utf-8", errors="replace")
    path = None
    if file.source.suffix in (".json", ".yaml") and not file.path.endswith(_MAY_LOOK_LIKE_PATHS):
        path = _first_local_path(strings_in(_parse(file.source, text)))
    elif file.source.suffix in (".md", ".py"):
        here = [str(path) for path in (Path.cwd(), Path.home()) if path.name]  # every link contains "/"
        path = next((path for path in here if re.search(rf"(?<![\w.:/-]){re.escape(path)}/", text)), None)
    if path is not None:
        raise SelfExplainError(
            f"{reported} contains {path}, a path on this machine that is useless to others. Run the recipe again with "
            "the current version of selfexplain, or correct that file."
        )


def check_rows(file: PublishedFile) -> None:
    """Raise SelfExplainError if rows of a parquet file name a path of this machine."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = [name for name in NAMING_COLUMNS if name in pq.read_schema(file.source).names]
    rows = pq.read_table(file.source, columns=columns)
    path = _first_local_path(value for column in rows.columns for value in pc.unique(column).to_pylist())
    if path is not None:
        raise SelfExplainError(
            f"Rows of {file.path} contain {path}, a path on this machine that is useless to others. Build the dataset "
            "again from the place that the recipe names."
        )


def _first_local_path(values: Iterable[str]) -> str | None:
    words = (word.strip("'\"`(),;:") for value in values for word in value.split())
    return next((word for word in words if LOCAL_PATH.fullmatch(word)), None)


def _parse(path: Path, text: str) -> Any:
    return parse_json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))
