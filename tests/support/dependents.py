"""Entries that depend on others, in nodes without gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.node.service import Node
from cachenode_api.dependencies import pack_references, reference_of
from tests.support.cluster import run

__all__ = ["fulfil", "lease", "references", "set_on"]


def references(*parents: bytes | tuple[str, bytes]) -> bytes:
    """Return the block of parents, of the default namespace unless they say another."""
    pairs = [parent if isinstance(parent, tuple) else ("default", parent) for parent in parents]
    return pack_references([reference_of(*pair) for pair in pairs])


async def set_on(
    node: Node,
    key: bytes,
    value: bytes,
    *parents: bytes | tuple[str, bytes],
    namespace: str = "default",
    ttl_ms: int = 0,
) -> BatchResult:
    """Set one key that depends on others."""
    batch = Batch(Operation.SET, namespace, [key], [value], [0], [ttl_ms], depends_on=[references(*parents)])
    return await run(node, batch)


async def lease(node: Node, key: bytes, *parents: bytes | tuple[str, bytes]) -> int:
    """Get the right to load a key that is likely to depend on others; return the token."""
    blocks: Sequence[bytes] = [references(*parents)] if parents else ()
    result = await run(node, Batch(Operation.LEASE, "default", [key], depends_on=blocks), holder="caller")
    return result.tokens[0] if result.tokens else 0


async def fulfil(node: Node, key: bytes, value: bytes, token: int, *parents: bytes | tuple[str, bytes]) -> BatchResult:
    """Bring a loaded value that depends on others."""
    batch = Batch(Operation.FULFILL, "default", [key], [value], [0], tokens=[token], depends_on=[references(*parents)])
    return await run(node, batch)
