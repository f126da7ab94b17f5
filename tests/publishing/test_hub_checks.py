"""Rights in an organisation, and names that are taken."""

import pytest
from huggingface_hub import HfApi

from hub.published import MODEL
from selfexplain.errors import SelfExplainError
from selfexplain.publishing.hub_checks import check_name, check_rights
from selfexplain.publishing.repositories import PublishedRepository

REPOSITORY = PublishedRepository("model", MODEL, "explainer", ())
TAGGED = b"---\ntags: [selfexplain]\n---\n"


def test_own_organisation_and_user_name_may_be_written(hub):
    assert check_rights(HfApi(), "lab", create_pr=False) is True
    assert check_rights(HfApi(), "someone", create_pr=False) is True


@pytest.mark.parametrize(
    ("org", "message"),
    [
        ("labs", r"someone is not a member of it\. Publish to one of someone, lab, museum, or ask"),
        ("museum", r"may read but not write.*settings/tokens"),
    ],
)
def test_organisation_without_write_access_is_refused(hub, org, message):
    with pytest.raises(SelfExplainError, match=message):
        check_rights(HfApi(), org, create_pr=False)


def test_anyone_may_open_pull_requests(hub):
    assert check_rights(HfApi(), "lab", create_pr=True) is True
    assert check_rights(HfApi(), "museum", create_pr=True) is False
    assert check_rights(HfApi(), "labs", create_pr=True) is False


def test_trusted_publishing_may_not_create_repositories(hub, monkeypatch):
    monkeypatch.setenv("HF_OIDC_RESOURCE", MODEL)
    assert check_rights(HfApi(), "lab", create_pr=False) is False
    assert hub.log == []


@pytest.mark.parametrize("files", [None, {}, {"README.md": TAGGED, "config.json": b"{}"}])
def test_new_empty_and_published_repositories_are_accepted(hub, files):
    if files is not None:
        hub.add("model", MODEL, files)
    check_name(HfApi(), REPOSITORY, private=False)


@pytest.mark.parametrize("files", [{"cat.bin": b"x"}, {"README.md": b"---\ntags: [cats]\n---\n", "cat.bin": b"x"}])
def test_repository_with_something_else_is_refused(hub, files):
    hub.add("model", MODEL, files)
    with pytest.raises(SelfExplainError, match=f"{MODEL} already contains something else"):
        check_name(HfApi(), REPOSITORY, private=False)


def test_public_repository_is_refused_for_private_publishing(hub):
    hub.add("model", MODEL, {"README.md": TAGGED})
    with pytest.raises(SelfExplainError, match="is already public, but --private was given"):
        check_name(HfApi(), REPOSITORY, private=True)
    hub.repo(MODEL).private = True
    check_name(HfApi(), REPOSITORY, private=True)
