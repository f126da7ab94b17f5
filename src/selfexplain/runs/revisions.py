"""Which commit of every model, dataset and dictionary of the Hub a run is about: looked up at its first start, then
kept."""

import json
import logging
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfexplain import bundled
from selfexplain.runs.recipe import Recipe

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def pin(recipe: Recipe, run_dir: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe with a commit where it names a branch, a tag or nothing; and `<kind> <id>@<revision>` -> commit of
    these.

    What the manifest of an earlier start says goes before what the Hub says now. A release of SAEs is read by sae-lens,
    which takes no commit: that it has moved since is told by a warning. What an earlier start wrote down of exports
    (`neuronpedia <source>` -> SHA-256) is kept.
    """
    from selfexplain.bundled import TINY_WORLD

    known: dict[str, str] = {}
    with suppress(OSError, ValueError, AttributeError):  # a corrupt manifest is told when the run is opened
        known = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8")).get("revisions", {})
    found = {key: value for key, value in known.items() if key.startswith("neuronpedia ")}

    def resolve(kind: str, name: str | None, revision: str | None) -> str | None:
        if name is None or name in (TINY_WORLD, *bundled.NAMES):
            return revision
        if Path(name).expanduser().exists() or not HUB_ID.fullmatch(name):
            return revision  # no dataset or model of the Hub
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        key = f"{kind} {name}@{revision or 'main'}"
        commit = known.get(key) or _commit(kind, name, revision or "main")
        if commit is not None:
            found[key] = commit
        return commit or revision

    def pinned(table: Any) -> Any:
        return replace(table, revision=resolve("dataset", table.path, table.revision))

    features = recipe.feature_description
    if "feature_description" in recipe.tasks and features.saes and not Path(features.saes).expanduser().exists():
        repository = _repository(features.saes)
        key, now = f"saes {repository}@main", _commit("model", repository, "main")
        if key in known and now not in (None, known[key]):
            logger.warning("%s has moved from %s to %s since this run began", repository, known[key], now)
        if commit := known.get(key) or now:
            found[key] = commit
    texts, compared = recipe.corpus_options, recipe.comparison
    named = zip(compared.models, compared.revisions or [None] * len(compared.models), strict=True)
    commits = tuple(resolve("model", *model) for model in named)
    return replace(
        recipe,
        target_revision=resolve("model", recipe.target, recipe.target_revision),
        explainer_revision=resolve("model", recipe.explainer, recipe.explainer_revision),
        corpus_options=replace(texts, revision=resolve("dataset", recipe.corpus, texts.revision)),
        comparison=replace(compared, revisions=commits if any(commits) else ()),
        feature_description=replace(features, pairs=pinned(features.pairs)),
        activation_patching=replace(recipe.activation_patching, source=pinned(recipe.activation_patching.source)),
        input_ablation=replace(recipe.input_ablation, source=pinned(recipe.input_ablation.source)),
    ), found


def _repository(release: str) -> str:
    """The repository of the Hub that a release of sae-lens lies in."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory().get(release)
    return known.repo_id if known else release


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
