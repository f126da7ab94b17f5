"""Which commit of every model and dataset of the Hub a run is about: looked up at its first start, then kept."""

import json
import logging
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfexplain import tiny
from selfexplain.recipes.recipe import Recipe

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def pin(recipe: Recipe, run_dir: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe with a commit where it names a branch, a tag or nothing; and `<id>@<revision>` -> commit of these.

    What the manifest of an earlier start says goes before what the Hub says now.
    """
    from selfexplain.groundtruth.sources import TINY_WORLD

    known: dict[str, str] = {}
    with suppress(OSError, ValueError, AttributeError):  # a corrupt manifest is told when the run is opened
        known = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8")).get("revisions", {})
    found: dict[str, str] = {}

    def resolve(kind: str, name: str | None, revision: str | None) -> str | None:
        if name is None or name in (TINY_WORLD, *tiny.NAMES):
            return revision
        if Path(name).expanduser().exists() or not _HUB_ID.fullmatch(name):
            return revision  # no dataset or model of the Hub
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        key = f"{name}@{revision or 'main'}"
        commit = known.get(key) or _commit(kind, name, revision or "main")
        if commit is not None:
            found[key] = commit
        return commit or revision

    def pinned(table: Any) -> Any:
        return replace(table, revision=resolve("dataset", table.path, table.revision))

    texts, compared = recipe.corpus_options, recipe.comparison
    named = zip(compared.models, compared.revisions or [None] * len(compared.models), strict=True)
    commits = tuple(resolve("model", *model) for model in named)
    return replace(
        recipe,
        target_revision=resolve("model", recipe.target, recipe.target_revision),
        explainer_revision=resolve("model", recipe.explainer, recipe.explainer_revision),
        corpus_options=replace(texts, revision=resolve("dataset", recipe.corpus, texts.revision)),
        comparison=replace(compared, revisions=commits if any(commits) else ()),
        feature_description=replace(recipe.feature_description, pairs=pinned(recipe.feature_description.pairs)),
        activation_patching=replace(recipe.activation_patching, source=pinned(recipe.activation_patching.source)),
        input_ablation=replace(recipe.input_ablation, source=pinned(recipe.input_ablation.source)),
    ), found


def _commit(kind: str, name: str, revision: str) -> str | None:
    """The commit that a branch is at, by the Hub or, without a network, by the cache; None where neither knows it."""
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
