"""Run a recipe as a job on the machines of Hugging Face: the command, the time limit and the cost."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.features.endpoint import KEY_VARIABLE
from selfexplain.groundtruth.config import FeatureConfig, source_path
from selfexplain.pipeline.gpu_memory import recipe_memory
from selfexplain.pipeline.simulator import simulator
from selfexplain.resources import resource
from selfexplain.runs.recipe import Expected, Recipe, load_recipe
from selfexplain.runs.settings import exists_here, local_files
from selfexplain.utils.names import is_hub_id

RESERVE = 1.5
"""Time limit of a job, as a multiple of the expected time."""

FLAVORS = {
    "cpu-basic": 0,
    "cpu-upgrade": 0,
    "cpu-performance": 0,
    "t4-small": 16,
    "t4-medium": 16,
    "l4x1": 24,
    "a10g-small": 24,
    "a10g-large": 24,
    "l40sx1": 48,
    "a100-large": 80,
    "rtx-pro-6000": 96,
    "h200": 141,
}
"""Machines with at most one GPU -> memory of the GPU in GB."""


@dataclass(frozen=True)
class Job:
    """A recipe and the machine ("flavor") to run it on.

    Attributes:
        recipe: name of a packaged recipe.
        values: KEY=VALUE overrides.
        flavor: name of the machine.
        org: organisation or user to publish the run to; None to publish nothing.
        expected: time, memory and disk space of the recipe.
        secrets: names of the environment variables of this machine that the job receives.
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
        """The cost of the expected time and of the time limit, in words."""
        price = hourly_prices().get(self.flavor)
        if price is None:
            return f"run `hf jobs hardware` for the price of {self.flavor}"
        hours = self.expected.minutes / 60
        return f"about ${hours * price:.2f} (${price:.2f} per hour), at most ${self.timeout_hours * price:.2f}"


def plan_job(recipe: str, values: Sequence[str], flavor: str, org: str | None) -> Job:
    """Return the job that runs a recipe, without starting it.

    Raises:
        SelfExplainError: the recipe or flavor does not exist, the recipe is a local file or reads one, no simulator can
            score its descriptions, or the GPU has too little memory.
    """
    if flavor not in FLAVORS:
        raise SelfExplainError(f"Flavor {flavor!r} does not exist. Give --flavor with one of {', '.join(FLAVORS)}.")
    loaded = load_recipe(recipe, values)
    if Path(recipe).is_file():
        raise SelfExplainError(
            f"{recipe} is a file on this machine, which a job cannot read. Give the name of a packaged recipe and "
            "KEY=VALUE overrides."
        )
    secrets = ["HF_TOKEN"]
    if isinstance(loaded, Recipe):
        if here := _local_names(loaded):
            named = " and ".join(f"{key}={value}" for key, value in here.items())
            raise SelfExplainError(
                f"{named}: a job cannot read files of this machine. Give the id of a model or dataset on the Hub "
                "(org/name)."
            )
        features = loaded.find_settings(FeatureConfig)
        if simulator(loaded, Path()) or (features and features.endpoint):
            secrets += [KEY_VARIABLE] if os.environ.get(KEY_VARIABLE) else []
        _check_memory(loaded, recipe, flavor)
    return Job(recipe, tuple(values), flavor, org, loaded.expected, tuple(secrets))


def _check_memory(recipe: Recipe, name: str, flavor: str) -> None:
    """Raise SelfExplainError if the flavor's GPU has less memory than the recipe states or than its models need."""
    stated, memory = recipe.expected.gpu_gb or 0, None
    if FLAVORS[flavor]:  # on a machine without a GPU, the run uses the CPU
        memory = recipe_memory(recipe)
    estimated = memory.total / 2**30 if memory else 0  # GPU sizes are in GiB
    needed = max(stated, estimated)
    if needed <= FLAVORS[flavor]:
        return
    enough = [other for other, gpu_gb in FLAVORS.items() if gpu_gb >= needed]
    remedy = f"Use one of {', '.join(enough)}." if enough else "No flavor has enough; use your own machine."
    source = "as its recipe states" if needed == stated else "estimated from the sizes of its models"
    raise SelfExplainError(
        f"{name} needs {needed:.0f} GB of GPU memory ({source}), but {flavor} has {FLAVORS[flavor]} GB. {remedy}"
    )


def _local_names(recipe: Recipe) -> dict[str, str]:
    """Settings that name a local file or directory, or something that cannot be a Hub id: key -> value."""
    named = {"target": recipe.target, "explainer": recipe.explainer, "corpus": recipe.corpus}
    named |= {f"comparison.models[{number}]": name for number, name in enumerate(recipe.comparison.models)}
    named |= {f"{task}: path": source_path(recipe.settings(task)) for task in recipe.tasks}
    local = {key: name for key, name in named.items() if name and (exists_here(name) or not is_hub_id(name))}
    for task in recipe.tasks:
        local |= {f"{task}.{key}": path for key, path in local_files(recipe.settings(task)).items()}
    return local


@cache
def hourly_prices() -> dict[str, float]:
    """Flavor -> US dollars per hour, current prices on the Hub; empty if the Hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    per_hour = {"second": 3600, "minute": 60, "hour": 1}
    try:
        hardware = HfApi().list_jobs_hardware()
    except (HTTPError, OfflineModeIsEnabled, OSError):
        return {}
    return {one.name: one.unit_cost_usd * per_hour[one.unit_label] for one in hardware if one.unit_label in per_hour}


def submit(job: Job) -> str:
    """Start a job and return the address of its page. The logged-in account pays. The secrets are sent with the job.

    Raises:
        SelfExplainError: there is no login, or the Hub refuses the job.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HTTPError

    token = get_token()
    if token is None:
        raise SelfExplainError(
            "No Hugging Face token was found, and a job needs one. Run `hf auth login`, or set HF_TOKEN."
        )
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
        raise SelfExplainError(
            f"The job was not started: {reason} Check the credit and the permissions of your account."
        ) from error
    return info.url
