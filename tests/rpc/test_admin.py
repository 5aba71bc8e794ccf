from __future__ import annotations

from typing import Any

from cachenode import __version__
from cachenode.core.stats import NodeStats
from cachenode.node.placement import Placement
from cachenode.rpc.admin import AdminService
from cachenode.server import Server
from cachenode.wire import view_from_wire
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import cache_pb2
from tests.support.cluster import member, view_of


async def test_view_is_the_one_in_force(server: Server, admin: Any) -> None:
    """GetView shows the view that the node uses, and who answered."""
    answer = await admin.GetView(pb.GetViewRequest())
    assert view_from_wire(answer.view) == server.node.placement.view
    assert answer.header.node_id == "n0"
    assert list(answer.peers) == []


async def test_stats_count_what_was_done(server: Server, cache: Any, admin: Any) -> None:
    """GetStats shows the counters of each namespace and the sizes of the node."""
    await cache.Set(cache_pb2.SetRequest(key=b"k", value=b"v"))
    await cache.Get(cache_pb2.GetRequest(key=b"k"))
    await cache.Get(cache_pb2.GetRequest(key=b"absent"))
    await cache.Delete(cache_pb2.DeleteRequest(key=b"k"))
    stats = await admin.GetStats(pb.GetStatsRequest())
    (default,) = stats.namespaces
    assert (default.name, default.entries, default.sets, default.deletes) == ("default", 0, 1, 1)
    assert (default.l1_hits, default.l2_hits, default.misses) == (1, 0, 1)
    assert (stats.version, stats.incarnation) == (__version__, server.node.placement.me.incarnation)
    assert (stats.l2_state, stats.l2_errors, stats.sessions, stats.forwarded) == ("off", 0, 0, 0)
    assert stats.uptime_s >= 0
    assert stats.max_bytes == 256 << 20


async def test_peers_are_linked_while_heard_from() -> None:
    """A peer heard from within two seconds is linked; a silent one and one never heard from are not."""

    def no_stats() -> NodeStats:
        raise AssertionError

    silences = {"c": 2.5, "b": 0.5, "d": -1.0}
    placement = Placement(member("a"))
    service = AdminService(placement, no_stats, lambda: silences)
    context: Any = None
    answer = await service.GetView(pb.GetViewRequest(), context)
    assert not answer.HasField("view")
    assert [(peer.node_id, peer.linked, peer.silent_s) for peer in answer.peers] == [
        ("b", True, 0.5),
        ("c", False, 2.5),
        ("d", False, -1.0),
    ]
    placement.apply(view_of(4, "a", "b"))
    answer = await service.GetView(pb.GetViewRequest(), context)
    assert (answer.view.epoch, answer.header.view_epoch) == (4, 4)
