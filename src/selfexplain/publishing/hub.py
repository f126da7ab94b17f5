"""Push a plan to the Hub: idempotent, one commit a repository, through failures that pass."""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfexplain import __version__, bundled
from selfexplain.errors import SelfExplainError
from selfexplain.publishing.cards import TAG, Licence, read_recipe, source_of
from selfexplain.publishing.names import Names
from selfexplain.publishing.plan import File, Plan, Repository, base_of, check_finished, is_local, make_plan

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 6
FIRST_WAIT = 1.0
"""Seconds before the second try; doubled each time, and at least what the Hub asks for."""

TIMEOUT = 60.0
"""Seconds without a byte from the Hub until a call counts as failed; huggingface_hub itself waits for ever."""

SPACE_VARIABLE = "SELFEXPLAIN_EXPLAINER"
"""Names the explainer to the Space."""


@dataclass(frozen=True)
class Options:
    """How a run is published.

    Attributes:
        full: merge the trained weights into the base instead of naming it.
        private: make new repositories private.
        revision: the branch to commit to; None for main.
        create_pr: open a pull request in each repository instead.
        base: id on the Hub of a base that the run read from a directory.
        replace: take the place of another run that was published under the same name.
    """

    full: bool = False
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    base: str | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        if self.revision is not None and self.create_pr:
            raise SelfExplainError("--revision and --create-pr exclude each other: a pull request is against main.")


@dataclass(frozen=True)
class Published:
    kind: str
    id: str
    url: str
    changed: bool


@contextmanager
def plan_only(run_dir: Path, org: str, options: Options, space: Path | None) -> Iterator[Plan]:
    """What `publish` would push, without a word to the Hub; the staged files live as long as the context."""
    with tempfile.TemporaryDirectory(prefix="selfexplain-publish-") as staging:
        yield make_plan(run_dir, org, Path(staging), full=options.full, base=options.base, space=space)


def publish(run_dir: Path, org: str, options: Options, space: Path | None) -> list[Published]:
    """Push a finished run: datasets, results, model, Space, and a collection that holds them.

    Each repository is compared with what shall be in it, and gets one commit if they differ; a broken call is made
    again from that comparison on, and large files that arrived are not sent twice. The run directory is only read.

    Raises:
        SelfExplainError: the run is refused (see `make_plan`), or the Hub does; the message says what to do.
    """
    from huggingface_hub import HfApi

    check_finished(run_dir)
    api = HfApi(library_name="selfexplain", library_version=__version__)
    with errors_told(api, org), tempfile.TemporaryDirectory(prefix="selfexplain-publish-") as staging:
        may_create = _check_rights(api, org, options)
        base = options.base or base_of(run_dir)
        licence = None if is_local(base) or base in bundled.NAMES else _licence(api, base, options.full)
        licences = _licences(api, run_dir)
        plan = _plan(api, run_dir, org, options, Path(staging), space, licence, licences)
        for repository in plan.repositories:
            _check_name(api, repository, options)
        done = [_push(api, repository, options, may_create) for repository in plan.repositories]
        on_main = options.revision is None and not options.create_pr
        if space is not None and on_main:  # elsewhere the Space shows what main holds, and its README names the model
            _name_model_to_space(api, plan)
        if options.create_pr:
            logger.info("the collection stays as it is: nothing is in it before the pull requests are merged")
        elif may_create:
            done.append(_collect(api, plan, options.private))
        else:
            logger.warning("no collection: this needs the right to create in %s", org)
    return done


