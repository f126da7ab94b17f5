"""Send requests to an OpenAI-compatible chat endpoint: concurrently, with retries, and with a cache of replies."""

import hashlib
import json
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.features.dialect import Dialect, without_reasoning
from selfexplain.features.reply_cache import ReplyCache, write_reply

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

logger = logging.getLogger(__name__)

CACHE_VERSION = 2
"""Part of the key of every cached reply. Raise it when the meaning of prompts changes."""
CHARACTERS_PER_TOKEN = 4  # of English text; used for the cost estimate only
MAX_FAILED = 0.05  # fraction of requests that may fail after all retries before the remaining ones are cancelled
KEY_VARIABLE = "OPENAI_API_KEY"
INVALID_STATUSES = (400, 422)  # for requests with a parameter that the endpoint does not accept, among others
RETRIED_STATUSES = (408, 409, 425, 429)  # in addition to every status from 500 on


@dataclass(frozen=True)
class Request:
    """One question to a chat model.

    Attributes:
        system: system prompt.
        user: user message.
        max_tokens: maximum number of tokens of the reply, without reasoning.
        temperature: sampling temperature.
        sample: seed of the sampling. A different number requests a new reply to the same question.
    """

    system: str
    user: str
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0


@dataclass(frozen=True)
class Cost:
    """The estimated cost of some requests.

    Attributes:
        requests: number of requests to send.
        free: number of requests that cost nothing because they are cached or repeated.
        prompt_tokens: number of prompt tokens, estimated from the number of characters.
        most_reply_tokens: maximum number of reply tokens.
    """

    requests: int
    free: int
    prompt_tokens: int
    most_reply_tokens: int


