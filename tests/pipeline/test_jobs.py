"""A recipe as a job: the command, its time and its cost; and the script that the job runs."""

import shlex
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.pipeline.jobs import FLAVORS, plan_job, submit
from selfexplain.resources import resource


def test_the_command_its_time_and_its_cost():
    shown = CliRunner().invoke(app, ["jobs", "tiny", "seed=3", "--flavor", "l4x1", "--org", "lab"])
    assert shown.exit_code == 0, shown.output
    command, time, cost = shown.output.splitlines()
    words = shlex.split(command)
    assert words[:4] == ["hf", "jobs", "uv", "run"] and words[words.index("--timeout") + 1] == "2h"
    assert words[-4:] == ["tiny", "seed=3", "--org", "lab"] and words[-5].endswith("run_recipe.py")
    assert time == "time: about 45 min 0 s on 2 CPU cores"
    assert cost == "cost: about $0.60 ($0.80 an hour), at most $1.60"


def test_without_an_organisation_it_warns_that_nothing_is_kept():
    assert "nothing is kept" in CliRunner().invoke(app, ["jobs", "tiny"]).output


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flavor": "b300"}, ["--flavor b300", "l4x1"]),
        ({"recipe": "none"}, ["no such file"]),
        ({"values": ["expected.gpu_gb=40"]}, ["needs 40 GB", "l4x1 has 24", "l40sx1, a100-large"]),
        ({"values": ["expected.gpu_gb=900"]}, ["your own machines"]),
    ],
)
def test_what_cannot_run_is_told(given, words):
    with pytest.raises(SelfExplainError) as error:
        plan_job(**{"recipe": "tiny", "values": [], "flavor": "l4x1", "org": None, **given})
    assert all(word in str(error.value) for word in words)


def test_a_recipe_of_this_machine_is_not_sent(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(resource("recipes/tiny.yaml").read_text())
    with pytest.raises(SelfExplainError, match="a file of this machine"):
        plan_job(str(path), [], "l4x1", None)


@pytest.mark.parametrize(
    "value",
    [
        "target=./mymodel",
        "target=here/model",
        "corpus=text.txt",
        "explainer=~/other",
        "activation_patching.source.path=facts.csv",
        "feature_description.saes=here",
        "feature_description.neuronpedia=exports/{layer}",
        "comparison.models=[./third]",
    ],
)
def test_what_lies_on_this_machine_is_not_read_by_a_job(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    hub = ["target=lab/model", "corpus=lab/texts", "activation_patching.source.path=lab/facts"]
    assert plan_job("local_model", hub, "l4x1", None).secrets == ("HF_TOKEN",)
    assert plan_job("local_model", ["target=selfexplain/tiny", "corpus=selfexplain/tiny-world"], "l4x1", None)
    with pytest.raises(SelfExplainError, match="a file of this machine") as error:
        plan_job("local_model", [*hub, value], "l4x1", None)
    assert value.partition("=")[2].strip("[]") in str(error.value)


def test_the_key_of_an_endpoint_goes_along(monkeypatch):
    asked = ["evaluation.endpoint=https://example.org/v1", "evaluation.endpoint_model=judge"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    job = plan_job("gemma_2_2b", asked, "l4x1", "lab")
    assert "--secrets HF_TOKEN --secrets OPENAI_API_KEY" in job.command and "sk-x" not in job.command
    assert plan_job("tiny", [], "l4x1", "lab").secrets == ("HF_TOKEN",)  # asks nobody
    monkeypatch.delenv("OPENAI_API_KEY")
    assert plan_job("gemma_2_2b", asked, "l4x1", "lab").secrets == ("HF_TOKEN",)  # an endpoint of one's own needs none


def test_flavors_are_those_of_the_hub():
    from huggingface_hub import JobHardware

    assert set(FLAVORS) <= {flavor.value for flavor in JobHardware}


def test_submitting_goes_through_huggingface_hub(monkeypatch):
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    asked = {}

    def run_uv_job(self, script, **options):
        asked.update(script=script, **options)
        return SimpleNamespace(url="https://example.org/job")

    monkeypatch.setattr(HfApi, "run_uv_job", run_uv_job)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert submit(plan_job("tiny", ["seed=3"], "l4x1", "lab")) == "https://example.org/job"
    assert asked["script_args"] == ["tiny", "seed=3", "--org", "lab"] and asked["flavor"] == "l4x1"
    assert asked["secrets"] == {"HF_TOKEN": "hf_x"} and asked["timeout"] == "2h"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    values = ["evaluation.endpoint=https://example.org/v1", "evaluation.endpoint_model=judge"]
    submit(plan_job("gemma_2_2b", values, "l4x1", "lab"))
    assert asked["secrets"] == {"HF_TOKEN": "hf_x", "OPENAI_API_KEY": "sk-x"}


@pytest.mark.parametrize("order", [["seed=3", "--org", "lab"], ["--org", "lab", "seed=3"]])
def test_the_script_names_its_dependencies_and_runs_and_publishes(monkeypatch, order):
    script = resource("recipes/run_recipe.py").read_text()
    header = script.split("# /// script\n")[1].split("# ///")[0]
    values = tomllib.loads("".join(line.removeprefix("# ") for line in header.splitlines(keepends=True)))
    assert values == {"requires-python": ">=3.11", "dependencies": ["selfexplain[gpu]"]}
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command[1:]))
    monkeypatch.setattr(sys, "argv", ["run_recipe.py", "tiny", *order])
    exec(compile(script, "run_recipe.py", "exec"), {"__name__": "__main__", "__doc__": "x"})
    assert calls == [
        ["-m", "selfexplain", "run", "tiny", "seed=3", "output_dir=runs/tiny"],
        ["-m", "selfexplain", "publish", "runs/tiny", "--org", "lab"],
    ]
