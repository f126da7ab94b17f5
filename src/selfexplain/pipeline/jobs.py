"""Run a recipe as a job on Hugging Face's machines: which command, how long, what it costs."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.features.endpoint import KEY_VARIABLE
from selfexplain.groundtruth.config import table_of
from selfexplain.pipeline.simulator import simulator
from selfexplain.resources import resource
from selfexplain.runs.recipe import Expected, Recipe, load_recipe
from selfexplain.runs.revisions import HUB_ID

RESERVE = 1.5
"""A job may take this many times the expected time before it is stopped."""


@dataclass(frozen=True)
class Flavor:
    """A machine that jobs run on.

    Attributes:
        gpu_gb: memory of one GPU; 0 without.
        dollars_per_hour: None where the documentation of Jobs gave no price when this table was written (August 2026);
            `hf jobs hardware` tells today's.
    """

    gpu_gb: int
    dollars_per_hour: float | None = None


FLAVORS = {
    "cpu-basic": Flavor(0),
    "cpu-upgrade": Flavor(0),
    "cpu-performance": Flavor(0),
    "t4-small": Flavor(16),
    "t4-medium": Flavor(16),
    "l4x1": Flavor(24, 0.80),
    "a10g-small": Flavor(24, 1.00),
    "a10g-large": Flavor(24),
    "l40sx1": Flavor(48),
    "a100-large": Flavor(80, 2.50),
    "rtx-pro-6000": Flavor(96),
    "h200": Flavor(141, 5.00),
}


@dataclass(frozen=True)
class Job:
    """A recipe on a flavor.

    Attributes:
        secrets: names of environment variables of this machine that go along.
    """

    recipe: str
    values: tuple[str, ...]
    flavor: str
    org: str | None
    expected: Expected
    secrets: tuple[str, ...] = ("HF_TOKEN",)

    @property
    def script(self) -> Path:
        return resource("recipes/run_recipe.py")

    @property
    def arguments(self) -> list[str]:
        return [self.recipe, *self.values, *(["--org", self.org] if self.org else [])]

    @property
    def timeout_hours(self) -> int:
        return max(1, round(RESERVE * self.expected.minutes / 60 + 0.5))

    @property
    def command(self) -> str:
        secrets = [word for name in self.secrets for word in ("--secrets", name)]
        options = ["--flavor", self.flavor, *secrets, "--timeout", f"{self.timeout_hours}h"]
        return shlex.join(["hf", "jobs", "uv", "run", *options, str(self.script), *self.arguments])

    @property
    def cost(self) -> str:
        """What the expected time costs, in words."""
        price = FLAVORS[self.flavor].dollars_per_hour
        hours = self.expected.minutes / 60
        if price is None:
            return f"see `hf jobs hardware` for the price of {self.flavor}"
        return f"about ${hours * price:.2f} (${price:.2f} an hour), at most ${self.timeout_hours * price:.2f}"


def plan_job(recipe: str, values: Sequence[str], flavor: str, org: str | None) -> Job:
    """The job that runs a recipe, without a word to anybody.

    Raises:
        SelfExplainError: no such recipe or flavor, a recipe that is or reads a file of this machine or whose
            descriptions nobody could score, or too little memory.
    """
    if flavor not in FLAVORS:
        raise SelfExplainError(f"--flavor {flavor}: expected one of {', '.join(FLAVORS)}.")
    loaded = load_recipe(recipe, values)
    expected = loaded.expected
    if Path(recipe).is_file():
        raise SelfExplainError(
            f"{recipe} is a file of this machine, which a job does not see: give the name of a packaged recipe and "
            "KEY=VALUE."
        )
    secrets = ["HF_TOKEN"]
    if isinstance(loaded, Recipe):
        if here := _of_this_machine(loaded):
            named = " and ".join(f"{key}={value}" for key, value in here.items())
            raise SelfExplainError(
                f"{named}: a file of this machine, which a job does not see. Give the id of a model or dataset on the "
                "Hub (org/name)."
            )
        if simulator(loaded, Path()) or loaded.feature_description.endpoint:
            secrets += [KEY_VARIABLE] if os.environ.get(KEY_VARIABLE) else []
    gpu_gb = expected.gpu_gb or 0
    if gpu_gb > FLAVORS[flavor].gpu_gb:
        enough = [name for name, other in FLAVORS.items() if other.gpu_gb >= gpu_gb]
        raise SelfExplainError(
            f"{recipe} needs {gpu_gb:g} GB of GPU memory, {flavor} has {FLAVORS[flavor].gpu_gb}. Take one of "
            f"{', '.join(enough) or 'your own machines: none here has as much'}."
        )
    return Job(recipe, tuple(values), flavor, org, expected, tuple(secrets))


def _of_this_machine(recipe: Recipe) -> dict[str, str]:
    """The settings that name what lies here, or what can be no id of the Hub: key -> value."""
    named = {"target": recipe.target, "explainer": recipe.explainer, "corpus": recipe.corpus}
    named |= {f"comparison.models[{number}]": name for number, name in enumerate(recipe.comparison.models)}
    named |= {f"{task}: path": table_of(getattr(recipe, task)).path for task in recipe.tasks}
    found = {key: name for key, name in named.items() if name and (_is_here(name) or not HUB_ID.fullmatch(name))}
    if "feature_description" in recipe.tasks:
        features = recipe.feature_description
        if features.saes and _is_here(features.saes):  # else a release, which may have any name
            found["feature_description.saes"] = features.saes
        if features.neuronpedia and not features.neuronpedia.startswith(("http://", "https://")):
            found["feature_description.neuronpedia"] = features.neuronpedia
    return found


def _is_here(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).exists()


def submit(job: Job) -> str:
    """Start a job and return the address of its page. Needs a login that may pay for it; the secrets go along.

    Raises:
        SelfExplainError: there is no login, or the Hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HTTPError

    token = get_token()
    if token is None:
        raise SelfExplainError("a job needs a login: run `hf auth login`, or set HF_TOKEN.")
    secrets = {name: token if name == "HF_TOKEN" else os.environ[name] for name in job.secrets}
    try:
        info = HfApi().run_uv_job(
            str(job.script),
            script_args=job.arguments,
            flavor=job.flavor,
            timeout=f"{job.timeout_hours}h",
            secrets=secrets,
        )
    except HTTPError as error:
        reason = str(error)
        for secret in secrets.values():
            reason = reason.replace(secret, "***")
        raise SelfExplainError(f"the job was not started: {reason} Check your credit and your rights.") from error
    return info.url
