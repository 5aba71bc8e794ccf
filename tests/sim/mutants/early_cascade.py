"""What depends on a key is removed while that is being written, not after."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from cachenode.core.entries import Batch
from cachenode.node.cascades import Cascades
from cachenode.node.namespaces import Namespace
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    change, note = Cascades.change, Cascades._note

    async def early(
        cascades: Cascades, batch: Batch, namespace: Namespace, own: Sequence[int], reply: Any, **options: Any
    ) -> None:
        keys = [batch.keys[index] for index in own]
        cascading = note(cascades, namespace, keys, spread=options.get("spread", True), acknowledged=True)
        if cascading is not None:
            await asyncio.shield(cascading)
        await change(cascades, batch, namespace, own, reply, **options)

    swap(stack, Cascades, "change", early)
    swap(stack, Cascades, "_note", lambda *_, **__: None)


MUTANT = Mutant(apply, "cascades")
