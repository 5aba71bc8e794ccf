from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio

from cachenode import __version__
from cachenode.core.durations import LIMITS_S
from cachenode.core.stats import NodeStats
from cachenode.errors import ConfigError
from cachenode.node.placement import Placement
from cachenode.rpc.admin import AdminService
from cachenode.server import Server
from cachenode.wire import view_from_wire
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import admin_pb2_grpc, cache_pb2, cache_pb2_grpc, common_pb2
from tests.rpc.conftest import StartServer
from tests.support.cluster import member, view_of
from tests.support.eventually import eventually


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
    assert (stats.near_holders, stats.invalidation_waits, stats.swept, default.invalidations) == (0, 0, 0, 0)
    assert stats.uptime_s >= 0
    assert stats.max_bytes == 256 << 20


async def test_stats_tell_durations(cache: Any, admin: Any) -> None:
    """GetStats shows the histograms of operations that came, with their limits."""
    await cache.Set(cache_pb2.SetRequest(key=b"k", value=b"v"))
    durations = (await admin.GetStats(pb.GetStatsRequest())).durations
    (each,) = [each for each in durations if each.within[-1]]
    assert (each.operation, each.within[-1], tuple(each.limits_s)) == ("set", 1, LIMITS_S)


async def test_stats_count_invalidations(cache: Any, admin: Any) -> None:
    """Keys and selectors that were declared untrue are counted, and what went from memory because of the latter."""
    for key in (b"user:1", b"user:2", b"page"):
        await cache.Set(cache_pb2.SetRequest(key=key, value=b"v"))
    await cache.Invalidate(cache_pb2.InvalidateRequest(keys=[b"page"]))
    await cache.Invalidate(cache_pb2.InvalidateRequest(whole_namespace=True))
    stats = await admin.GetStats(pb.GetStatsRequest())
    (default,) = stats.namespaces
    assert (default.invalidations, default.deletes, stats.swept) == (2, 0, 2)


async def test_key_is_explained(cache: Any, admin: Any) -> None:
    """Explain shows all that the node knows about a key, and never its value."""
    await cache.Set(cache_pb2.SetRequest(key=b"k", value=b"secret", ttl_ms=60_000, tags=["red", "blue"]))
    answer = await admin.Explain(pb.ExplainRequest(key=b"k"))
    assert (answer.header.node_id, answer.owner, answer.ready, answer.fenced, answer.gained) == (
        "n0",
        "n0",
        True,
        False,
        False,
    )
    assert not answer.HasField("lease_s")
    assert (answer.l1_state, answer.l1.size, list(answer.l1.tags)) == ("served", 6, ["blue", "red"])
    assert 50_000 < answer.l1.ttl_ms <= 60_000
    assert (answer.l2_state, answer.HasField("l2"), list(answer.barriers), answer.floor) == ("off", False, [], 0)
    assert b"secret" not in answer.SerializeToString()
    invalidated = await cache.Invalidate(cache_pb2.InvalidateRequest(prefixes=[b"k"], tags=["other"]))
    assert invalidated.found == 0
    answer = await admin.Explain(pb.ExplainRequest(key=b"k", namespace="default"))
    assert [(each.kind, each.text) for each in answer.barriers] == [(common_pb2.SELECTOR_PREFIX, b"k")]


async def test_load_under_way_is_explained(cache: Any, admin: Any) -> None:
    """Explain shows who loads a key, and whether what it brings may be stored."""
    await cache.GetOrLease(cache_pb2.GetOrLeaseRequest(key=b"k", lease_ms=30_000))
    (load,) = (await admin.Explain(pb.ExplainRequest(key=b"k"))).loads
    assert 20 < load.lease_s <= 30
    assert (load.waiting, load.storable) == (0, True)


async def test_adaptive_life_is_explained(start_server: StartServer) -> None:
    """Explain and GetStats tell what follows from how much a key is asked for; nothing where nothing does."""
    options = {"namespaces.adaptive.adaptive_ttl": True, "namespaces.adaptive.adaptive_steps": "<1m: 1h, 15m"}
    server = await start_server(options)
    async with aio.insecure_channel(server.address) as channel:
        cache, admin = cache_pb2_grpc.CacheServiceStub(channel), admin_pb2_grpc.AdminServiceStub(channel)
        for _ in range(2):
            await cache.Get(cache_pb2.GetRequest(namespace="adaptive", key=b"k"))
        answer = await admin.Explain(pb.ExplainRequest(namespace="adaptive", key=b"k"))
        assert (answer.adaptive_ttl_s, answer.accesses, answer.adaptive_rule) == (3_600, 2, "<1m: 1h")
        assert answer.HasField("since_access_s")
        assert not answer.HasField("hit_rate")
        await cache.Set(cache_pb2.SetRequest(namespace="adaptive", key=b"k", value=b"v"))
        stats = await admin.GetStats(pb.GetStatsRequest())
        given = {each.name: (each.adaptive_ttls, each.adaptive_ttl_s) for each in stats.namespaces}
        assert given == {"default": (0, 0), "adaptive": (1, 3_600)}
        assert not (await admin.Explain(pb.ExplainRequest(key=b"k"))).HasField("adaptive_ttl_s")


