"""redis-py's client for a Cluster, for what is asked seldom and in simple commands: streams of events, settings.

Whatever else is asked takes from it only how to reach each node (`node`), and sends there itself: see `redis_cluster`.
redis-py's way would close all connections when one fails, and run a script twice whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.cluster import ClusterNode, RedisCluster

from cachenode.adapters.redis_connections import noticing
from cachenode.core.redis_url import RedisAddress

__all__ = ["ClusterClient"]


class ClusterClient(RedisCluster):
    """A client for a Cluster.

    Attributes:
        address: Nodes that are known from the start.
        connect_timeout_s: Time limit of making a connection.

    Args:
        address: See the attribute.
        timeout_s: Time limit of a call; half of it for an answer.
        connect_timeout_s: See the attribute.
        max_connections: Most connections at a time, to each node.
        options: redis-py's, of connections.
    """

    def __init__(
        self,
        address: RedisAddress,
        options: Mapping[str, Any],
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_connections: int,
    ) -> None:
        self.address = address
        self.connect_timeout_s = connect_timeout_s
        self._options = dict(options)
        self._most = max_connections
        self._listened = 0
        self._clients: dict[tuple[str, int, bool], Redis] = {}
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            require_full_coverage=False,
            max_connections=max_connections + 1,
            ssl=address.tls,
            **{**options, "socket_timeout": timeout_s / 2},  # a frozen node ends its call, and the next draws a new map
        )
        self._kind = noticing(SSLConnection if address.tls else Connection)
        self.connection_kwargs["connection_class"] = self._kind
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = self._kind

    def node(self, host: str, port: int, *, asks: bool = False) -> Redis:
        """Return a client for one node; the same each time. Those that ask about the Cluster have their own."""
        client = self._clients.get((host, port, asks))
        if client is None:
            most = 4 if asks else self._most
            pool = ConnectionPool(self._kind, most, **self._options, host=host, port=port)
            client = self._clients[host, port, asks] = Redis.from_pool(pool)
        return client

    def pubsub(self, *_: Any, **options: Any) -> Any:  # noqa: ANN401 - as there
        """Return a listener at one of the nodes, at another one each time: they tell each other what is published."""
        self._listened += 1
        return self.node(*self.address.hosts[self._listened % len(self.address.hosts)]).pubsub(**options)

    async def aclose(self) -> None:
        """Close all connections."""
        await super().aclose()
        for client in self._clients.values():
            await client.aclose()
