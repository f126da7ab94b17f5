"""Publishing to a Hub that works, one that fails, and one that refuses."""

import json

import pytest

from hub.published import (
    METRICS,
    MODEL,
    PATCHING,
    REPOSITORIES,
    SPACE,
    commit_titles,
    empty_repositories,
    rename_target,
    update_manifest,
)
from hub.server import TOKEN, Fault
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.publishing.hub import Options, publish


def test_each_repository_gets_its_files_in_one_commit(pushed, finished):
    names = {*REPOSITORIES, *(f"spaces/lab/{metric}" for metric in METRICS)}
    assert {part.url.removeprefix(pushed.url + "/") for part in pushed.published[:-1]} == names
    assert all(len(commit_titles(pushed, name)) == 2 for name in names)  # the Hub's own first commit, and ours
    assert pushed.repo(MODEL).files["config.json"] == (finished / "explainer" / "config.json").read_bytes()
    assert pushed.repo(SPACE).variables == {"SELFEXPLAIN_EXPLAINER": MODEL}
    (collection,) = pushed.collections.values()
    assert len(collection["items"]) == len(names)


def test_files_of_other_runs_are_kept_and_own_old_files_are_deleted(hub_with_run, run_dir, space):
    hub = hub_with_run
    repo = hub.repo(MODEL)
    repo.commit({**repo.files, "notes.md": b"added by hand", "lora/old.safetensors": b"old"}, "added by hand", "main")
    rename_target(run_dir, "lab/other-target")
    hub.add("model", "lab/other-target", {"README.md": b"---\nlicense: mit\n---\n"})
    publish(run_dir, "lab", Options(replace=True), space)
    assert "notes.md" in hub.repo(MODEL).files and "lora/old.safetensors" not in hub.repo(MODEL).files

    files = hub.repo(PATCHING).files
    assert {path.split("/")[0] for path in files if "/" in path} == {"selfexplain--tiny", "lab--other-target"}
    card = files["README.md"].decode()
    assert card.count("config_name") == 2 and "| `selfexplain--tiny` |" in card and "| `lab--other-target` |" in card


def test_different_run_is_replaced_only_on_request(hub_with_run, run_dir, space):
    hub, recipe = hub_with_run, run_dir / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("name: quickstart", "name: tiny", 1))
    with pytest.raises(
        SelfExplainError, match=r"-features already contains selfexplain--tiny from a different run \(recipe quick"
    ):
        publish(run_dir, "lab", Options(), space)
    recipe.write_text(text)
    rename_target(run_dir, "lab/other-target")
    hub.add("model", "lab/other-target", {"README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(
        SelfExplainError, match=r"-results already contains quickstart .*target selfexplain/tiny.*--replace"
    ):
        publish(run_dir, "lab", Options(), space)
    assert hub.writes() == []
    publish(run_dir, "lab", Options(replace=True), space)
    assert "- `lab/other-target`: mit" in hub.repo(PATCHING).files["README.md"].decode().splitlines()


def test_results_of_runs_with_different_systems_load_as_one_table(hub_with_run, run_dir, tmp_path, space):
    from datasets import load_dataset

    hub, path = hub_with_run, run_dir / "predictions" / "activation_patching.jsonl"
    rename_target(run_dir, "lab/other-target")
    hub.add("model", "lab/other-target")
    recipe, results = run_dir / "recipe.yaml", run_dir / "results.json"
    recipe.write_text(recipe.read_text().replace("name: quickstart", "name: another", 1))
    results.write_text(results.read_text().replace('"recipe": "quickstart"', '"recipe": "another"'))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    few = [{**row, "answers": {"explainer": row["answers"]["explainer"], "majority": True}} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in few))
    update_manifest(run_dir)
    publish(run_dir, "lab", Options(), space)
    for name, content in hub.repo("datasets/lab/selfexplain-results").files.items():
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_bytes(content)
    table = load_dataset(str(tmp_path / "results"), "activation_patching", cache_dir=str(tmp_path / "cache"))["test"]
    systems = [{entry["system"] for entry in row["answers"]} for row in table]
    assert len(systems) == 2 * len(rows) and {"explainer", "majority"} in systems and max(map(len, systems)) > 2


def test_full_form_replaces_the_adapter_form(hub_with_run, finished, space, tmp_path):
    publish(finished, "lab", Options(full=True), space)
    files = hub_with_run.repo(MODEL).files
    assert not [path for path in files if path.startswith("lora/")]
    for path, content in files.items():
        (tmp_path / "whole" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "whole" / path).write_bytes(content)
    whole = SelfExplainerForCausalLM.from_pretrained(tmp_path / "whole")
    adapters = SelfExplainerForCausalLM.from_pretrained(finished / "explainer")
    vector = adapters.capture("The capital of France is", layers=[1])[0, 4]
    assert whole.explain_feature(vector, 1).text == adapters.explain_feature(vector, 1).text
    card = files["README.md"].decode()
    assert "base_model_relation: finetune" in card and 'target = load_target("selfexplain/tiny")' in card