def _plan(
    api: "HfApi",
    run_dir: Path,
    org: str,
    options: Options,
    staging: Path,
    space: Path | None,
    licence: Licence | None,
    licences: Mapping[str, str],
) -> Plan:
    """Repositories that several runs share get a card about all of them: fetch what the others left."""
    names = Names(org)
    earlier = {}
    for shared in [*(names.dataset(task) for task in check_finished(run_dir)["tasks"]), names.results]:
        with _token_for("dataset", shared):
            # A branch that is not there yet will be made from the main one.
            branch = options.revision and _insist(_state, api, "dataset", shared, options.revision) and options.revision
            if _insist(_state, api, "dataset", shared, branch) is not None:
                earlier[shared] = staging / "earlier" / shared
                _insist(
                    api.snapshot_download,
                    shared,
                    repo_type="dataset",
                    revision=branch,
                    allow_patterns=["*/card.json", "*/results.json"],
                    local_dir=earlier[shared],
                )
    return make_plan(
        run_dir, org, staging,
        full=options.full, base=options.base, licence=licence, licences=licences, space=space, earlier=earlier,
        replace=options.replace,
    )  # fmt: skip


def _check_rights(api: "HfApi", org: str, options: Options) -> bool:
    """Whether repositories can be made; raises where nothing at all can be written.

    A token of Trusted Publishing is good for one existing repository at a time and knows no organisations.
    """
    if os.environ.get("HF_OIDC_RESOURCE"):
        return False
    who = _insist(api.whoami)
    roles = {who["name"]: "admin", **{entry["name"]: entry.get("roleInOrg") for entry in who.get("orgs", [])}}
    if options.create_pr:
        return roles.get(org) not in (None, "read")
    if org not in roles:
        raise SelfExplainError(
            f"--org {org}: {who['name']} is no member of it. Publish to one of {', '.join(roles)}, or ask to be let in."
        )
    if roles[org] == "read" or who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise SelfExplainError(
            f"--org {org}: this login may read there and not write. Use a token with write access "
            f"({api.endpoint}/settings/tokens), or ask for the role of a contributor."
        )
    return True


def _licence(api: "HfApi", base: str, full: bool) -> Licence | None:
    """The base's licence.

    Raises:
        SelfExplainError: the base is not on the Hub, or its weights, which the full form needs, are gated.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = _insist(api.model_info, base)
        if info.gated and full:
            _insist(api.auth_check, base)
    except GatedRepoError as error:
        raise SelfExplainError(
            f"the base {base} is gated and this login has no access to it. Accept its conditions on "
            f"{api.endpoint}/{base}, then publish again; the adapter form (without --full) needs no access."
        ) from error
    except RepositoryNotFoundError as error:
        raise SelfExplainError(
            f"the base {base} is not on the Hub, or is private. Give its id with --base ID if it is called otherwise "
            "there, or publish with --full, which needs no base."
        ) from error
    if info.gated:
        logger.info("the base %s is gated: whoever loads the explainer has to accept its conditions first", base)
    data: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
    fields = {key: data[key] for key in ("license", "license_name", "license_link") if isinstance(data.get(key), str)}
    return Licence(**fields) if "license" in fields else None


def _licences(api: "HfApi", run_dir: Path) -> dict[str, str]:
    """The licences of the target and of what the rows were made from, where they are on the Hub and name one."""
    from huggingface_hub.errors import RepositoryNotFoundError

    recipe = read_recipe(run_dir)
    sources = {source_of(recipe, task)[0]: "dataset" for task in recipe["tasks"]}
    found = {}
    for name, kind in {**sources, recipe["target"]: "model"}.items():
        if is_local(name) or name in (*bundled.NAMES, bundled.TINY_WORLD):
            continue
        try:
            info: Any = _insist(api.repo_info, name, repo_type=kind)
        except RepositoryNotFoundError:
            logger.warning("%s is not on the Hub, or is private: the cards do not tell its licence", name)
            continue
        licence = info.card_data.get("license") if info.card_data else None
        if licence:
            found[name] = licence if isinstance(licence, str) else ", ".join(licence)
    return found


def _check_name(api: "HfApi", repository: Repository, options: Options) -> None:
    """Raise SelfExplainError where the name holds something that this package did not publish."""
    from huggingface_hub import RepoCard

    with _token_for(repository.kind, repository.id):
        state = _insist(_state, api, repository.kind, repository.id, None)
        if state is None:
            return
        if options.private and not state.private:
            raise SelfExplainError(
                f"{repository.id} is public already, and --private was given. Make it private in its settings, or "
                "leave --private out."
            )
        files = {sibling.rfilename for sibling in state.siblings}
        if files <= {".gitattributes"}:
            return
        tags: list[str] = []
        if "README.md" in files:
            path = _insist(api.hf_hub_download, repository.id, "README.md", repo_type=repository.kind)
            tags = RepoCard.load(path, ignore_metadata_errors=True).data.get("tags") or []
        if TAG not in tags:
            raise SelfExplainError(
                f"{repository.id} is taken by something else ({len(files)} files, and no tag {TAG!r} in its card). "
                "Change `name` in the recipe, publish to another --org, or move that repository."
            )


def _push(api: "HfApi", repository: Repository, options: Options, may_create: bool) -> Published:
    """Make one repository what it shall be, with one commit at the most."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    kind, name = repository.kind, repository.id
    revision = options.revision
    message = f"Publish with selfexplain {__version__}"

    def once(name: str) -> bool:
        state: Any = api.repo_info(name, repo_type=kind, revision=revision, files_metadata=True)
        changes = [file for file in repository.files if not _is_there(file, state)]
        wanted = {file.path for file in repository.files}
        there = [sibling.rfilename for sibling in state.siblings or ()]
        gone = [path for path in there if repository.owns(path) and path not in wanted]
        if not changes and not gone:
            return False
        logger.info("%s: %d files to send, %d to delete", name, len(changes), len(gone))
        api.create_commit(
            name,
            [
                *(CommitOperationAdd(file.path, str(file.source)) for file in changes),
                *(CommitOperationDelete(path, is_folder=False) for path in gone),
            ],
            commit_message=message,
            repo_type=kind,
            revision=revision,
            parent_commit=state.sha,
            create_pr=options.create_pr and revision is None,
        )
        return True

    with _token_for(kind, name):
        if may_create:
            sdk = {"space_sdk": "gradio"} if kind == "space" else {}
            _insist(api.create_repo, name, repo_type=kind, private=options.private, exist_ok=True, **sdk)
        if options.revision is not None:
            _insist(api.create_branch, name, branch=options.revision, repo_type=kind, exist_ok=True)
        if options.create_pr:
            revision = _insist(_own_pull_request, api, kind, name, message)
        changed = _insist(once, name)
    logger.info("%s: %s", name, "published" if changed else "unchanged")
    return Published(repository.title, name, f"{api.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}", changed)


