"""Test jobs: the command, its time limit and its cost; and the script that the job runs."""

import shlex
import subprocess
import sys
import tomllib

import pytest
from typer.testing import CliRunner

from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.pipeline import jobs
from selfexplain.pipeline.jobs import FLAVORS, plan_job, submit
from selfexplain.resources import resource


@pytest.fixture(autouse=True)
def no_prices():
    """Prices are cached per process; start every test without them."""
    jobs.hourly_prices.cache_clear()
    yield
    jobs.hourly_prices.cache_clear()


@pytest.fixture
def prices(monkeypatch):
    """The Hub lists two machines, with prices per minute and per hour."""
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    hardware = [
        SimpleNamespace(name="l4x1", unit_cost_usd=0.8 / 60, unit_label="minute"),
        SimpleNamespace(name="h200", unit_cost_usd=5.0, unit_label="hour"),
        SimpleNamespace(name="odd", unit_cost_usd=5.0, unit_label="fortnight"),
    ]
    monkeypatch.setattr(HfApi, "list_jobs_hardware", lambda self: hardware)


def test_the_command_its_time_and_its_cost(prices):
    shown = CliRunner().invoke(app, ["jobs", "tiny", "seed=3", "--flavor", "l4x1", "--org", "lab"])
    assert shown.exit_code == 0, shown.output
    command, time, cost = shown.output.splitlines()
    words = shlex.split(command)
    assert words[:4] == ["hf", "jobs", "uv", "run"] and words[words.index("--timeout") + 1] == "2h"
    assert words[-4:] == ["tiny", "seed=3", "--org", "lab"] and words[-5].endswith("run_recipe.py")
    assert time == "time: about 1 h 10 min on 2 CPU cores"
    assert cost == "cost: about $0.93 ($0.80 per hour), at most $1.60"


def test_prices_are_converted_to_hours(prices):
    assert jobs.hourly_prices() == {"l4x1": pytest.approx(0.8), "h200": 5.0}


def test_without_a_network_the_cost_names_the_command_that_shows_prices():
    assert plan_job("tiny", [], "l4x1", "lab").cost == "run `hf jobs hardware` for the price of l4x1"


def test_without_an_organisation_it_warns_that_the_results_are_lost():
    assert "the results are lost" in CliRunner().invoke(app, ["jobs", "tiny"]).output


def test_submitting_without_an_organisation_is_refused():
    result = CliRunner().invoke(app, ["jobs", "tiny", "--submit"])
    assert result.exit_code == 2 and "Add --org ORG" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"flavor": "b300"}, ["Flavor 'b300' does not exist", "l4x1"]),
        ({"recipe": "none"}, ["does not exist"]),
        (
            {"values": ["expected.gpu_gb=40"]},
            ["needs 40 GB of GPU memory (as its recipe states)", "l4x1 has 24 GB", "l40sx1, a100-large"],
        ),
        ({"values": ["expected.gpu_gb=900"]}, ["No flavor has enough"]),
        ({"values": ["evaluation.batch_size=40000000"]}, ["estimated from the sizes of its models", "No flavor"]),
    ],
)
def test_a_job_that_cannot_run_is_refused(arguments, words):
    with pytest.raises(SelfExplainError, match=r"(does not exist|GPU memory)") as error:
        plan_job(**{"recipe": "tiny", "values": [], "flavor": "l4x1", "org": None, **arguments})
    assert all(word in str(error.value) for word in words)


def test_a_local_recipe_file_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(resource("recipes/tiny.yaml").read_text())
    with pytest.raises(SelfExplainError, match=r"(a file on|files of) this machine"):
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
def test_local_models_and_data_are_refused(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    hub = ["target=lab/model", "corpus=lab/texts", "activation_patching.source.path=lab/facts"]
    assert plan_job("local_model", hub, "l4x1", None).secrets == ("HF_TOKEN",)
    assert plan_job("local_model", ["target=selfexplain/tiny", "corpus=selfexplain/tiny-world"], "l4x1", None)
    with pytest.raises(SelfExplainError, match=r"(a file on|files of) this machine") as error:
        plan_job("local_model", [*hub, value], "l4x1", None)
    assert value.partition("=")[2].strip("[]") in str(error.value)


def test_the_key_of_an_endpoint_is_sent_along(monkeypatch):
    endpoint = ["evaluation.endpoint=https://example.org/v1", "evaluation.endpoint_model=judge"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    job = plan_job("gemma_2_2b", endpoint, "l4x1", "lab")
    assert "--secrets HF_TOKEN --secrets OPENAI_API_KEY" in job.command and "sk-x" not in job.command
    assert plan_job("tiny", [], "l4x1", "lab").secrets == ("HF_TOKEN",)  # uses no endpoint
    monkeypatch.delenv("OPENAI_API_KEY")
    assert plan_job("gemma_2_2b", endpoint, "l4x1", "lab").secrets == ("HF_TOKEN",)  # a private endpoint needs no key


def test_flavors_are_those_of_the_hub():
    from huggingface_hub import JobHardware

    assert set(FLAVORS) <= {flavor.value for flavor in JobHardware}


def test_submitting_goes_through_huggingface_hub(monkeypatch):
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    request = {}

    def run_uv_job(self, script, **options):
        request.update(script=script, **options)
        return SimpleNamespace(url="https://example.org/job")

    monkeypatch.setattr(HfApi, "run_uv_job", run_uv_job)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert submit(plan_job("tiny", ["seed=3"], "l4x1", "lab")) == "https://example.org/job"
    assert request["script_args"] == ["tiny", "seed=3", "--org", "lab"] and request["flavor"] == "l4x1"
    assert request["secrets"] == {"HF_TOKEN": "hf_x"} and request["timeout"] == "2h"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    values = ["evaluation.endpoint=https://example.org/v1", "evaluation.endpoint_model=judge"]
    submit(plan_job("gemma_2_2b", values, "l4x1", "lab"))
    assert request["secrets"] == {"HF_TOKEN": "hf_x", "OPENAI_API_KEY": "sk-x"}


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
