"""Push a publishing plan to the Hub, with one commit per repository. Pushing again changes nothing."""

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.checks import check_finished
from selfexplain.publishing.hub_calls import call_hub, report_errors, repository_state, token_for
from selfexplain.publishing.hub_checks import check_name, check_rights
from selfexplain.publishing.licences import base_licence, source_licences
from selfexplain.publishing.names import Names
from selfexplain.publishing.plan import PlanOptions, make_plan
from selfexplain.publishing.public_names import base_of
from selfexplain.publishing.repositories import PublishedFile, PublishedRepository, PublishingPlan
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.temporary import temporary_directory
from selfexplain.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

SPACE_VARIABLE = "SELFEXPLAIN_EXPLAINER"
"""Environment variable that gives the Space the explainer's id."""

STAGING = "selfexplain-publish-"
"""Beginning of the name of the temporary directory with the files that are written for publishing."""

MAX_DESCRIPTION = 150
"""Longest description of a collection, in characters."""


@dataclass(frozen=True)
class Options:
    """How a run is published.

    Attributes:
        full: whether to merge the trained weights into the base instead of naming the base.
        private: whether to make new repositories private.
        revision: branch to commit to; None for main.
        create_pr: whether to open a pull request in each repository instead of committing.
        base: id on the Hub of a base that the run read from a directory.
        replace: whether to replace another run that was published under the same names.
        metrics: whether to publish the metrics as metric repositories as well.

    Raises:
        SelfExplainError: both `revision` and `create_pr` are set.
    """

    full: bool = False
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    base: str | None = None
    replace: bool = False
    metrics: bool = False

    def __post_init__(self) -> None:
        if self.revision is not None and self.create_pr:
            raise SelfExplainError(
                "--revision and --create-pr were both given, but a pull request is always against main. Omit one."
            )


@dataclass(frozen=True)
class Published:
    """A repository or collection after publishing.

    Attributes:
        kind: "collection" or the kind of repository, for the list that the command prints.
        id: repository id, or slug of the collection.
        url: its address.
        changed: whether this call changed it.
    """

    kind: str
    id: str
    url: str
    changed: bool


@contextmanager
def plan_only(run_dir: Path, org: str, options: Options, space: Path | None) -> Iterator[PublishingPlan]:
    """Plan what `publish` would push, without a request to the Hub. Staged files exist only inside the block."""
    with temporary_directory(STAGING) as staging:
        known = PlanOptions(full=options.full, base=options.base, space=space, metrics=options.metrics)
        yield make_plan(run_dir, org, staging, known)


def publish(run_dir: Path, org: str, options: Options, space: Path | None) -> list[Published]:
    """Push a finished run: datasets, results, model, Space, metrics, and a collection of all of them.

    Each repository is compared with its intended content and gets one commit if they differ. A failed call is repeated
    from that comparison on, and large files that have arrived are not sent twice. The run directory is not changed.

    Args:
        run_dir: directory of the run.
        org: organisation or user on the Hub.
        options: how to publish.
        space: directory with the files of the demo Space; None to publish no Space.

    Returns:
        The repositories in the order of pushing, then the collection.

    Raises:
        SelfExplainError: the run cannot be published (see `make_plan`), or the Hub refuses; the message says what to
            do.
    """
    from huggingface_hub import HfApi

    run = RunDirectory(Path(run_dir))
    recipe = check_finished(run)
    api = HfApi(library_name="selfexplain", library_version=__version__)
    with report_errors(api, org), temporary_directory(STAGING) as staging:
        may_create = check_rights(api, org, options.create_pr)
        known = PlanOptions(
            full=options.full,
            base=options.base,
            licence=base_licence(api, options.base or base_of(run), options.full),
            licences=source_licences(api, recipe),
            space=space,
            earlier=_download_earlier(api, recipe, Names(org), options.revision, staging / "earlier"),
            replace=options.replace,
            metrics=options.metrics,
        )
        plan = make_plan(run.root, org, staging, known)
        for repository in plan.repositories:
            check_name(api, repository, options.private)
        published = [_push(api, repository, options, may_create) for repository in plan.repositories]
        if options.revision is None and not options.create_pr:  # the Space shows what main contains
            _set_space_variable(api, plan)
        if options.create_pr:
            logger.info(
                "The collection was not changed: the repositories are empty until the pull requests are merged."
            )
        elif may_create:
            published.append(_collect(api, plan, options.private))
        else:
            logger.warning("The collection was not created, because this login may not create anything in %s.", org)
    return published


def _download_earlier(
    api: "HfApi", recipe: Recipe, names: Names, revision: str | None, directory: Path
) -> dict[str, Path]:
    """Download the facts and results that other runs published in shared repositories, for the cards of those."""
    earlier = {}
    for shared in [*map(names.dataset, recipe.tasks), names.results]:
        with token_for("dataset", shared):
            # A branch that does not exist yet will start from main.
            branch = revision if revision and call_hub(repository_state, shared, api, "dataset", revision) else None
            if call_hub(repository_state, shared, api, "dataset", branch) is not None:
                earlier[shared] = directory / shared
                call_hub(
                    api.snapshot_download,
                    shared,
                    repo_type="dataset",
                    revision=branch,
                    allow_patterns=["*/card.json", "*/results.json"],
                    local_dir=earlier[shared],
                )
    return earlier


