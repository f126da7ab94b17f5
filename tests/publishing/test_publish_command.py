"""`selfexplain publish` on the command line."""

import hashlib
import re

from typer.testing import CliRunner

from hub.published import METRICS, MODEL, REPOSITORIES
from hub.server import TOKEN
from selfexplain.cli import app


def fingerprint(directory):
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [(str(path), path.stat().st_mtime_ns, hashlib.sha1(path.read_bytes()).hexdigest()) for path in files]


def test_second_call_changes_nothing_and_prints_kind_id_and_url(hub_with_run, finished):
    before = fingerprint(finished)
    result = CliRunner().invoke(app, ["publish", str(finished), "--org", "lab"])
    assert result.exit_code == 0, result.output
    assert hub_with_run.writes() == []
    assert fingerprint(finished) == before
    last = [line.split("  ") for line in result.output.splitlines()[-7:]]
    assert last[4] == ["explainer", MODEL, f"{hub_with_run.url}/{MODEL}"]
    assert [line[0] for line in last][3:] == ["results", "explainer", "Space", "collection"]
    assert TOKEN not in result.output


def test_dry_run_lists_every_file_with_its_size_without_a_request(hub, pushed, finished):
    result = CliRunner().invoke(app, ["publish", str(finished), "--org", "lab", "--metrics", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert hub.log == []
    names = {*REPOSITORIES, *(f"spaces/lab/{metric}" for metric in METRICS)}
    for name in names:
        repo = pushed.repo(name)
        assert f"{repo.kind} {repo.name}: " in result.output
        for path in repo.files:
            listed = re.search(rf"^ +[\d.]+ \w?B  {re.escape(path)}$", result.output, re.M)
            assert path == ".gitattributes" or listed, path
    assert "collection lab: quickstart self-explainer" in result.output
    assert f"Nothing was pushed. Without --dry-run: {len(names)} public repositories, " in result.output


def test_metrics_are_published_only_on_request(hub, finished):
    result = CliRunner().invoke(app, ["publish", str(finished), "--org", "lab", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "lab/exact_match" not in result.output


def test_revision_and_pull_request_exclude_each_other(hub, finished):
    arguments = ["publish", str(finished), "--org", "lab", "--revision", "draft", "--create-pr"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--revision and --create-pr were both given" in result.output
    assert hub.log == []
