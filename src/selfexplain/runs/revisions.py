"""Pin the models, datasets and SAE releases of a run to the commits on the Hub that its first start found."""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import FeatureConfig, TableConfig
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.runs.settings import tables, with_tables
from selfexplain.target.gguf import read_origin
from selfexplain.utils.names import is_hub_id, is_reserved, local_path

logger = logging.getLogger(__name__)

NEURONPEDIA = "neuronpedia "
ROWS = "rows "
"""Beginnings of keys of `RunManifest.revisions` that steps add."""
WEIGHTS = "weights "
"""Beginning of the keys that say how a model directory was converted."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

Table = TypeVar("Table", bound=TableConfig)


def pin(recipe: Recipe, run_dir: Path) -> tuple[Recipe, dict[str, str]]:
    """Replace branches, tags and missing revisions of a recipe by commits.

    Commits in the manifest of an earlier start take precedence over the current ones on the Hub. sae-lens, which reads
    releases of SAEs, accepts no commit; if a release has moved since the first start, a warning is logged. SHA-256
    values of Neuronpedia exports (`neuronpedia <source>`) and of the rows that the explainer was trained on
    (`rows <directory>`) are kept from an earlier start.

    Returns:
        The recipe with commits, and `<kind> <id>@<revision>` -> commit (`RunManifest.revisions`).
    """
    run, known = RunDirectory(run_dir), {}
    with suppress(SelfExplainError):  # opening the run reports a damaged manifest
        known = dict(run.read_manifest().revisions) if run.is_run else {}
    pins = _Pins(known, {key: value for key, value in known.items() if key.startswith((NEURONPEDIA, ROWS))})
    _pin_saes(recipe, pins)
    corpus, compared = recipe.corpus_options, recipe.comparison
    models = zip(compared.models, compared.revisions or [None] * len(compared.models), strict=True)
    commits = tuple(pins.resolve("model", *model) for model in models)
    pinned = replace(
        recipe,
        target_revision=pins.resolve("model", recipe.target, recipe.target_revision),
        explainer_revision=pins.resolve("model", recipe.explainer, recipe.explainer_revision),
        corpus_options=replace(corpus, revision=pins.resolve("dataset", recipe.corpus, corpus.revision)),
        comparison=replace(compared, revisions=commits if any(commits) else ()),
    )
    for name in filter(None, {recipe.target, recipe.explainer, *compared.models}):
        if not is_reserved(name) and (origin := read_origin(name)):
            pins.commits[f"{WEIGHTS}{name}"] = f"{origin.summary}, SHA-256 {origin.sha256}"
    sections = {item.name: getattr(pinned, item.name) for item in fields(pinned)}
    for section, settings in sections.items():
        if is_dataclass(settings) and (named := tables(settings)):
            changed = {name: pins.table(table) for name, table in named.items()}
            pinned = replace(pinned, **{section: with_tables(settings, changed)})
    return pinned, pins.commits


@dataclass(frozen=True)
class _Pins:
    """Looks up commits and collects them.

    Attributes:
        known: revisions of an earlier start.
        commits: revisions of this start.
    """

    known: dict[str, str]
    commits: dict[str, str] = field(default_factory=dict)

    def resolve(self, kind: str, name: str | None, revision: str | None) -> str | None:
        """The commit of a model or dataset; the given revision if there is none or it cannot be looked up."""
        if name is None or is_reserved(name) or local_path(name).exists() or not is_hub_id(name):
            return revision
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        key = f"{kind} {name}@{revision or 'main'}"
        commit = self.known.get(key) or _commit(kind, name, revision or "main")
        if commit is not None:
            self.commits[key] = commit
        return commit or revision

    def table(self, table: Table) -> Table:
        return replace(table, revision=self.resolve("dataset", table.path, table.revision))


def _pin_saes(recipe: Recipe, pins: _Pins) -> None:
    """Record the commit of the repository that an SAE release is read from."""
    features = recipe.find_settings(FeatureConfig)
    if features is None or not features.saes or local_path(features.saes).exists():
        return
    repository = _repository(features.saes)
    key, current = f"saes {repository}@main", _commit("model", repository, "main")
    first = pins.known.get(key)
    if first and current not in (None, first):
        logger.warning("%s has moved from %s to %s since the first start of this run", repository, first, current)
    if commit := first or current:
        pins.commits[key] = commit


def _repository(release: str) -> str:
    """The Hub repository of a release of sae-lens."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory().get(release)
    return known.repo_id if known else release


def _commit(kind: str, name: str, revision: str) -> str | None:
    """The commit of a branch or tag, from the Hub or, without a network, from the cache; None if it is in neither."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.file_download import repo_folder_name

    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision).sha
    except (HTTPError, OfflineModeIsEnabled) as error:
        reference = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=kind), "refs", revision)
        if reference.is_file():
            return reference.read_text().strip()
        logger.warning("%s: its revision could not be looked up (%s)", name, type(error).__name__)
        return None
