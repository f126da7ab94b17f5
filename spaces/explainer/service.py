"""The explainer that is served: loaded once, asked one question at a time, its answers remembered.

What a program may call stands here too, with what every visitor is told when something goes wrong.
"""

import spaces  # isort: skip  (before torch: on ZeroGPU it takes the place of CUDA)

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache, wraps
from typing import Any, TypeVar

import gradio as gr

import pages
import questions
import showcase
from limits import RateLimit
from questions import PatchMap, Trial
from selfexplain import SelfExplainError
from selfexplain.publishing.names import DATASET_NAMES

logger = logging.getLogger(__name__)

SHOW = showcase.load(os.environ.get("SELFEXPLAIN_EXPLAINER"))
TASKS = SHOW.results["tasks"] if SHOW.results else SHOW.explainer.config.tasks or DATASET_NAMES  # trained on no others
LAYERS = SHOW.explainer.config.layers_of("feature_description")
BLOCKS = questions.blocks(SHOW)
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # the model switches its LoRA on and off
LIMIT = RateLimit(n=90, seconds=60)
MAP_COST = 10
SORRY = "Something went wrong on this side; it is not your input. Try another text, or come back later."
FAILED_ON_GPU = "ZeroGPU worker error"  # the title under which `spaces` tells what its worker did not answer
T = TypeVar("T")


# ---------------------------------------------------------------- questions, on a GPU where there is one


def on_gpu(seconds: int, remembered: int = 512) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Run a question on a GPU where ZeroGPU lends one, and remember so many answers.

    There the function runs in another process, and of an error only the name of its class comes back. So bad input,
    which has a message for the visitor, comes back as a value and is raised here; it is not remembered.
    """

    def decorate(ask: Callable[..., T]) -> Callable[..., T]:
        @spaces.GPU(duration=seconds)
        @wraps(ask)
        def worker(*args: Any) -> T | SelfExplainError:
            try:
                return ask(*args)
            except SelfExplainError as error:
                return error

        @lru_cache(maxsize=remembered)
        @wraps(ask)
        def asked(*args: Any) -> T:
            answer = worker(*args)
            if isinstance(answer, SelfExplainError):
                raise answer
            return answer

        return asked

    return decorate


@on_gpu(seconds=30)
def ask_feature(text: str, layer: int, token: int) -> Trial:
    return questions.ask_feature(SHOW, text, layer, token)


@on_gpu(seconds=30)
def ask_direction(index: int) -> Trial:
    return questions.ask_direction(SHOW, SHOW.features[index])


@on_gpu(seconds=30)
def ask_patch(text: str, source: str, layers: tuple[int, ...], token: int, source_token: int) -> Trial:
    return questions.ask_patch(SHOW, text, source, layers, token, source_token)


@on_gpu(seconds=60, remembered=64)
def ask_map(text: str, source: str, source_token: int) -> PatchMap:
    return questions.ask_map(SHOW, text, source, source_token)


@on_gpu(seconds=30)
def ask_ablation(text: str, remove: str) -> Trial:
    return questions.ask_ablation(SHOW, text, remove)


# ---------------------------------------------------------------- who may ask, and what is told when it fails


def admit(request: gr.Request | None, cost: int = 1) -> None:
    """Count a question of a visitor.

    Raises:
        SelfExplainError: more of them than the limit allows.
    """
    if request is not None and not LIMIT.allows(request.client.host, cost):
        raise SelfExplainError(f"That is more than {LIMIT.n} questions a minute. Wait a moment, then go on.")


def needs(kind: type, what: str, **given: object) -> None:
    """Raise SelfExplainError for an argument of the wrong type: programs can send any JSON."""
    for name, value in given.items():
        if type(value) is not kind:  # True is no number here
            raise SelfExplainError(f"`{name}` has to be {what}; it is {value!r:.60}.")


def message(error: Exception) -> str:
    """What a visitor is told of an error: what was wrong with the input, what ZeroGPU says of its quota, or sorry."""
    if isinstance(error, SelfExplainError):
        return str(error)
    if isinstance(error, gr.Error) and error.title != FAILED_ON_GPU:
        return str(error.message)
    logger.error("a question failed", exc_info=error)
    return SORRY


def shown(handler: Callable[[], str]) -> str:
    """HTML of an answer, or of what went wrong; no visitor sees a traceback."""
    try:
        return handler()
    except Exception as error:
        return pages.error(message(error))


def told(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The same for programs."""

    @wraps(endpoint)
    def wrapped(*args, **kwargs):
        try:
            return endpoint(*args, **kwargs)
        except Exception as error:
            raise gr.Error(message(error), print_exception=False) from None

    return wrapped


# ---------------------------------------------------------------- endpoints


@told
def explain_feature(text: str, layer: int, token: int = -1, request: gr.Request = None) -> dict:  # type: ignore
    """Say in words what the target model holds at one token of a text, after one layer.

    Args:
        text: what the target reads.
        layer: the decoder block after which the vector is taken, from 0.
        token: index of the token, from 0, the begin-of-text token included; -1 is the last.

    Returns:
        The explanation with its confidence, what the explainer says of another vector (control), what the target says
        right after that token (after), and where in texts it holds something alike (exemplars).
    """
    admit(request)
    needs(str, "a text", text=text)
    needs(int, "a whole number", layer=layer, token=token)
    return asdict(ask_feature(text, layer, token))


@told
def explain_patch(
    text: str, source: str, layers: list[int], token: int, source_token: int, request: gr.Request = None  # type: ignore
) -> dict:  # fmt: skip
    """Foretell what the target says if what it holds at a token of one text is replaced from another text.

    Args:
        text: what the target reads.
        source: the text that the vector is taken from.
        layers: contiguous decoder blocks; the vector is their mean and replaces the output of each.
        token: index of the token of text that is patched.
        source_token: index of the token of source that the vector is taken from.

    Returns:
        The explanation with its confidence, what the explainer says with another vector (control), and what really
        happens (before, after).
    """
    admit(request)
    needs(str, "a text", text=text, source=source)
    needs(int, "a whole number", token=token, source_token=source_token)
    needs(list, "a list of whole numbers", layers=layers)
    needs(int, "a whole number", **{f"layers[{n}]": layer for n, layer in enumerate(layers)})
    return asdict(ask_patch(text, source, tuple(layers), token, source_token))


@told
def explain_ablation(text: str, remove: str, request: gr.Request = None) -> dict:  # type: ignore
    """Foretell whether the target's answer changes if a part of its input is removed, and to what.

    Args:
        text: what the target reads, with the part.
        remove: the part, letter by letter.

    Returns:
        The explanation with its confidence, what the explainer says when the part is gone already (control), and what
        really happens (before, after).
    """
    admit(request)
    needs(str, "a text", text=text, remove=remove)
    return asdict(ask_ablation(text, remove))


ENDPOINTS = {
    "feature_description": explain_feature,
    "activation_patching": explain_patch,
    "input_ablation": explain_ablation,
}
