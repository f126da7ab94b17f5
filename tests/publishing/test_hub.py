"""Publishing against a Hub that works, one that does not, and one that refuses."""

import hashlib
import json
import re

import pytest
from typer.testing import CliRunner

from hub.published import MODEL, update_manifest
from hub.server import TOKEN, Fault
from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.publishing.hub import Options, _insist, publish

PATCHING = "datasets/lab/selfexplain-patching"
REPOSITORIES = {
    "datasets/lab/selfexplain-features",
    PATCHING,
    "datasets/lab/selfexplain-ablation",
    "datasets/lab/selfexplain-results",
    MODEL,
    "spaces/lab/quickstart-explainer",
}


def fingerprint(directory):
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [(str(path), path.stat().st_mtime_ns, hashlib.sha1(path.read_bytes()).hexdigest()) for path in files]


def commits(hub, name):
    repo = hub.repo(name)
    return [commit.title for commit in repo.commits.values()]


def test_everything_arrives_in_one_commit_each(pushed, finished):
    assert {part.url.removeprefix(pushed.url + "/") for part in pushed.done[:-1]} == REPOSITORIES
    assert all(len(commits(pushed, name)) == 2 for name in REPOSITORIES)  # the Hub's own first one, and ours
    assert pushed.repo(MODEL).files["config.json"] == (finished / "explainer" / "config.json").read_bytes()
    assert pushed.repo("spaces/lab/quickstart-explainer").variables == {"SELFEXPLAIN_EXPLAINER": MODEL}
    (collection,) = pushed.collections.values()
    assert len(collection["items"]) == len(REPOSITORIES)


def test_a_second_call_changes_nothing_and_tells_kind_id_and_url_and_no_token(hub_with_run, finished, real_space):
    before = fingerprint(finished)
    shown = CliRunner().invoke(app, ["publish", str(finished), "--org", "lab"])
    assert shown.exit_code == 0, shown.output
    assert hub_with_run.writes() == []
    assert fingerprint(finished) == before
    last = [line.split("  ") for line in shown.output.splitlines()[-7:]]
    assert last[4] == ["explainer", MODEL, f"{hub_with_run.url}/{MODEL}"]
    assert [line[0] for line in last][3:] == ["results", "explainer", "Space", "collection"]
    assert TOKEN not in shown.output


