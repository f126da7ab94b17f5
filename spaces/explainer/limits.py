"""Limits on input size, request rate, remembered sessions and free memory."""

import ctypes
import ipaddress
import sys
import time
from collections import OrderedDict, deque

MAX_CHARACTERS = 1200
MAX_TOKENS = 256
MAX_MAP_TOKENS = 64
MAX_SEARCH_CHARACTERS = 80
MAX_VISITORS = 10_000
MAX_SESSIONS = 512
"""Number of sessions that Gradio keeps. It stores a copy of the demo (100 kB) per session, and each endpoint call opens
a session that never ends. With Gradio's default of 10,000 that is a gigabyte. A visitor whose session was dropped
starts again from the first example."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`, from malloc.h."""


def token_limit(context_length: int) -> int:
    """Return how many tokens a visitor's text may have. The explainer reads it too, within its question."""
    return min(MAX_TOKENS, context_length // 2)


def return_free_memory() -> None:
    """Make glibc return freed memory to the operating system. Does nothing on other platforms.

    By default, glibc raises its thresholds with the largest freed block and keeps one heap per thread. Under load it
    then holds hundreds of megabytes of unused memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for parameter, value in ((M_TRIM_THRESHOLD, 128 * 1024), (M_MMAP_THRESHOLD, 128 * 1024), (M_ARENA_MAX, 2)):
            mallopt(parameter, value)


def visitor_at(address: str) -> str:
    """Return what an address is counted as: an IPv6 address as its /64 network, which belongs to one subscriber."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


class RateLimit:
    """Limit on the number of questions per visitor in a sliding time window.

    At most `MAX_VISITORS` visitors are remembered; the least recently active one is forgotten first.

    Args:
        n: Number of questions per window.
        seconds: Length of the window.
    """

    def __init__(self, n: int, seconds: float):
        self.n, self.seconds = n, seconds
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def allows(self, visitor: str, cost: int = 1, now: float | None = None) -> bool:
        """Return whether a visitor may ask another question, and count the question if so.

        Args:
            visitor: Name of the visitor (`visitor_at`).
            cost: Number of questions that this one counts for.
            now: Current time in seconds; the monotonic clock by default.
        """
        now = time.monotonic() if now is None else now
        times = self._times.setdefault(visitor, deque())
        self._times.move_to_end(visitor)
        if len(self._times) > MAX_VISITORS:
            self._times.popitem(last=False)
        while times and times[0] <= now - self.seconds:
            times.popleft()
        if len(times) + cost > self.n:
            return False
        times.extend([now] * cost)
        return True
