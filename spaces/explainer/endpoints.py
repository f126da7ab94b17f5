"""The API endpoints, which are MCP tools as well. Their docstrings are the descriptions of the tools."""

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import Any

import gradio as gr

import service
from selfexplain import SelfExplainError
from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.utils.registry import Registry

ENDPOINTS: Registry[Callable[..., dict]] = Registry("endpoint")
"""Task -> endpoint."""


def raises_gradio_errors(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Make an endpoint raise every error as a `gr.Error` without a traceback."""

    @wraps(endpoint)
    def wrapped(*args, **kwargs):
        try:
            return endpoint(*args, **kwargs)
        except Exception as error:
            raise gr.Error(service.error_message(error), print_exception=False) from None

    return wrapped


def check_type(kind: type, kind_name: str, **arguments: object) -> None:
    """Check arguments, which programs can send as any JSON value.

    Raises:
        SelfExplainError: An argument does not have exactly this type; True is not an integer.
    """
    for name, value in arguments.items():
        if type(value) is not kind:
            raise SelfExplainError(f"`{name}` is {value!r:.60}. Expected {kind_name}.")


@raises_gradio_errors
def explain_feature(text: str, layer: int, token: int = -1, request: gr.Request = None) -> dict:  # type: ignore
    """Describe what the target model's residual stream encodes at one token of a text, after one layer.

    Args:
        text: Text that the target reads.
        layer: Decoder block after which the vector is taken, counted from 0.
        token: Index of the token, counted from 0 and including the begin-of-text token; -1 is the last token.

    Returns:
        The explanation with its confidence, the explainer's description of a different vector (control), the target's
        next token after that position (after), and texts with similar vectors (exemplars).
    """
    service.admit(request)
    check_type(str, "a string", text=text)
    check_type(int, "an integer", layer=layer, token=token)
    return asdict(service.ask_feature(text, layer, token))


@raises_gradio_errors
def explain_patch(
    text: str, source: str, layers: list[int], token: int, source_token: int, request: gr.Request = None  # type: ignore
) -> dict:  # fmt: skip
    """Predict how the target's output changes if a vector from one text replaces a vector in a different text.

    Args:
        text: Text that the target reads.
        source: Text that the vector is taken from.
        layers: Consecutive decoder blocks; the vector is the mean over them and replaces the output of each.
        token: Index of the patched token in text.
        source_token: Index of the token in source that the vector is taken from.

    Returns:
        The explanation with its confidence, the explainer's prediction for a different vector (control), and the
        target's measured output without and with the patch (before, after).
    """
    service.admit(request)
    check_type(str, "a string", text=text, source=source)
    check_type(int, "an integer", token=token, source_token=source_token)
    check_type(list, "a list of integers", layers=layers)
    check_type(int, "an integer", **{f"layers[{n}]": layer for n, layer in enumerate(layers)})
    return asdict(service.ask_patch(text, source, tuple(layers), token, source_token))


@raises_gradio_errors
def explain_ablation(text: str, remove: str, request: gr.Request = None) -> dict:  # type: ignore
    """Predict whether the target's answer changes if a part of its input is removed, and to what.

    Args:
        text: Text that the target reads, including the part.
        remove: The exact part to remove.

    Returns:
        The explanation with its confidence, the explainer's prediction when the part is already gone (control), and
        the target's measured answer with and without the part (before, after).
    """
    service.admit(request)
    check_type(str, "a string", text=text, remove=remove)
    return asdict(service.ask_ablation(text, remove))


ENDPOINTS.register(feature_description.TASK.name, explain_feature)
ENDPOINTS.register(activation_patching.TASK.name, explain_patch)
ENDPOINTS.register(input_ablation.TASK.name, explain_ablation)
