"""Check, before anything is pushed, that this login may write and that repository names are not taken."""

import os
from typing import TYPE_CHECKING

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.hub_calls import call_hub, repository_state, token_for
from selfexplain.publishing.metadata import TAG
from selfexplain.publishing.repositories import PublishedRepository

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_rights(api: "HfApi", org: str, create_pr: bool) -> bool:
    """Check the rights of this login in an organisation.

    A token of Trusted Publishing is valid for one existing repository, so nothing is checked.

    Args:
        api: client.
        org: organisation or user.
        create_pr: whether only pull requests are opened, which everybody may do.

    Returns:
        Whether repositories may be created.

    Raises:
        SelfExplainError: this login may not write to the organisation.
    """
    if os.environ.get("HF_OIDC_RESOURCE"):
        return False
    user = call_hub(api.whoami)
    roles = {user["name"]: "admin", **{entry["name"]: entry.get("roleInOrg") for entry in user.get("orgs", [])}}
    if create_pr:
        return roles.get(org) not in (None, "read")
    if org not in roles:
        raise SelfExplainError(
            f"--org is {org}, but {user['name']} is not a member of it. Publish to one of {', '.join(roles)}, or ask "
            f"an administrator of {org} to add you."
        )
    if roles[org] == "read" or user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise SelfExplainError(
            f"--org is {org}, where this login may read but not write. Use a token with write access "
            f"({api.endpoint}/settings/tokens), or ask for the role of a contributor."
        )
    return True


def check_name(api: "HfApi", repository: PublishedRepository, private: bool) -> None:
    """Check that a repository is new, empty or was published by this package.

    Args:
        api: client.
        repository: what would be published.
        private: whether it must be private.

    Raises:
        SelfExplainError: the name belongs to something else, or the repository is public and `private` is set.
    """
    from huggingface_hub import RepoCard

    with token_for(repository.kind, repository.id):
        state = call_hub(repository_state, repository.id, api, repository.kind, None)
        if state is None:
            return
        if private and not state.private:
            raise SelfExplainError(
                f"{repository.id} is already public, but --private was given. Make it private in its settings, or "
                "omit --private."
            )
        files = {sibling.rfilename for sibling in state.siblings}
        if files <= {".gitattributes"}:
            return
        tags: list[str] = []
        if "README.md" in files:
            path = call_hub(api.hf_hub_download, repository.id, "README.md", repo_type=repository.kind)
            tags = RepoCard.load(path, ignore_metadata_errors=True).data.get("tags") or []
        if TAG not in tags:
            raise SelfExplainError(
                f"{repository.id} already contains something else ({len(files)} files, and its card has no tag "
                f"{TAG!r}). Change `name` in the recipe, publish to a different --org, or move that repository."
            )