def test_branch_and_pull_requests_leave_main_unchanged(hub_with_run, finished, space):
    hub = hub_with_run
    main = hub.repo(MODEL).refs["main"]
    publish(finished, "lab", Options(revision="draft"), space)
    assert hub.repo(MODEL).refs["draft"] == main  # main already has the content of the run
    empty_repositories(hub)
    for _ in range(2):  # the second call updates the requests of the first
        publish(finished, "lab", Options(create_pr=True), space)
    assert all(len(hub.repo(name).requests) == 1 for name in REPOSITORIES)
    repo = hub.repo(MODEL)
    assert list(repo.files) == [".gitattributes"] and "config.json" in repo.head("refs/pr/1").files


def test_branches_and_pull_requests_do_not_change_the_live_space(hub_with_run, finished, space):
    hub = hub_with_run
    live = hub.repo(SPACE)
    live.variables.clear()
    publish(finished, "lab", Options(revision="draft"), space)
    empty_repositories(hub)
    del hub.roles["lab"]  # anyone may open pull requests
    done = publish(finished, "lab", Options(create_pr=True), space)
    assert {part.url.removeprefix(hub.url + "/") for part in done if part.changed} == REPOSITORIES
    assert live.variables == {}


def test_private_repositories(hub, finished, space):
    publish(finished, "lab", Options(private=True), space)
    assert all(hub.repo(name).private for name in REPOSITORIES)
    hub.repo(MODEL).private = False
    with pytest.raises(SelfExplainError, match="is already public"):
        publish(finished, "lab", Options(private=True), space)


def test_temporary_failures_of_every_call_are_retried(hub, finished, space, monkeypatch):
    """Every kind of call fails at least once, in every way that is temporary."""
    monkeypatch.setattr("selfexplain.publishing.hub_calls.TIMEOUT", 1.0)
    hub.faults += [
        Fault("GET .*/whoami", code=503),
        Fault("GET /api/datasets/lab/selfexplain-results$", kind="slow", seconds=1.5),
        Fault("POST /api/repos/create", kind="silent"),
        Fault("POST /api/repos/create", code=429, headers={"Retry-After": "1"}),
        Fault("PUT /_objects/", kind="drop", times=3),
        Fault("PUT /_objects/", kind="silent"),
        Fault("POST .*-patching/commit/", times=2),
        Fault("POST .*-ablation/commit/", code=429),
        Fault("POST .*-features/commit/", kind="drop"),
        Fault(f"POST .*{MODEL}/commit/", kind="silent"),
        Fault("POST .*spaces.*/commit/", kind="silent"),
        Fault("POST /api/collections$", kind="silent"),
        Fault("POST /api/collections/.*items", code=502),
    ]
    publish(finished, "lab", Options(), space)
    assert [fault for fault in hub.faults if fault.used < fault.times] == []
    assert all(len(commit_titles(hub, name)) == 2 for name in REPOSITORIES)
    (collection,) = hub.collections.values()
    assert len(collection["items"]) == len(REPOSITORIES)


def test_outdated_answer_does_not_lead_to_a_second_commit(hub_with_run, finished, space):
    hub_with_run.faults.append(Fault(f"GET /api/models/{MODEL}$", kind="stale", times=2))
    publish(finished, "lab", Options(), space)
    assert hub_with_run.faults[0].used == 2
    assert len(commit_titles(hub_with_run, MODEL)) == 2


def test_same_command_continues_after_a_failure(hub, finished, space):
    hub.faults.append(Fault(f"POST /api/models/{MODEL}/commit", kind="drop", times=100))
    with pytest.raises(SelfExplainError, match="the same command continues"):
        publish(finished, "lab", Options(), space)
    assert not [path for path in hub.repo(MODEL).files if path != ".gitattributes"]
    arrived = hub.writes("/_objects/")
    hub.faults.clear()
    hub.log.clear()
    publish(finished, "lab", Options(), space)
    assert arrived and not set(arrived) & set(hub.writes("/_objects/"))  # no large file is sent twice
    assert hub.writes("datasets/.*/commit") == []
    assert len(commit_titles(hub, MODEL)) == 2


