"""The spans of what comes to a node with a parent, whoever brings it: a session, a peer's link, or a unary call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from cachenode_api.tracing import Served

if TYPE_CHECKING:
    from cachenode.core.entries import Batch, BatchResult

__all__ = ["execute_traced", "published"]

T = TypeVar("T")

Reply = Callable[["BatchResult"], None]


def execute_traced(
    parent: str, node_id: str, batch: Batch, reply: Reply, execute: Callable[[Reply], Awaitable[None] | None]
) -> Awaitable[None] | None:
    """Execute a batch inside a span that ends with its last answer.

    Args:
        parent: The traceparent that came with it.
        node_id: Of this node.
        batch: The batch.
        reply: Takes its results.
        execute: Begins; gets what takes the results (see `Node.execute`).

    Returns:
        The rest, as `execute` returns it.
    """
    operation, count = batch.operation.name.lower(), len(batch.keys)
    attributes = _traits(operation, node_id) | {"db.namespace": batch.namespace, "db.operation.batch.size": count}
    served = Served(parent, f"cachenode.{operation}", attributes, count)

    def answer(result: BatchResult) -> None:
        reply(result)
        failure = next(iter(result.failures.values())).reason.name.lower() if result.failures else ""
        served.answered(count if result.indices is None else len(result.indices), failure)

    rest = served.run(lambda: execute(answer))
    return None if rest is None else served.finish(rest)


async def published(parent: str, node_id: str, publishing: Awaitable[T]) -> T:
    """Await what becomes of an event inside a span.

    Args:
        parent: The traceparent that came with it.
        node_id: Of this node.
        publishing: Acts on it.
    """
    served = Served(parent, "cachenode.publish", _traits("publish", node_id), 1)
    return await served.finish(publishing)


def _traits(operation: str, node_id: str) -> dict[str, str | int]:
    return {"db.system.name": "cachenode", "db.operation.name": operation, "service.instance.id": node_id}
