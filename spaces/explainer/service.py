"""The explainer that the demo serves: ask it on a GPU where there is one, cache answers, limit rates, report errors."""

import spaces  # isort: skip  (before torch: on ZeroGPU it replaces CUDA)

import logging
import os
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import gradio as gr

import showcase
from asking import ablation, feature, patch
from asking.trial import PatchMap, Trial
from limits import RateLimit, visitor_at
from rendering.html import error_box
from selfexplain import SelfExplainError
from selfexplain.tasks import BUILT_IN, feature_description

logger = logging.getLogger(__name__)

SHOW = showcase.load(os.environ.get("SELFEXPLAIN_EXPLAINER"))
TASK_NAMES = tuple(
    SHOW.results.tasks if SHOW.results else SHOW.explainer.config.tasks or (task.name for task in BUILT_IN)
)
"""Tasks that the explainer was trained on."""
LAYERS = SHOW.explainer.config.layers_of(feature_description.TASK.name)
BLOCKS = patch.blocks(SHOW)
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}
"""Gradio settings of everything that runs the model: switching LoRA on and off is not thread-safe."""
LIMIT = RateLimit(n=90, seconds=60)
MAP_COST = 10
SEARCH_LIMIT = RateLimit(n=300, seconds=60)
"""Searches run on every key, but cost little."""
SORRY = (
    "Something went wrong in the demo. The log of the server has the details. Try a different text, or come back later."
)
FAILED_ON_GPU = "ZeroGPU worker error"
"""Title of the errors by which `spaces` reports that its worker failed."""

T = TypeVar("T")


def on_gpu(seconds: int, cache_size: int = 512) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Run a function on a GPU if ZeroGPU provides one, and cache its results.

    ZeroGPU runs the function in a different process, from which only the class name of an error returns. Bad input
    has a message for the visitor, so the worker returns that error as a value. It is raised here and not cached.

    Args:
        seconds: GPU time to reserve.
        cache_size: Number of results to cache.
    """

    def decorate(ask: Callable[..., T]) -> Callable[..., T]:
        @spaces.GPU(duration=seconds)
        @wraps(ask)
        def worker(*args: object) -> T | SelfExplainError:
            try:
                return ask(*args)
            except SelfExplainError as error:
                return error

        @lru_cache(maxsize=cache_size)
        @wraps(ask)
        def cached(*args: object) -> T:
            answer = worker(*args)
            if isinstance(answer, SelfExplainError):
                raise answer
            return answer

        return cached

    return decorate


@on_gpu(seconds=30)
def ask_feature(text: str, layer: int, token: int) -> Trial:
    return feature.ask_feature(SHOW, text, layer, token)


@on_gpu(seconds=30)
def ask_direction(index: int) -> Trial:
    return feature.ask_direction(SHOW, SHOW.features[index])


@on_gpu(seconds=30)
def ask_patch(text: str, source: str, layers: tuple[int, ...], token: int, source_token: int) -> Trial:
    return patch.ask_patch(SHOW, text, source, layers, token, source_token)


@on_gpu(seconds=60, cache_size=64)
def ask_map(text: str, source: str, source_token: int) -> PatchMap:
    return patch.ask_map(SHOW, text, source, source_token)


@on_gpu(seconds=30)
def ask_ablation(text: str, remove: str) -> Trial:
    return ablation.ask_ablation(SHOW, text, remove)


def admit(request: gr.Request | None, cost: int = 1, limit: RateLimit | None = None) -> None:
    """Count a question of a visitor.

    Args:
        request: Request of the visitor; None for calls from tests and from the demo itself.
        cost: Number of questions that this one counts for.
        limit: Limit to count it for; by default the one of questions.

    Raises:
        SelfExplainError: The visitor exceeds the rate limit.
    """
    limit = limit or LIMIT
    if request is not None and not limit.allows(visitor_at(request.client.host), cost):
        raise SelfExplainError(f"You asked more than {limit.n} questions per minute. Wait a moment and try again.")


def error_message(error: Exception) -> str:
    """Return what a visitor sees of an error: bad input and exceeded quotas in full, everything else as an apology."""
    if isinstance(error, SelfExplainError):
        return str(error)
    if isinstance(error, gr.Error) and error.title != FAILED_ON_GPU:
        return str(error.message)
    logger.error("a question failed", exc_info=error)
    return SORRY


def html_or_error(render: Callable[[], str]) -> str:
    """Return the HTML of an answer, or an error message without a traceback."""
    try:
        return render()
    except Exception as error:
        return error_box(error_message(error))
