"""The code of the tutorials runs, generated pages are up to date, and the README keeps to its limits."""

import json
import re
import runpy
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from check_wording import files, hits
from selfexplain.cli import app
from selfexplain.evaluation.results import Gain

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MAX_README_WORDS = 950
MAX_README_NUMBERS = 20
MAX_ARCHITECTURE_WORDS = 1500


def code_blocks(page: str) -> list[str]:
    """The Python code of a page of the documentation, block by block."""
    return re.findall(r"```python[^\n]*\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["load_and_ask.md", "qlora.md", "../README.md"])
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": page}
    for block in code_blocks(page):
        exec(compile(block, page, "exec"), names)
    printed = capsys.readouterr().out
    if page == "../README.md":
        fences = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
        outputs = [after for (kind, _), (_, after) in pairwise(fences) if kind == "python"]
        assert "".join(outputs) == printed
    if page == "qlora.md":
        assert names["explainer"].is_loaded_in_4bit
        statistics = json.loads((names["run_dir"] / "datasets/input_ablation/statistics.json").read_text())
        assert statistics["target_quantization"]["load_in_4bit"]


def test_the_commands_of_the_ground_truth_tutorial_run(tmp_path, monkeypatch):
    page = (DOCS / "make_ground_truth.md").read_text(encoding="utf-8")
    begins = ("python\nimport csv", "\nrelation,", "yaml\nname: mine")
    blocks = (re.search(rf"```({begin}.*?)```", page, re.DOTALL)[1] for begin in begins)
    code, table, recipe = (block.partition("\n")[2] for block in blocks)
    commands = [command for command in re.findall(r"`selfexplain ([^`\n]+)`", page) if "mine" in command]
    assert [command.partition(" mine")[0].partition(" runs/")[0] for command in commands] == [
        "run", "dataset stats", "dataset check"
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "facts.py", "exec"), {})
    assert set(table.splitlines()) <= set(Path("facts.csv").read_text().splitlines())
    Path("mine.yaml").write_text(recipe)
    # A smaller build. With seed 0, its validation split would be empty.
    smaller = ["activation_patching.n_pairs=60", "activation_patching.n_blocks=1", "seed=1"]
    for command in commands:
        done = CliRunner().invoke(app, [*command.split(), *(smaller if command.startswith("run ") else [])])
        assert done.exit_code == 0, done.output
        if "stats" in command:
            assert "items: asked 60, found 60" in done.output and "rows_changed: 0.500" in done.output
    counts = re.search(r"(\d+) of (\d+) rows", done.output)
    assert counts[1] == counts[2] != "0"


def test_the_schemas_are_up_to_date():
    for path, text in runpy.run_path(str(DOCS / "make_schemas.py"))["contents"]().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: run python docs/make_schemas.py"


def test_results_pages_show_the_committed_results():
    made = runpy.run_path(str(DOCS / "make_results.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run make results"
    assert made["README"].read_text(encoding="utf-8") == made["readme"](), "run make results"


def test_the_table_of_the_readme_states_the_gain_over_the_strongest_baseline():
    made = runpy.run_path(str(DOCS / "make_results.py"))
    results = made["read"]("tiny")
    gain = {"difference": -0.1, "ci95": (-0.2, -0.05), "p_value": 0.01, "validation_score": 0.8}
    tasks = {
        task: result.model_copy(
            update={
                "gains": {metric: Gain(system="nearest_neighbour", **gain) for metric in result.scores["explainer"]}
            }
        )
        for task, result in results.tasks.items()
    }
    lines = made["readme_table"](results.model_copy(update={"tasks": tasks})).splitlines()
    assert lines[0] == "| question | score | explainer | strongest baseline | the explainer is |"
    neighbour = tasks["activation_patching"].scores["nearest_neighbour"]["content_match"].value
    assert f"| nearest neighbour {neighbour:.2f} | worse, -0.10 |" in lines[4] and len(lines) == 2 + 5


def test_the_readme_keeps_to_its_limits():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= MAX_README_WORDS
    prose = re.sub(r"```.*?```|\]\(.*?\)|`.*?`|arXiv \S+", " ", text, flags=re.DOTALL)
    assert len(re.findall(r"\d+(?:\.\d+)?", prose)) <= MAX_README_NUMBERS


def test_the_architecture_keeps_to_its_limit_and_lists_the_packages_in_the_order_that_is_checked():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.split()) <= MAX_ARCHITECTURE_WORDS
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    rank = {package: number for number, layer in enumerate(contract["layers"]) for package in layer.split(" | ")}
    table = text.partition("## Packages")[2].partition("## One record")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    ranks = [rank[package] for package in listed]
    assert ranks == sorted(ranks, reverse=True)
    packages = {path.parent.name for path in (ROOT / "src" / "selfexplain").glob("*/__init__.py")}
    assert set(listed) == packages


def test_every_test_that_the_architecture_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert named and not [name for name in named if not (ROOT / name).is_file()]


def test_workflows_have_different_names():
    """Runs of workflows with the same name are in the same concurrency group and cancel each other."""
    workflows = (ROOT / ".github" / "workflows").glob("*.yml")
    names = [re.search(r"^name: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1] for path in workflows]
    assert names and len(set(names)) == len(names)


def test_links_lead_to_files():
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    missing = [
        f"{page.name}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not missing


def test_no_unwanted_expression_is_used():
    assert [use for _, _, use in hits("".join(("The explainer fore", "tells it.")))] == ["predict"]
    assert not [path for path in files() if hits(path.read_text(encoding="utf-8"))]


def test_no_source_file_is_too_long():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "spaces").rglob("*.py")]
    assert not [path for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > 450]