async def test_keys_are_listed(server: Server, cache: Any, admin: Any) -> None:
    """The keys that are read most, and the largest values; only of a namespace that there is, and not too many."""
    await cache.Set(cache_pb2.SetRequest(key=b"big", value=bytes(500), ttl_ms=60_000))
    await cache.Set(cache_pb2.SetRequest(key=b"small", value=bytes(5), ttl_ms=2**64 - 1))
    for _ in range(300):
        await cache.Get(cache_pb2.GetRequest(key=b"small"))
    hot = await admin.HotKeys(pb.HotKeysRequest())
    assert [(each.namespace, each.key, each.share) for each in hot.keys] == [("default", b"small", 1.0)]
    assert hot.reads_per_s > 0
    assert (await admin.GetStats(pb.GetStatsRequest())).hottest_reads_per_s > 0
    assert list((await admin.HotKeys(pb.HotKeysRequest(namespace="other"))).keys) == []
    big = (await admin.BigKeys(pb.BigKeysRequest(limit=1))).keys
    assert [(each.namespace, each.key, each.size) for each in big] == [("default", b"big", 500)]
    assert 50_000 < big[0].ttl_ms <= 60_000
    assert not (await admin.BigKeys(pb.BigKeysRequest())).keys[1].HasField("ttl_ms")
    for call, request in ((admin.HotKeys, pb.HotKeysRequest), (admin.BigKeys, pb.BigKeysRequest)):
        for wrong, code in ((request(limit=101), "INVALID_ARGUMENT"), (request(namespace="no such!"), "NOT_FOUND")):
            with pytest.raises(aio.AioRpcError) as failed:
                await call(wrong)
            assert failed.value.code() is grpc.StatusCode[code]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.ExplainRequest(), "INVALID_ARGUMENT"),
        (pb.ExplainRequest(key=b"k" * 2_000), "INVALID_ARGUMENT"),
        (pb.ExplainRequest(key=b"k", namespace="no such!"), "NOT_FOUND"),
    ],
)
async def test_what_cannot_be_explained(admin: Any, request_: pb.ExplainRequest, code: str) -> None:
    """A key that cannot be one, or a namespace that does not exist, fails the call."""
    with pytest.raises(aio.AioRpcError) as failed:
        await admin.Explain(request_)
    assert failed.value.code() is grpc.StatusCode[code]


async def test_peers_are_linked_while_heard_from() -> None:
    """A peer heard from within two seconds is linked; a silent one and one never heard from are not."""

    def no_stats() -> NodeStats:
        raise AssertionError

    silences = {"c": 2.5, "b": 0.5, "d": -1.0}
    node: Any = SimpleNamespace(placement=Placement(member("a")))
    nobody: Any = None
    service = AdminService(node, no_stats, lambda: silences, nobody, nobody)
    context: Any = None
    answer = await service.GetView(pb.GetViewRequest(), context)
    assert not answer.HasField("view")
    assert [(peer.node_id, peer.linked, peer.silent_s) for peer in answer.peers] == [
        ("b", True, 0.5),
        ("c", False, 2.5),
        ("d", False, -1.0),
    ]
    node.placement.apply(view_of(4, "a", "b"))
    answer = await service.GetView(pb.GetViewRequest(), context)
    assert (answer.view.epoch, answer.header.view_epoch) == (4, 4)


def _listing(**options: Any) -> dict[str, Any]:
    """Return the settings of a node whose namespace users has a filter over an origin with the key a."""
    return {
        "origins.names.loader": "tests.support.loaders:Listing",
        "namespaces.users.origin": "names",
        "namespaces.users.bloom": True,
        "namespaces.users.bloom_keys": 1_000,
    } | options


async def test_filter_is_rebuilt_and_shown(start_server: Any) -> None:
    """RebuildBloom tells its steps, BloomStatus what came of it; then absent keys cost the origin nothing."""
    server = await start_server(_listing())
    async with aio.insecure_channel(server.address) as channel:
        admin, cache = admin_pb2_grpc.AdminServiceStub(channel), cache_pb2_grpc.CacheServiceStub(channel)
        steps = [step async for step in admin.RebuildBloom(pb.RebuildBloomRequest(namespace="users"))]
        assert (steps[-1].stage, steps[-1].keys, steps[-1].error) == ("done", 3, "")
        answer = await cache.Get(cache_pb2.GetRequest(namespace="users", key=b"absent"))
        assert not answer.entry.found
        assert (await cache.Get(cache_pb2.GetRequest(namespace="users", key=b"a"))).entry.found
        [found] = (await admin.BloomStatus(pb.BloomStatusRequest())).filters
        assert (found.namespace, found.state, found.absences, found.passed, found.listed) == ("users", "ready", 1, 1, 3)
        assert found.HasField("age_s")
        stats = await admin.GetStats(pb.GetStatsRequest())
        [users] = [space for space in stats.namespaces if space.name == "users"]
        assert (users.bloom_absences, users.bloom_passed, users.bloom_bytes, users.loads) == (1, 1, found.bytes, 1)


