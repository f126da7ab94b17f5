"""The code of the tutorials runs, and the API reference is what the docstrings say."""

import json
import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selfexplain.cli import app

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["load_and_ask", "add_a_question", "qlora"])
def test_the_code_of_a_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": page}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, f"{page}.md", "exec"), names)
    if page == "add_a_question":
        explainer, shuffled = (int(n) for n in re.findall(r": (\d+) of \d+ right", capsys.readouterr().out))
        assert explainer > 2 * shuffled
    if page == "qlora":
        assert names["explainer"].is_loaded_in_4bit
        statistics = json.loads((names["run_dir"] / "datasets/input_ablation/statistics.json").read_text())
        assert statistics["target_quantization"]["load_in_4bit"]  # what is explained is what `verify` reads


def test_the_commands_of_making_ground_truth_run(tmp_path, monkeypatch):
    """As they stand on the page, on the files that it shows; only with fewer patches."""
    page = (DOCS / "make_ground_truth.md").read_text(encoding="utf-8")
    begins = ("python\nimport csv", "\nrelation,", "yaml\nname: mine")
    blocks = (re.search(rf"```({begin}.*?)```", page, re.DOTALL)[1] for begin in begins)
    code, table, recipe = (block.partition("\n")[2] for block in blocks)
    commands = re.findall(r"`selfexplain ([^`\n]+)`", page)
    assert [command.partition(" mine")[0].partition(" runs/")[0] for command in commands] == [
        "run", "dataset stats", "dataset check"
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "facts.py", "exec"), {})
    assert set(table.splitlines()) <= set(Path("facts.csv").read_text().splitlines())
    Path("mine.yaml").write_text(recipe)
    few = ["activation_patching.n_pairs=60", "activation_patching.n_blocks=1", "seed=1"]  # with 0 no row for validation
    for command in commands:
        shown = CliRunner().invoke(app, [*command.split(), *(few if command.startswith("run ") else [])])
        assert shown.exit_code == 0, shown.output
        if "stats" in command:
            assert "items: asked 60, found 60" in shown.output and "rows_changed: 0.500" in shown.output
    n_rows, n_checked = re.search(r"(\d+) of (\d+) rows come out again", shown.output).groups()
    assert n_rows == n_checked != "0"


def test_the_api_reference_is_up_to_date():
    made = runpy.run_path(str(DOCS / "make_api.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run python docs/make_api.py"


def test_links_lead_somewhere():
    pages = [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]
    missing = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not missing
