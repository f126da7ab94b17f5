"""The commands of docs/publish.md run unchanged. Its Python runs in the fresh process of `reader`."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hub.published import METRICS, REPOSITORIES
from selfexplain.cli import app

DOCS = (Path(__file__).parents[2] / "docs" / "publish.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def prepared_hub(hub_with_run, finished, tmp_path, monkeypatch):
    """The run is in the directory that the docs name, and the organisation of the docs exists."""
    hub_with_run.roles["my-lab"] = "admin"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    return hub_with_run


def test_commands_run(prepared_hub):
    hub = prepared_hub
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        hub.log.clear()
        program, *arguments = shlex.split(command)
        assert program == "selfexplain"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        created = {name: repo for (_, name), repo in hub.repos.items() if name.startswith("my-lab/")}
        if "--dry-run" in command:
            assert hub.log == [] and not created
        elif "--revision draft" in command:
            assert created and not hub.writes("/commit/main")
            assert all("draft" in repo.refs for name, repo in created.items() if name.partition("/")[2] not in METRICS)
        elif "--create-pr" in command:
            assert hub.writes() == []  # main already has the content of the run
        elif "publish" in command:
            metrics = METRICS if "--metrics" in command else set()
            assert hub.writes("my-lab")
            assert len(created) >= len(REPOSITORIES) + len(metrics)
    for name in re.findall(r"`(my-lab/[\w.-]+)`", DOCS.split("## Load")[0]):
        assert any(known == name for _, known in hub.repos), name


def test_python_of_the_docs_prints_three_results(reader):
    assert reader["docs"].count("\n") >= 3