class _TransientError(Exception):
    """A failure that a retry can resolve: a timeout, a rate limit, a server error or an unreadable response.

    Attributes:
        retry_after: seconds to wait as requested by the endpoint; None if it requests nothing.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _RefusedError(Exception):
    """A failure that every further request would repeat, such as an invalid key."""


@dataclass(frozen=True)
class _Outcome:
    """The result of one request.

    Attributes:
        reply: text of the reply; None if there is none.
        failure: reason of the failure; None if the request succeeded or was cancelled.
    """

    reply: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """An endpoint with OpenAI's chat protocol: `transformers serve`, TGI, vLLM, or a hosted service.

    The API key is read from the environment variable `OPENAI_API_KEY`. A Hugging Face token is never sent implicitly.
    Requests have `max_tokens`, `temperature` and `seed`. Parameters that the endpoint rejects are replaced (by
    `max_completion_tokens`) or left out. If a reply ends before its first word, because the model reasons, more tokens
    are allowed.

    Attributes:
        url: base URL, such as `http://127.0.0.1:8000/v1`.
        model: name of the model at the endpoint.
        cache: SQLite file with replies. Cached requests are not sent again.
        concurrency: maximum number of simultaneous requests.
        timeout: maximum duration of a request in seconds.
        n_retries: number of retries after a timeout, a rate limit or a server error.
        backoff: seconds before the first retry, doubled for each further one. The endpoint's `Retry-After` header takes
            precedence.
    """

    url: str
    model: str
    cache: Path
    concurrency: int = 8
    timeout: float = 120.0
    n_retries: int = 5
    backoff: float = 1.0
    dialect: Dialect = field(default_factory=Dialect, init=False, compare=False, repr=False)

    def cost(self, requests: Sequence[Request]) -> Cost:
        """The estimated cost of `requests`, without sending them."""
        keyed = self._keyed(requests)
        cached = ReplyCache(self.cache).read(keyed)
        missing = [request for key, request in keyed.items() if key not in cached]
        characters = sum(len(request.system) + len(request.user) for request in missing)
        return Cost(
            requests=len(missing),
            free=len(requests) - len(missing),
            prompt_tokens=characters // CHARACTERS_PER_TOKEN,
            most_reply_tokens=sum(request.max_tokens + self.dialect.reasoning_tokens for request in missing),
        )

    def ask(
        self, requests: Sequence[Request], desc: str, parsers: Sequence[Callable[[str], object]] | None = None
    ) -> list[str | None]:
        """Send requests and return the replies in the same order; None for a request that failed after all retries.

        The estimated cost is logged first.

        Args:
            requests: requests to send.
            desc: label of the progress bar and of log messages.
            parsers: a function per request that returns None for unreadable replies, which are not cached; None to
                cache all replies.

        Raises:
            SelfExplainError: the endpoint refuses a request, or more than `MAX_FAILED` of the requests fail. Replies
                received so far are cached, so a new run sends only the missing requests.
        """
        keyed = self._keyed(requests)
        replies = ReplyCache(self.cache).read(keyed)
        missing = {key: request for key, request in keyed.items() if key not in replies}
        cost = self.cost(requests)
        logger.info(
            "%s: %d requests to %s (%d more are free), about %d prompt tokens and at most %d reply tokens",
            desc, cost.requests, self.url, cost.free, cost.prompt_tokens, cost.most_reply_tokens,
        )  # fmt: skip
        parser_of = dict(zip(map(self._key, requests), parsers, strict=True)) if parsers is not None else {}
        replies |= self._send(missing, desc, parser_of)
        return [replies.get(self._key(request)) for request in requests]

    def _send(
        self, missing: dict[str, Request], desc: str, parsers: Mapping[str, Callable[[str], object]]
    ) -> dict[str, str]:
        """Send requests concurrently and cache the readable replies: key -> reply."""
        from huggingface_hub import InferenceClient

        client = InferenceClient(
            base_url=self.url, api_key=os.environ.get(KEY_VARIABLE) or "none", timeout=self.timeout
        )
        stop = threading.Event()
        replies: dict[str, str] = {}
        failures: list[str] = []
        with (
            ReplyCache(self.cache).open() as cache,
            ThreadPoolExecutor(self.concurrency) as pool,
            tqdm(total=len(missing), desc=desc, unit="request") as bar,
        ):
            keys = {pool.submit(self._reply, client, request, stop): key for key, request in missing.items()}
            for future in as_completed(keys):
                outcome = future.result()
                bar.update()
                if outcome.reply is not None:
                    key = keys[future]
                    replies[key] = outcome.reply
                    if key not in parsers or parsers[key](outcome.reply) is not None:
                        write_reply(cache, key, outcome.reply)
                if outcome.failure is not None:
                    failures.append(outcome.failure)
                if len(failures) > MAX_FAILED * len(missing):
                    stop.set()
        if stop.is_set():
            raise SelfExplainError(
                f"The endpoint {self.url} failed on {len(failures)} of {len(missing)} requests, most recently with: "
                f"{failures[-1]}. Check its address, model name ({self.model}), key ({KEY_VARIABLE}) and limits, then "
                "run again. Replies received so far are kept."
            )
        if failures:
            logger.warning("%s: %d requests failed after all retries: %s", desc, len(failures), failures[-1])
        return replies

    def _reply(self, client: "InferenceClient", request: Request, stop: threading.Event) -> _Outcome:
        """Send one request with retries. A refusal sets `stop`, which cancels all requests that have not started."""
        if stop.is_set():
            return _Outcome()
        retrying = Retrying(
            retry=retry_if_exception_type(_TransientError),
            stop=stop_after_attempt(self.n_retries + 1) | stop_when_event_set(stop),
            wait=self._seconds_before_retry,
            reraise=True,
        )
        try:
            return _Outcome(reply=retrying(self._complete, client, request))
        except _TransientError as error:
            return _Outcome(failure=str(error))
        except _RefusedError as error:
            stop.set()
            return _Outcome(failure=str(error))

    def _seconds_before_retry(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _TransientError) and error.retry_after is not None:
            return error.retry_after
        return self.backoff * 2 ** (state.attempt_number - 1) * random.uniform(0.75, 1.25)

    def _complete(self, client: "InferenceClient", request: Request) -> str:
        """Send one request once and return the text of the reply."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
        sent = self.dialect.parameters(request.max_tokens, request.temperature, request.sample)
        try:
            choice = client.chat_completion(messages, model=self.model, extra_body=sent).choices[0]
            content = choice.message.content
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in INVALID_STATUSES and self.dialect.adapt(error.response.text, sent):
                return self._complete(client, request)
            reason = f"HTTP {status}: {error.server_message or ' '.join(str(error).split())[:200]}"
            if status < 500 and status not in RETRIED_STATUSES:
                raise _RefusedError(reason) from error
            seconds = error.response.headers.get("Retry-After", "")
            raise _TransientError(reason, float(seconds) if seconds.isdigit() else None) from error
        except OfflineModeIsEnabled as error:
            raise _RefusedError(str(error)) from error
        except Exception as error:  # a broken connection or a response that is not a completion
            raise _TransientError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        text = without_reasoning(content) if isinstance(content, str) else ""
        if text:
            return text
        if choice.finish_reason == "length":
            if self.dialect.enlarge(sent, request.max_tokens):
                return self._complete(client, request)
            raise _TransientError(f"a reply without text that was cut off, for a request with {sent}")
        raise _TransientError("a reply without text")

    def _key(self, request: Request) -> str:
        value = [CACHE_VERSION, self.url.rstrip("/"), self.model, *vars(request).values()]
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()

    def _keyed(self, requests: Sequence[Request]) -> dict[str, Request]:
        return {self._key(request): request for request in requests}
