"""The processes that `accelerate launch` started, and how many threads each of them uses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from accelerate import PartialState

THREADS = 1
"""Threads per process while ground truth is computed. Float sums depend on the number of threads, so it is fixed."""


def process_state() -> "PartialState":
    """This process among those that `accelerate launch` or `torchrun` started: `process_index`, `num_processes`.

    Raises:
        SelfExplainError: the launcher started several processes that are not connected to each other.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Apple's GPU lacks the float64 that ground truth needs.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available())
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != launched:
        raise SelfExplainError(
            f"{launched} processes were launched, but this process sees {state.num_processes}, so each of them would "
            "repeat all of the work. Without GPUs, start them with "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`."
        )
    return state


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Limit torch to `THREADS` threads inside the block; use more processes for more cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
