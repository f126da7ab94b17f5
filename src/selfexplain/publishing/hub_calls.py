"""Call the Hub: retry after temporary failures, and turn permanent ones into errors that say what to do."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 6
"""Attempts per call, the first one included."""

FIRST_WAIT = 1.0
"""Seconds before the second attempt. The wait doubles each time, and is at least what the Hub asks for."""

TIMEOUT = 60.0
"""Seconds without a byte from the Hub after which an attempt fails; by default huggingface_hub waits forever."""

_TEMPORARY_STATUS = (408, 409, 412, 429)
"""Status codes, besides 5xx, that may not recur: timeouts, conflicts with another commit, and rate limits."""

_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
_CONTINUE = "Everything pushed so far is kept: the same command continues from there."


def call_hub(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function of huggingface_hub, and call it again after failures that may be temporary.

    Args:
        call: the function.
        args: its positional arguments; the first one is named in the log.
        kwargs: its keyword arguments.

    Returns:
        What the function returns.

    Raises:
        Exception: the error of the last attempt. A RuntimeError, in which huggingface_hub wraps failed uploads, is
            replaced by its cause, or by a ConnectionError if it has none.
    """
    subject = str(args[0]) if args else getattr(call, "__name__", "the Hub")

    def log_wait(state: RetryCallState) -> None:
        error = _error_of(state)
        response = _response_of(error)
        reason = response.status_code if response is not None else type(error).__name__
        logger.warning("%s: %s. Trying again in %g s.", subject, reason, state.upcoming_sleep)

    retrying = Retrying(
        retry=retry_if_exception(_is_temporary),
        stop=stop_after_attempt(TRIES),
        wait=_wait,
        sleep=lambda seconds: time.sleep(seconds),
        before_sleep=log_wait,
        reraise=True,
    )
    try:
        return retrying(_with_timeout, call, *args, **kwargs)
    except RuntimeError as error:
        cause = _cause(error)
        raise (ConnectionError(str(cause)) if isinstance(cause, RuntimeError) else cause) from None


def _with_timeout(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    from huggingface_hub import get_session

    get_session().timeout = TIMEOUT
    return call(*args, **kwargs)


def _is_temporary(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled) or not isinstance(
        error, HTTPError | ConnectionError | TimeoutError | RuntimeError
    ):
        return False
    response = _response_of(_cause(error))
    return response is None or response.status_code in _TEMPORARY_STATUS or response.status_code >= 500


def _wait(state: RetryCallState) -> float:
    """Seconds until the next attempt."""
    response = _response_of(_error_of(state))
    requested = response.headers.get("Retry-After", "") if response is not None else ""
    # `upcoming_sleep` still has the wait before the attempt that just failed.
    return max(2 * state.upcoming_sleep or FIRST_WAIT, float(requested) if requested.isdigit() else 0.0)


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None  # tenacity asks only after failed attempts
    return _cause(error)


def _cause(error: BaseException) -> BaseException:
    """The error behind a RuntimeError of huggingface_hub; any other error itself."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error


def _response_of(error: BaseException) -> Any:
    """The HTTP response behind an error; None if there was none."""
    from huggingface_hub.errors import HfHubHTTPError

    return error.response if isinstance(error, HfHubHTTPError) else None


@contextmanager
def token_for(kind: str, name: str) -> Iterator[None]:
    """Request tokens for one repository inside the block.

    With Trusted Publishing a token is valid for one repository, which huggingface_hub reads from the environment.
    Without Trusted Publishing this does nothing.

    Args:
        kind: type of the repository.
        name: its id.
    """
    scope = os.environ.get("HF_OIDC_RESOURCE")
    if not scope:
        yield
        return
    os.environ["HF_OIDC_RESOURCE"] = f"{'' if kind == 'model' else kind + 's/'}{name}"
    try:
        yield
    finally:
        os.environ["HF_OIDC_RESOURCE"] = scope


def repository_state(name: str, api: "HfApi", kind: str, revision: str | None) -> Any:
    """Read the head commit of a repository and its files with their hashes, in one call.

    Returns:
        The repository's info, or None if there is no such repository or branch.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return api.repo_info(name, repo_type=kind, revision=revision, files_metadata=True)
    except GatedRepoError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


@contextmanager
def report_errors(api: "HfApi", org: str) -> Iterator[None]:
    """Turn what the Hub or the network refuses inside the block into errors that say what to do.

    Args:
        api: client; its endpoint is named in the errors.
        org: organisation or user that is published to.

    Raises:
        SelfExplainError: for any failed call; it never contains a token.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        OIDCError,
    )

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SelfExplainError("HF_HUB_OFFLINE is set, so nothing can be published. Unset it.") from error
    except LocalTokenNotFoundError as error:
        raise SelfExplainError(f"You are not logged in to {api.endpoint}. {_LOGIN}") from error
    except OIDCError as error:
        raise SelfExplainError(
            f"Trusted Publishing returned no token: {error}. Check the trusted publishers in the repository's settings."
        ) from error
    except HfHubHTTPError as error:
        message = " ".join((error.server_message or str(error)).split())
        text = f"{api.endpoint} refused the request ({error.response.status_code}): {message}"
        raise SelfExplainError(_without_token(f"{_as_sentence(text)} {_advice(error, org)}")) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        text = f"{api.endpoint} cannot be reached ({error}). Check the network and HF_ENDPOINT. {_CONTINUE}"
        raise SelfExplainError(_without_token(text)) from error


def _advice(error: Any, org: str) -> str:
    """What to do about a refused request."""
    from huggingface_hub.errors import RepositoryNotFoundError

    status = error.response.status_code
    if status == 401:
        return _LOGIN
    if status == 403:
        return f"Ask for write access to {org}, or use a token that has it."
    if isinstance(error, RepositoryNotFoundError):
        return "Create the repository on the Hub first, or publish with a login that may create it."
    if status == 429 or status >= 500:
        return f"The Hub is overloaded or unavailable. {_CONTINUE}"
    return f"Change what was refused and publish again. {_CONTINUE}"


def _as_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = None if os.environ.get("HF_OIDC_RESOURCE") else get_token()
    return text.replace(token, "***") if token else text
