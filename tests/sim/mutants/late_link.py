"""What depends on others is stored first, and linked to its parents a moment later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from cachenode.node.linking import Linking
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    tell = Linking._tell

    async def late(linking: Linking, wants: Sequence[Any]) -> dict[Any, Any]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, lambda: loop.create_task(tell(linking, wants)))
        return {}

    swap(stack, Linking, "_tell", late)


MUTANT = Mutant(apply, "cascades")
