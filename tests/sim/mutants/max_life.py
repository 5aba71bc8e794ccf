"""Reads let an entry live on for ever."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

from cachenode.core.sliding import Slides
from tests.sim.mutants.frame import Mutant, swap


def _endless(*_: Any) -> float:
    return math.inf


def apply(stack: ExitStack) -> None:
    swap(stack, Slides, "_latest", _endless)


MUTANT = Mutant(apply, "sliding_calm", ("C5",), seeds=5)
