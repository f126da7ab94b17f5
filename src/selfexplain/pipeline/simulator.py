"""Who foretells activations from descriptions where the explainers of a recipe are scored."""

import math
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.features.describers.chat_model import JUDGED_AT_ONCE
from selfexplain.features.endpoint import Endpoint
from selfexplain.runs.recipe import Recipe

REPLIES = "replies.sqlite"
"""In the run directory, beside the steps' outputs: what was answered once is never paid for again."""


def simulator(recipe: Recipe, run_dir: Path) -> Endpoint | None:
    """The endpoint whose model simulates; None for the offline simulator, and without feature descriptions.

    Raises:
        SelfExplainError: the writers of the ground truth use words that the offline simulator cannot read, or settings
            of the endpoint are missing.
    """
    config, features = recipe.evaluation, recipe.feature_description
    if "feature_description" not in recipe.tasks:
        return None
    url, model = config.endpoint or features.endpoint, config.endpoint_model or features.endpoint_model
    free = [writer for writer in features.descriptions if writer != "offline"]
    is_wanted = free or config.endpoint or config.endpoint_model or features.simulator == "endpoint"
    if config.simulator == "offline" or not (config.simulator or is_wanted):
        if free:
            raise SelfExplainError(
                f"evaluation.simulator is 'offline', which cannot read the free words of {' and '.join(free)} "
                "(feature_description.descriptions), and every score would be 0. Leave it out, and name a chat model: "
                "evaluation.endpoint=URL evaluation.endpoint_model=NAME."
            )
        return None
    if not (url and model):
        who = f"the free words of {' and '.join(free)} are" if free else "evaluation.simulator is 'endpoint': they are"
        raise SelfExplainError(
            f"descriptions are scored by how well they foretell activations, and {who} read by a chat model only: set "
            f"evaluation.endpoint=URL (given: {url}; OpenAI-compatible, such as http://127.0.0.1:8000/v1) and "
            f"evaluation.endpoint_model=NAME (given: {model}). --stage train goes as far as it can without."
        )
    return Endpoint(url, model, run_dir / REPLIES, config.endpoint_concurrency, config.endpoint_timeout)


def requests_a_description(recipe: Recipe) -> int:
    """How often the endpoint is asked about each: once a window to simulate, and for several windows to detect."""
    features = recipe.feature_description
    windows = features.n_top + features.n_sampled + features.n_random
    return windows + math.ceil(windows / JUDGED_AT_ONCE)