@pytest.mark.parametrize(("namespace", "code"), [("default", "INVALID_ARGUMENT"), ("Bad", "NOT_FOUND")])
async def test_rebuild_of_what_is_not_there(start_server: Any, namespace: str, code: str) -> None:
    """A namespace without a filter, or that does not exist, is refused."""
    server = await start_server(_listing())
    async with aio.insecure_channel(server.address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as refused:
            await admin.RebuildBloom(pb.RebuildBloomRequest(namespace=namespace)).read()
        assert refused.value.code() is grpc.StatusCode[code]
        if namespace == "Bad":
            with pytest.raises(aio.AioRpcError) as refused:
                await admin.BloomStatus(pb.BloomStatusRequest(namespace=namespace))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_filter_needs_an_origin_that_lists(start_server: Any) -> None:
    """A node whose loader cannot list its keys does not start."""
    with pytest.raises(ConfigError, match=r"namespaces\.users\.bloom: the loader of origin names cannot list keys"):
        await start_server(_listing(**{"origins.names.loader": "tests.support.loaders:load"}))
    with pytest.raises(ConfigError, match=r"namespaces\.users\.bloom: needs an origin"):
        await start_server({"namespaces.users.bloom": True})


async def test_keys_are_warmed(start_server: Any) -> None:
    """Warm tells its steps until the end, WarmStatus the last job; what was warmed is read without a load."""
    server = await start_server(_listing())
    async with aio.insecure_channel(server.address) as channel:
        admin, cache = admin_pb2_grpc.AdminServiceStub(channel), cache_pb2_grpc.CacheServiceStub(channel)
        steps = [step async for step in admin.Warm(pb.WarmRequest(namespace="users", origin=True, job_id="j"))]
        last = steps[-1]
        assert (last.job_id, last.state, last.done, last.loaded, last.node_id) == ("j", "done", 3, 3, "n0")
        assert (await cache.Get(cache_pb2.GetRequest(namespace="users", key=b"a"))).entry.found
        stats = await admin.GetStats(pb.GetStatsRequest())
        [users] = [space for space in stats.namespaces if space.name == "users"]
        assert (users.warmed, users.warm_failures, users.misses, users.l1_hits, stats.warm_jobs) == (3, 0, 0, 1, 0)
        [job] = (await admin.WarmStatus(pb.WarmStatusRequest(namespace="users"))).jobs
        assert (job.job_id, job.state) == ("j", "done")
        assert not (await admin.CancelWarm(pb.CancelWarmRequest(namespace="users"))).cancelled


async def test_caller_who_leaves_ends_its_job(start_server: Any) -> None:
    """Nobody else has its keys. One that the origin lists goes on, and keeps others out until it is cancelled."""
    server = await start_server(_listing())
    async with aio.insecure_channel(server.address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        call = admin.Warm(pb.WarmRequest(namespace="users", keys=[b"%d" % n for n in range(100)], rate_per_s=1))
        await call.read()
        call.cancel()
        await eventually(lambda: not server.node.warming.running("users"))
        call = admin.Warm(pb.WarmRequest(namespace="users", origin=True, rate_per_s=0.1))
        await call.read()
        call.cancel()
        with pytest.raises(aio.AioRpcError) as refused:
            await admin.Warm(pb.WarmRequest(namespace="users", origin=True)).read()
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert not (await admin.CancelWarm(pb.CancelWarmRequest(namespace="users", job_id="another"))).cancelled
        assert (await admin.CancelWarm(pb.CancelWarmRequest(namespace="users"))).cancelled
        assert not server.node.warming.running("users")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (pb.WarmRequest(namespace="users"), "keys, origin, top"),
        (pb.WarmRequest(namespace="users", origin=True, top=1), "keys, origin, top"),
        (pb.WarmRequest(namespace="users", keys=[b"k"] * 10_001), "10,001 in one request"),
        (pb.WarmRequest(namespace="users", origin=True, rate_per_s=-1), "rate_per_s"),
        (pb.WarmRequest(namespace="users", origin=True, job_id="x" * 65), "job_id"),
        (pb.WarmRequest(namespace="default", keys=[b"k"]), "no origin"),
        (pb.WarmRequest(namespace="silent", origin=True), "cannot list keys"),
    ],
)
async def test_job_that_cannot_be(start_server: Any, asked: pb.WarmRequest, text: str) -> None:
    """The field is named."""
    more = {"origins.silent.loader": "tests.support.loaders:load", "namespaces.silent.origin": "silent"}
    server = await start_server(_listing(**more))
    async with aio.insecure_channel(server.address) as channel:
        with pytest.raises(aio.AioRpcError, match=text) as refused:
            await admin_pb2_grpc.AdminServiceStub(channel).Warm(asked).read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
