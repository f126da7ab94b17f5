"""Fuzz all areas: `python tests/fuzz/run.py --inputs 100000` prints how many inputs each area accepted and refused.

An input must be accepted or refused with a SelfExplainError. Any other exception, and any input that takes longer than
20 seconds, is a failure.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from fuzz.areas import AREAS
from fuzz.fuzzing import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--areas", nargs="*", choices=list(AREAS), default=list(AREAS))
    options = parser.parse_args()
    total, failed = 0, []
    for name in options.areas:
        n_inputs, started = round(options.inputs * AREAS[name].share), time.monotonic()
        outcome = fuzz(name, n_inputs, options.seed)
        total += outcome.total
        seconds = time.monotonic() - started
        print(
            f"{name:20} {outcome.accepted:7,} accepted {outcome.refused:7,} refused {outcome.n_failed:5,} failed "
            f"{seconds:7.0f} s",
            flush=True,
        )
        for place, value in outcome.failures.items():
            print(f"    {place}\n        {value}", flush=True)
        if outcome.failures:
            failed.append(name)
    print(f"{total:,} inputs; {len(failed)} areas failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
