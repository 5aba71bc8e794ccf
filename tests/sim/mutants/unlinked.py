"""What depends on others is stored without a word to the owners of its parents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from cachenode.node.linking import Linking
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    async def tell(_linking: Linking, wants: Sequence[Any]) -> dict[Any, Any]:
        return {}

    swap(stack, Linking, "_tell", tell)


MUTANT = Mutant(apply, "cascades")
