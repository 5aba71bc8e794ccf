"""Throws damaged and random bytes at all that reads them: ``python -m tests.fuzz --seconds 600``."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import warnings

from tests.fuzz.running import fuzz, keep
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run from the command line. Exit code 1 if something was found; its input is in ``tests/fuzz/corpus`` then."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz whatever reads foreign bytes.")
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long, all targets together")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; printed if not given")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    names, found, total, began = options.target or list(TARGETS), 0, 0, time.monotonic()
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of batches that were given up
    logging.basicConfig(format="%(message)s")
    print(f"{len(names)} targets, {options.seconds:g} s, seed {first}", flush=True)
    for at, name in enumerate(names):
        left = max(0.0, options.seconds - (time.monotonic() - began)) / (len(names) - at)
        tried, worst = fuzz(name, first_seed=first, seconds=left)
        total += tried
        if worst is None:
            print(f"  {name:<18}{tried:>10,} inputs", flush=True)
            continue
        found += 1
        print(f"  {name:<18}{tried:>10,} inputs, FOUND: {keep(name, worst)}", flush=True)
    print(f"{total:,} inputs in {time.monotonic() - began:.0f} s, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