def test_error_of_a_failed_upload_says_what_to_do(hub_with_run, finished, space, monkeypatch):
    hub = hub_with_run
    empty_repositories(hub, [MODEL])
    hub.objects.clear()
    hub.faults.append(Fault("PUT /_objects/", kind="drop", times=10_000))
    with pytest.raises(SelfExplainError, match=r"cannot be reached .*the same command continues"):
        publish(finished, "lab", Options(), space)
    assert hub.waits == [1, 2, 4, 8, 16]
    hub.faults[:] = [Fault("PUT /_objects/", code=403, message="no room left", times=10_000)]
    with pytest.raises(SelfExplainError, match=r"refused the request \(403\).*Ask for write access"):
        publish(finished, "lab", Options(), space)

    def broken(**_):
        raise ConnectionError("Network error: connection refused")

    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: True)
    monkeypatch.setattr("huggingface_hub._commit_api._upload_xet_files", broken)
    hub.waits.clear()
    with pytest.raises(SelfExplainError, match=r"cannot be reached \(Network error.*the same command continues"):
        publish(finished, "lab", Options(), space)
    assert hub.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("org", "words"),
    [
        ("labs", ["someone is not a member", "someone, lab, museum"]),
        ("museum", ["may read but not write", "settings/tokens"]),
    ],
)
def test_organisation_without_write_access_is_refused(hub, finished, space, org, words):
    with pytest.raises(SelfExplainError, match=f"--org is {org}") as error:
        publish(finished, org, Options(), space)
    assert all(word in str(error.value) for word in words)
    assert not hub.writes()


def test_name_with_different_content_is_refused(hub, finished, space):
    hub.add("model", MODEL, {"README.md": b"---\ntags: [cats]\n---\n", "cat.safetensors": b"x"})
    with pytest.raises(SelfExplainError, match=f"{MODEL} already contains something else"):
        publish(finished, "lab", Options(), space)
    assert not hub.writes()


def test_missing_and_invalid_logins_are_explained(hub, finished, space, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong" + "b" * 30)
    with pytest.raises(SelfExplainError, match=r"refused the request \(401\).*hf auth login") as error:
        publish(finished, "lab", Options(), space)
    assert "hf_wrong" not in str(error.value)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(SelfExplainError, match="hf auth login"):
        publish(finished, "lab", Options(), space)


def test_missing_network_is_explained(hub, finished, space, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SelfExplainError, match=r"cannot be reached.*HF_ENDPOINT"):
        publish(finished, "lab", Options(), space)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SelfExplainError, match="HF_HUB_OFFLINE is set"):
        publish(finished, "lab", Options(), space)


def test_file_that_the_hub_refuses_is_reported(hub_with_run, finished, space):
    hub = hub_with_run
    empty_repositories(hub, [MODEL])
    hub.faults.append(
        Fault("POST .*-selfexplainer/commit/", code=422, message="config.json: this name is reserved", times=9)
    )
    with pytest.raises(
        SelfExplainError, match=r"refused the request \(422\): .*config.json: this name is reserved\..*continues"
    ):
        publish(finished, "lab", Options(), space)
    hub.faults[:] = [Fault("POST .*-selfexplainer/commit/", code=403, message=f"no rights for {TOKEN}", times=9)]
    with pytest.raises(SelfExplainError, match="Ask for write access to lab") as error:
        publish(finished, "lab", Options(), space)
    assert TOKEN not in str(error.value)


def test_licence_of_the_base_is_inherited(hub, run_dir, space):
    rename_target(run_dir, "lab/base")
    with pytest.raises(SelfExplainError, match="The base lab/base is not on the Hub"):
        publish(run_dir, "lab", Options(), space)
    card = b"---\nlicense: other\nlicense_name: meadow\nlicense_link: https://example.org/meadow\n---\n"
    hub.add("model", "lab/base", {"README.md": card}, gated="manual")
    publish(run_dir, "lab", Options(), space)
    published = hub.repo(MODEL).files["README.md"].decode()
    assert "license_name: meadow" in published and "[meadow](https://example.org/meadow)" in published
    assert "base_model: lab/base" in published
    with pytest.raises(SelfExplainError, match=r"lab/base is gated.*Accept its conditions"):
        publish(run_dir, "lab", Options(full=True), space)


def test_trusted_publishing_requests_a_token_for_each_repository(hub_with_run, finished, space, monkeypatch):
    hub = hub_with_run
    empty_repositories(hub)
    hub.repo(SPACE).variables.clear()
    resources = []

    def login(resource, **_):
        resources.append(resource)
        return {"access_token": TOKEN, "expires_in": 3600}

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_OIDC_RESOURCE", MODEL)
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", "a.b.c")
    monkeypatch.setattr("huggingface_hub._oidc.oidc_login", login)
    monkeypatch.setattr("huggingface_hub.utils._auth._OIDC_TOKEN_CACHE", None)
    done = publish(finished, "lab", Options(), space)
    assert set(resources) == REPOSITORIES
    assert {part.url.removeprefix(hub.url + "/") for part in done if part.changed} == REPOSITORIES
    assert all(len(commit_titles(hub, name)) == 4 for name in REPOSITORIES)