def _own_pull_request(api: "HfApi", kind: str, name: str, title: str) -> str | None:
    """The open pull request of an earlier call: it is brought up to date, not opened twice."""
    found = api.get_repo_discussions(name, repo_type=kind, discussion_type="pull_request", discussion_status="open")
    return next((request.git_reference for request in found if request.title == title), None)


def _state(api: "HfApi", kind: str, name: str, revision: str | None) -> Any:
    """Head commit and files with their hashes, read in one call; None where there is no such repository or branch."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.repo_info(name, repo_type=kind, revision=revision, files_metadata=True)
    except GatedRepoError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def _is_there(file: File, state: Any) -> bool:
    remote = next((sibling for sibling in state.siblings if sibling.rfilename == file.path), None)
    if remote is None or remote.size != file.size:
        return False
    if remote.lfs is not None:
        with file.source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == remote.lfs.sha256
    content = file.source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == remote.blob_id


def _name_model_to_space(api: "HfApi", plan: Plan) -> None:
    if not any(repository.kind == "space" for repository in plan.repositories):
        return
    space, model = plan.names.space(plan.recipe["name"]), plan.names.model(plan.recipe["name"])
    with _token_for("space", space):
        known = _insist(api.get_space_variables, space)
        if SPACE_VARIABLE not in known or known[SPACE_VARIABLE].value != model:
            _insist(api.add_space_variable, space, SPACE_VARIABLE, model)


def _collect(api: "HfApi", plan: Plan, private: bool) -> Published:
    """The collection that holds all repositories of the run; found again by its title."""
    title, org = plan.names.collection(plan.recipe["name"]), plan.names.org
    known = _insist(lambda owner: [*api.list_collections(owner=owner)], org)
    found = next((entry.slug for entry in known if entry.title == title), None)
    if found is None:
        description = f"A model that explains the computations of {plan.recipe['target']}: weights, data, results."[
            :150
        ]
        collection = _insist(
            api.create_collection, title, namespace=org, description=description, private=private, exists_ok=True
        )
    else:
        collection = _insist(api.get_collection, found)
    held = {(item.item_type, item.item_id) for item in collection.items}
    missing = [part for part in plan.repositories if (part.kind, part.id) not in held]
    for part in missing:
        _insist(api.add_collection_item, collection.slug, part.id, part.kind, exists_ok=True)
    return Published("collection", collection.slug, collection.url, found is None or bool(missing))


@contextmanager
def _token_for(kind: str, name: str) -> Iterator[None]:
    """Under Trusted Publishing a token is good for one repository: huggingface_hub reads which from the environment."""
    scope = os.environ.get("HF_OIDC_RESOURCE")
    if not scope:
        yield
        return
    os.environ["HF_OIDC_RESOURCE"] = f"{'' if kind == 'model' else kind + 's/'}{name}"
    try:
        yield
    finally:
        os.environ["HF_OIDC_RESOURCE"] = scope


def _insist(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Make a call again while it fails for reasons that pass: 429, 5xx, a commit in between, timeouts, broken lines.

    What an upload broke of is a RuntimeError of huggingface_hub around it, or, under Xet, an error of Python's own.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    wait = FIRST_WAIT
    for left in range(TRIES - 1, -1, -1):
        try:
            get_session().timeout = TIMEOUT
            return call(*args, **kwargs)
        except OfflineModeIsEnabled:
            raise
        except (HTTPError, ConnectionError, TimeoutError, RuntimeError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            response = cause.response if isinstance(cause, HfHubHTTPError) else None
            passes = response is None or response.status_code in (408, 409, 412, 429) or response.status_code >= 500
            if not left or not passes:
                raise (ConnectionError(str(cause)) if isinstance(cause, RuntimeError) else cause) from None
            asked = response.headers.get("Retry-After", "") if response is not None else ""
            wait = max(wait, float(asked)) if asked.isdigit() else wait
            reason = response.status_code if response is not None else type(cause).__name__
            logger.warning("%s: %s; trying again in %g s", args[0] if args else call.__name__, reason, wait)
            time.sleep(wait)
            wait *= 2
    raise AssertionError("the last try returns or raises")


@contextmanager
def errors_told(api: "HfApi", org: str) -> Iterator[None]:
    """What the Hub or the way to it refuses, as an error that says what to do. No message holds a token."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        OIDCError,
        RepositoryNotFoundError,
    )

    login = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
    again = "What was pushed stays: the same command continues from there."
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SelfExplainError("HF_HUB_OFFLINE is set, so nothing can be published: unset it.") from error
    except LocalTokenNotFoundError as error:
        raise SelfExplainError(f"there is no login to {api.endpoint}. {login}") from error
    except OIDCError as error:
        raise SelfExplainError(f"Trusted Publishing gave no token: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = " ".join((error.server_message or str(error)).split())
        if status == 401:
            advice = login
        elif status == 403:
            advice = f"Ask for write access to {org}, or use a token that has it."
        elif isinstance(error, RepositoryNotFoundError):
            advice = "Make the repository on the Hub first, or publish with a login that may create it."
        elif status == 429 or status >= 500:
            advice = f"The Hub is busy or broken. {again}"
        else:
            advice = f"Change what it refuses and publish again. {again}"
        raise SelfExplainError(_without_token(f"{api.endpoint} refused ({status}): {said} {advice}", api)) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise SelfExplainError(
            _without_token(
                f"{api.endpoint} cannot be reached ({error}). Check the network and HF_ENDPOINT. {again}", api
            )
        ) from error


def _without_token(text: str, api: "HfApi") -> str:
    from huggingface_hub import get_token

    token = None if os.environ.get("HF_OIDC_RESOURCE") else get_token()
    return text.replace(token, "***") if token else text
