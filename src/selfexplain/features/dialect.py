"""The parameters that a chat endpoint accepts, learned from its errors and from truncated replies."""

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
OPTIONAL = ("seed", "temperature")
REASONING_TOKENS = (0, 1024, 4096, 16384)
"""Tokens in addition to those of the reply that are tried in turn, because reasoning counts as part of the reply."""

_REJECTED = re.compile(
    r"unsupported|not.{0,20}support|un(recogni[sz]ed|known|expected)|extra|not permitted|not allowed|invalid|"
    r"use 'max_completion_tokens'",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"too large|too many|exceed|at most|maximum|context length|less than", re.IGNORECASE)


class Dialect:
    """What an endpoint accepts. All threads that send requests to it share one object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token_key = MAX_TOKENS
        self._left_out: frozenset[str] = frozenset()
        self._level = 0
        self._most = len(REASONING_TOKENS) - 1

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that requests get in addition to those of the reply."""
        return REASONING_TOKENS[self._level]

    def parameters(self, max_tokens: int, temperature: float, seed: int) -> dict[str, Any]:
        """The parameters of a request with a reply of at most `max_tokens` tokens."""
        with self._lock:
            optional = {"temperature": temperature, "seed": seed}
            kept = {name: value for name, value in optional.items() if name not in self._left_out}
            return {self._token_key: max_tokens + self.reasoning_tokens, **kept}

    def adapt(self, error: str, sent: Mapping[str, Any]) -> bool:
        """Change the parameter that an error message rejects.

        Args:
            error: text of the response.
            sent: parameters of the request.

        Returns:
            Whether the request can be sent again with other parameters.
        """
        with self._lock:
            if self._level and self._names(error, self._token_key) and _TOO_LARGE.search(error):
                if REASONING_TOKENS[self._level] and sent.get(self._token_key, 0) > self.reasoning_tokens:
                    self._level -= 1
                    self._most = self._level
                return True
            if not _REJECTED.search(error):
                return False
            if MAX_TOKENS in sent and self._names(error, MAX_TOKENS):
                self._token_key = MAX_COMPLETION_TOKENS
                return True
            rejected = [name for name in OPTIONAL if name in sent and self._names(error, name)]
            if rejected:
                logger.info("The endpoint does not accept %s, so it is left out.", " and ".join(rejected))
            self._left_out |= frozenset(rejected)
            return bool(rejected)

    def enlarge(self, sent: Mapping[str, Any], max_tokens: int) -> bool:
        """Allow more reasoning after a reply that was cut off before its first word.

        Args:
            sent: parameters of the request.
            max_tokens: maximum number of tokens of the reply itself.

        Returns:
            Whether the request can be sent again with more tokens.
        """
        with self._lock:
            used = max(value for name, value in sent.items() if name in (MAX_TOKENS, MAX_COMPLETION_TOKENS))
            if used < max_tokens + self.reasoning_tokens:  # a different thread has allowed more meanwhile
                return True
            if self._level == self._most:
                return False
            self._level += 1
            logger.info("The model spends its reply on reasoning; %d tokens are allowed for it.", self.reasoning_tokens)
            return True

    @staticmethod
    def _names(error: str, parameter: str) -> bool:
        return re.search(rf"\b{parameter}\b", error) is not None


def without_reasoning(text: str) -> str:
    """A reply without the reasoning that some servers leave in it between `<think>` and `</think>`."""
    return re.sub(r"^\s*(<think>)?.*?</think>|^\s*<think>.*", "", text, flags=re.DOTALL).strip()