def test_dry_run_lists_every_file_with_its_size_and_asks_nobody(hub, pushed, finished, real_space):
    shown = CliRunner().invoke(app, ["publish", str(finished), "--org", "lab", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert hub.log == []
    for name in REPOSITORIES:
        assert f"{pushed.repo(name).kind} {pushed.repo(name).name}: " in shown.output
        for path in pushed.repo(name).files:
            assert path == ".gitattributes" or re.search(rf"^ +[\d.]+ \w?B  {re.escape(path)}$", shown.output, re.M), (
                path
            )
    assert "collection lab: quickstart self-explainer" in shown.output
    assert f"nothing is pushed; without --dry-run {len(REPOSITORIES)} public repositories, " in shown.output


def test_what_belongs_to_other_runs_stays_and_what_this_run_left_goes(hub_with_run, run_dir, space):
    hub = hub_with_run
    repo = hub.repo(MODEL)
    repo.commit({**repo.files, "notes.md": b"by hand", "lora/old.safetensors": b"old"}, "by hand", "main")
    _as_another_target(run_dir, "lab/other-target")
    hub.add("model", "lab/other-target", {"README.md": b"---\nlicense: mit\n---\n"})
    publish(run_dir, "lab", Options(replace=True), space)
    assert "notes.md" in hub.repo(MODEL).files and "lora/old.safetensors" not in hub.repo(MODEL).files

    files = hub.repo(PATCHING).files
    assert {path.split("/")[0] for path in files if "/" in path} == {"selfexplain--tiny", "lab--other-target"}
    card = files["README.md"].decode()
    assert card.count("config_name") == 2 and "| `selfexplain--tiny` |" in card and "| `lab--other-target` |" in card


def test_another_run_is_not_overwritten_unless_that_is_meant(hub_with_run, run_dir, space):
    hub, recipe = hub_with_run, run_dir / "recipe.yaml"
    was = recipe.read_text()
    recipe.write_text(was.replace("name: quickstart", "name: tiny", 1))
    with pytest.raises(SelfExplainError, match=r"-features: selfexplain--tiny there is of another run \(recipe quick"):
        publish(run_dir, "lab", Options(), space)
    recipe.write_text(was)
    _as_another_target(run_dir, "lab/other-target")
    hub.add("model", "lab/other-target", {"README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(SelfExplainError, match=r"-results: quickstart there .*target selfexplain/tiny.*--replace"):
        publish(run_dir, "lab", Options(), space)
    assert hub.writes() == []
    publish(run_dir, "lab", Options(replace=True), space)
    assert "- `lab/other-target`: mit" in hub.repo(PATCHING).files["README.md"].decode().splitlines()


def test_results_of_runs_with_other_systems_are_one_table(hub_with_run, run_dir, tmp_path, space):
    from datasets import load_dataset

    hub, path = hub_with_run, run_dir / "predictions" / "activation_patching.jsonl"
    _as_another_target(run_dir, "lab/other-target")
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


def test_the_full_form_takes_the_place_of_the_adapter_form(hub_with_run, finished, space, tmp_path):
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


def test_a_branch_and_pull_requests(hub_with_run, finished, space):
    hub = hub_with_run
    main = hub.repo(MODEL).refs["main"]
    publish(finished, "lab", Options(revision="draft"), space)
    assert hub.repo(MODEL).refs["draft"] == main  # nothing to change there
    for name in REPOSITORIES:
        hub.repo(name).commit({".gitattributes": b""}, "emptied", "main")
    for _ in range(2):  # the second call finds the requests of the first
        publish(finished, "lab", Options(create_pr=True), space)
    assert all(len(hub.repo(name).requests) == 1 for name in REPOSITORIES)
    repo = hub.repo(MODEL)
    assert list(repo.files) == [".gitattributes"] and "config.json" in repo.head("refs/pr/1").files


def test_what_is_not_on_main_changes_no_live_space(hub_with_run, finished, space):
    hub = hub_with_run
    live = hub.repo("spaces/lab/quickstart-explainer")
    live.variables.clear()
    publish(finished, "lab", Options(revision="draft"), space)
    for name in REPOSITORIES:
        hub.repo(name).commit({".gitattributes": b""}, "emptied", "main")
    del hub.roles["lab"]  # whoever reads may propose
    done = publish(finished, "lab", Options(create_pr=True), space)
    assert {part.url.removeprefix(hub.url + "/") for part in done if part.changed} == REPOSITORIES
    assert live.variables == {}


def test_private(hub, finished, space):
    publish(finished, "lab", Options(private=True), space)
    assert all(hub.repo(name).private for name in REPOSITORIES)
    hub.repo(MODEL).private = False
    with pytest.raises(SelfExplainError, match="is public already"):
        publish(finished, "lab", Options(private=True), space)


def test_what_passes_is_waited_for(hub, finished, space, monkeypatch):
    """A Hub as bad as it gets: every kind of call fails once or more, in every way that passes."""
    monkeypatch.setattr("selfexplain.publishing.hub.TIMEOUT", 1.0)
    hub.faults += [
        Fault("GET .*/whoami", code=503),
        Fault("GET /api/datasets/lab/selfexplain-results$", kind="slow", seconds=1.5),
        Fault("POST /api/repos/create", kind="deaf"),
        Fault("POST /api/repos/create", code=429, headers={"Retry-After": "1"}),
        Fault("PUT /_objects/", kind="drop", times=3),
        Fault("PUT /_objects/", kind="deaf"),
        Fault("POST .*-patching/commit/", times=2),
        Fault("POST .*-ablation/commit/", code=429),
        Fault("POST .*-features/commit/", kind="drop"),
        Fault(f"POST .*{MODEL}/commit/", kind="deaf"),
        Fault("POST .*spaces.*/commit/", kind="deaf"),
        Fault("POST /api/collections$", kind="deaf"),
        Fault("POST /api/collections/.*items", code=502),
    ]
    publish(finished, "lab", Options(), space)
    assert [fault for fault in hub.faults if fault.met < fault.times] == []
    assert all(len(commits(hub, name)) == 2 for name in REPOSITORIES)
    (collection,) = hub.collections.values()
    assert len(collection["items"]) == len(REPOSITORIES)


def test_waits_double_and_are_as_long_as_the_hub_asks(hub):
    from huggingface_hub import HfApi

    hub.add("model", MODEL)
    asked = {"headers": {"Retry-After": "30"}, "code": 429}
    hub.faults += [Fault("GET /api/models", code=503, times=2), Fault("GET /api/models", **asked)]
    hub.faults += [Fault("GET /api/models", code=503)]
    assert _insist(HfApi().model_info, MODEL).id == MODEL
    assert hub.waits == [1, 2, 30, 60]


def test_a_stale_answer_leads_to_no_second_commit(hub_with_run, finished, space):
    hub_with_run.faults.append(Fault(f"GET /api/models/{MODEL}$", kind="stale", times=2))
    publish(finished, "lab", Options(), space)
    assert hub_with_run.faults[0].met == 2
    assert len(commits(hub_with_run, MODEL)) == 2


def test_after_a_break_the_same_command_continues(hub, finished, space):
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
    assert len(commits(hub, MODEL)) == 2


def test_an_upload_that_breaks_for_good_says_what_to_do(hub_with_run, finished, space, monkeypatch):
    hub = hub_with_run
    hub.repo(MODEL).commit({".gitattributes": b""}, "emptied", "main")
    hub.objects.clear()
    hub.faults.append(Fault("PUT /_objects/", kind="drop", times=10_000))
    with pytest.raises(SelfExplainError, match=r"cannot be reached .*the same command continues"):
        publish(finished, "lab", Options(), space)
    assert hub.waits == [1, 2, 4, 8, 16]
    hub.faults[:] = [Fault("PUT /_objects/", code=403, message="no room left", times=10_000)]
    with pytest.raises(SelfExplainError, match=r"refused \(403\).*Ask for write access"):
        publish(finished, "lab", Options(), space)

    def broken(**_):
        raise ConnectionError("Network error: connection refused")

    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: True)
    monkeypatch.setattr("huggingface_hub._commit_api._upload_xet_files", broken)
    hub.waits.clear()
    with pytest.raises(SelfExplainError, match=r"cannot be reached \(Network error.*the same command continues"):
        publish(finished, "lab", Options(), space)
    assert hub.waits == [1, 2, 4, 8, 16]


def _nothing_pushed(hub):
    return not hub.writes()


@pytest.mark.parametrize(
    ("org", "words"),
    [
        ("labs", ["someone is no member", "someone, lab, museum"]),
        ("museum", ["may read there and not write", "settings/tokens"]),
    ],
)
def test_an_organisation_that_is_not_ones_own(hub, finished, space, org, words):
    with pytest.raises(SelfExplainError) as error:
        publish(finished, org, Options(), space)
    assert all(word in str(error.value) for word in words)
    assert _nothing_pushed(hub)


def test_a_name_that_something_else_has(hub, finished, space):
    hub.add("model", MODEL, {"README.md": b"---\ntags: [cats]\n---\n", "cat.safetensors": b"x"})
    with pytest.raises(SelfExplainError, match=f"{MODEL} is taken by something else"):
        publish(finished, "lab", Options(), space)
    assert _nothing_pushed(hub)


def test_no_login_and_a_bad_one(hub, finished, space, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong" + "b" * 30)
    with pytest.raises(SelfExplainError, match=r"refused \(401\).*hf auth login") as error:
        publish(finished, "lab", Options(), space)
    assert "hf_wrong" not in str(error.value)
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
    with pytest.raises(SelfExplainError, match="hf auth login"):
        publish(finished, "lab", Options(), space)


def test_no_network(hub, finished, space, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SelfExplainError, match=r"cannot be reached.*HF_ENDPOINT"):
        publish(finished, "lab", Options(), space)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SelfExplainError, match="HF_HUB_OFFLINE is set"):
        publish(finished, "lab", Options(), space)


def test_a_file_that_the_hub_refuses(hub_with_run, finished, space):
    hub = hub_with_run
    hub.repo(MODEL).commit({".gitattributes": b""}, "emptied", "main")
    hub.faults.append(
        Fault("POST .*-selfexplainer/commit/", code=422, message="config.json: this name is reserved", times=9)
    )
    with pytest.raises(SelfExplainError, match=r"refused \(422\): .*config.json: this name is reserved.*continues"):
        publish(finished, "lab", Options(), space)
    hub.faults[:] = [Fault("POST .*-selfexplainer/commit/", code=403, message=f"no rights for {TOKEN}", times=9)]
    with pytest.raises(SelfExplainError, match="Ask for write access to lab") as error:
        publish(finished, "lab", Options(), space)
    assert TOKEN not in str(error.value)


def test_the_licence_of_the_base_is_inherited_and_its_absence_told(hub, run_dir, space):
    _as_another_target(run_dir, "lab/base")
    with pytest.raises(SelfExplainError, match="the base lab/base is not on the Hub"):
        publish(run_dir, "lab", Options(), space)
    card = b"---\nlicense: other\nlicense_name: meadow\nlicense_link: https://example.org/meadow\n---\n"
    hub.add("model", "lab/base", {"README.md": card}, gated="manual")
    publish(run_dir, "lab", Options(), space)
    published = hub.repo(MODEL).files["README.md"].decode()
    assert "license_name: meadow" in published and "[meadow](https://example.org/meadow)" in published
    assert "base_model: lab/base" in published
    with pytest.raises(SelfExplainError, match=r"lab/base is gated.*Accept its conditions"):
        publish(run_dir, "lab", Options(full=True), space)


def test_trusted_publishing_asks_for_a_token_for_each_repository(hub_with_run, finished, space, monkeypatch):
    hub = hub_with_run
    for name in REPOSITORIES:
        hub.repo(name).commit({".gitattributes": b""}, "emptied", "main")
    hub.repo("spaces/lab/quickstart-explainer").variables.clear()
    asked = []

    def login(resource, **_):
        asked.append(resource)
        return {"access_token": TOKEN, "expires_in": 3600}

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_OIDC_RESOURCE", MODEL)
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", "a.b.c")
    monkeypatch.setattr("huggingface_hub._oidc.oidc_login", login)
    monkeypatch.setattr("huggingface_hub.utils._auth._OIDC_TOKEN_CACHE", None)
    done = publish(finished, "lab", Options(), space)
    assert set(asked) == REPOSITORIES
    assert {part.url.removeprefix(hub.url + "/") for part in done if part.changed} == REPOSITORIES
    assert all(len(commits(hub, name)) == 4 for name in REPOSITORIES)


def _as_another_target(run_dir, name):
    """The same run, as if its target had another name."""
    for path in (*run_dir.rglob("*.json"), run_dir / "recipe.yaml"):
        path.write_text(path.read_text().replace("selfexplain/tiny", name).replace(f"{name}-world", "corpus.jsonl"))
    update_manifest(run_dir)
