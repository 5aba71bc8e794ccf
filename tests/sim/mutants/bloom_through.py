"""What a node has saved counts as all that it has written, though it was killed later."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from cachenode.core.saved_filters import FOR_EVER, Merge, Record, plan_merge
from cachenode.node import saved_blooms
from tests.sim.mutants.frame import Mutant, swap


def _always(records: Sequence[Record], **more: Any) -> Merge:
    return plan_merge([replace(record, through=FOR_EVER) for record in records], **more)


def apply(stack: ExitStack) -> None:
    swap(stack, saved_blooms, "plan_merge", _always)


MUTANT = Mutant(apply, "bloom_falls", seeds=10)