def _push(api: "HfApi", repository: PublishedRepository, options: Options, may_create: bool) -> Published:
    """Give a repository its intended content, with at most one commit."""
    kind, name = repository.kind, repository.id
    message = f"Publish with selfexplain {__version__}"
    revision = options.revision
    with token_for(kind, name):
        if may_create:
            sdk = {"space_sdk": "gradio"} if kind == "space" else {}
            call_hub(api.create_repo, name, repo_type=kind, private=options.private, exist_ok=True, **sdk)
        if options.revision is not None:
            call_hub(api.create_branch, name, branch=options.revision, repo_type=kind, exist_ok=True)
        if options.create_pr:
            revision = call_hub(_open_pull_request, name, api, kind, message)
        opens_pr = options.create_pr and revision is None
        changed = call_hub(_commit, name, api, repository, message, revision, opens_pr)
    logger.info("%s: %s", name, "published" if changed else "unchanged")
    return Published(repository.title, name, f"{api.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}", changed)


def _commit(
    name: str, api: "HfApi", repository: PublishedRepository, message: str, revision: str | None, create_pr: bool
) -> bool:
    """Compare a repository with its intended content, and commit the differences.

    Returns:
        Whether there was a difference.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    state: Any = api.repo_info(name, repo_type=repository.kind, revision=revision, files_metadata=True)
    changed = [file for file in repository.files if not _is_published(file, state)]
    intended = {file.path for file in repository.files}
    published = [sibling.rfilename for sibling in state.siblings or ()]
    deleted = [path for path in published if repository.owns(path) and path not in intended]
    if not changed and not deleted:
        return False
    logger.info("%s: sending %d files, deleting %d", name, len(changed), len(deleted))
    with _quiet_uploads():
        api.create_commit(
            name,
            [
                *(CommitOperationAdd(file.path, str(file.source)) for file in changed),
                *(CommitOperationDelete(path, is_folder=False) for path in deleted),
            ],
            commit_message=message,
            repo_type=repository.kind,
            revision=revision,
            parent_commit=state.sha,
            create_pr=create_pr,
        )
    return True


@contextmanager
def _quiet_uploads() -> Iterator[None]:
    """Hide two warnings of huggingface_hub: about the rows in the demo Space, and about its own use of httpx."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
        warnings.filterwarnings("ignore", "Use 'content=<...>' to upload raw bytes/text content", DeprecationWarning)
        yield


def _open_pull_request(name: str, api: "HfApi", kind: str, title: str) -> str | None:
    """Git reference of an open pull request from an earlier call, which is updated instead of opening a second one."""
    requests = api.get_repo_discussions(name, repo_type=kind, discussion_type="pull_request", discussion_status="open")
    return next((request.git_reference for request in requests if request.title == title), None)


def _is_published(file: PublishedFile, state: Any) -> bool:
    """Whether the repository has the same file, compared by size and hash."""
    remote = next((sibling for sibling in state.siblings if sibling.rfilename == file.path), None)
    if remote is None or remote.size != file.size:
        return False
    if remote.lfs is not None:
        with file.source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == remote.lfs.sha256
    content = file.source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id  # git's hash


def _set_space_variable(api: "HfApi", plan: PublishingPlan) -> None:
    """Give the demo Space, if it was published, the explainer's id."""
    space, model = plan.names.space(plan.recipe.name), plan.names.model(plan.recipe.name)
    if not any(repository.id == space for repository in plan.repositories if repository.kind == "space"):
        return
    with token_for("space", space):
        variables = call_hub(api.get_space_variables, space)
        if SPACE_VARIABLE not in variables or variables[SPACE_VARIABLE].value != model:
            call_hub(api.add_space_variable, space, SPACE_VARIABLE, model)


def _list_collections(org: str, api: "HfApi") -> list[Any]:
    return list(api.list_collections(owner=org))


def _collect(api: "HfApi", plan: PublishingPlan, private: bool) -> Published:
    """Create or complete the collection of all repositories of a run. An existing one is recognised by its title."""
    title, org = plan.names.collection(plan.recipe.name), plan.names.org
    collections = call_hub(_list_collections, org, api)
    slug = next((collection.slug for collection in collections if collection.title == title), None)
    if slug is None:
        description = f"A model that explains the computations of {plan.recipe.target}: weights, data, results."
        collection = call_hub(
            api.create_collection,
            title,
            namespace=org,
            description=description[:MAX_DESCRIPTION],
            private=private,
            exists_ok=True,
        )
    else:
        collection = call_hub(api.get_collection, slug)
    present = {(item.item_type, item.item_id) for item in collection.items}
    missing = [part for part in plan.repositories if (part.kind, part.id) not in present]
    for part in missing:
        call_hub(api.add_collection_item, collection.slug, part.id, part.kind, exists_ok=True)
    return Published("collection", collection.slug, collection.url, slug is None or bool(missing))
