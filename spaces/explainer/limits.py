"""How much one visitor may ask, how many visitors are remembered, and how much free memory is kept."""

import ctypes
import sys
import time
from collections import OrderedDict, deque

MAX_CHARACTERS = 1200
MAX_TOKENS = 256
MAX_MAP_TOKENS = 64
MAX_VISITORS = 10_000
MAX_SESSIONS = 512
"""Gradio copies the whole page for each session, 100 kB, and every call of an endpoint is a session that it never ends:
its own limit of 10,000 is a gigabyte. A visitor who was pushed out starts from the first example's picks again."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def return_free_memory() -> None:
    """Have glibc give back what it frees; a no-op elsewhere.

    Its thresholds rise with the largest block that was freed, and each thread has a heap of its own: under load the
    free memory that it keeps grows to hundreds of MB, none of it in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for parameter, value in ((M_TRIM_THRESHOLD, 128 * 1024), (M_MMAP_THRESHOLD, 128 * 1024), (M_ARENA_MAX, 2)):
            mallopt(parameter, value)


class RateLimit:
    """At most `n` questions in `seconds` seconds, counted for each visitor; forgets the longest silent ones."""

    def __init__(self, n: int, seconds: float):
        self.n, self.seconds = n, seconds
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()

    def allows(self, visitor: str, cost: int = 1, now: float | None = None) -> bool:
        """Whether this visitor may ask again; `cost` is how many questions this one counts for."""
        now = time.monotonic() if now is None else now
        asked = self._asked.setdefault(visitor, deque())
        self._asked.move_to_end(visitor)
        if len(self._asked) > MAX_VISITORS:
            self._asked.popitem(last=False)
        while asked and asked[0] <= now - self.seconds:
            asked.popleft()
        if len(asked) + cost > self.n:
            return False
        asked.extend([now] * cost)
        return True
