"""Decide which simulator scores the descriptions of a recipe: the offline one, or a chat model behind an endpoint."""

import math
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.features.chat_simulator import JUDGED_AT_ONCE
from selfexplain.features.endpoint import Endpoint
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.runs.recipe import Recipe
from selfexplain.runs.run_directory import RunDirectory


def simulator(recipe: Recipe, run_dir: Path) -> Endpoint | None:
    """Return the endpoint whose model simulates activations; None for the offline simulator, or if the recipe has no
    descriptions to score.

    Raises:
        SelfExplainError: the describers of the ground truth write free text, which the offline simulator cannot read,
            or settings of the endpoint are missing.
    """
    config, features = recipe.evaluation, recipe.find_settings(FeatureConfig)
    if features is None:
        return None
    url, model = config.endpoint or features.endpoint, config.endpoint_model or features.endpoint_model
    free = [describer for describer in features.descriptions if describer != "offline"]
    wants_endpoint = free or config.endpoint or config.endpoint_model or features.simulator == "endpoint"
    if config.simulator == "offline" or not (config.simulator or wants_endpoint):
        if free:
            raise SelfExplainError(
                "evaluation.simulator is 'offline', which cannot read free-text descriptions "
                f"(feature_description.descriptions has {' and '.join(free)}); every score would be 0. Remove "
                "evaluation.simulator, and name a chat model: evaluation.endpoint=URL evaluation.endpoint_model=NAME."
            )
        return None
    if not (url and model):
        reason = f"descriptions by {' and '.join(free)} are free text" if free else "evaluation.simulator is 'endpoint'"
        raise SelfExplainError(
            f"A chat model has to score the descriptions, because {reason}. Set evaluation.endpoint=URL (it is {url}; "
            "give the base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1) and "
            f"evaluation.endpoint_model=NAME (it is {model}). Without a chat model, --stage train runs everything up "
            "to training."
        )
    replies = RunDirectory(run_dir).replies
    return Endpoint(url, model, replies, config.endpoint_concurrency, config.endpoint_timeout)


def requests_per_description(recipe: Recipe) -> int:
    """Number of requests to the endpoint per description: one per window for simulation, plus those for detection,
    which shows several windows per request."""
    features = recipe.find_settings(FeatureConfig)
    if features is None:
        return 0
    windows = features.n_top + features.n_sampled + features.n_random
    return windows + math.ceil(windows / JUDGED_AT_ONCE)
