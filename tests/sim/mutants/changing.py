"""What is read of a key while it is being changed may be copied."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext

from cachenode.node.namespaces import Namespace
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Namespace, "change", lambda *_: nullcontext())


MUTANT = Mutant(apply, "fills")
