"""Values that depend on others, with both clients and real nodes; unary calls and loaders of nodes likewise."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from cachenode_api.dependencies import MAX_PARENTS
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import cache_pb2_grpc
from cachenode_client import CacheClient, InvalidArgument, InvalidKey, InvalidNamespace, Loaded, Parent, blocking
from tests.support.server import running_server


async def test_changed_parent_takes_its_dependents_along() -> None:
    """Set, loaded or decorated, one or many; over another namespace too. Near caches do not serve them either."""
    async with (
        running_server() as server,
        CacheClient(server.address, namespace="posts") as cache,
        CacheClient(server.address, namespace="users") as users,
    ):
        parent = Parent("users", "user:7")
        loads = 0

        async def load() -> str:
            nonlocal loads
            loads += 1
            return "loaded"

        @cache.cached("decorated:{user_id}", depends_on=[Parent("users", "user:{user_id}")])
        async def decorated(user_id: int) -> str:
            return await load()

        async def fill() -> None:
            await cache.set("set", "v", depends_on=[parent])
            await cache.set_many({"many:1": "v", "many:2": "v"}, depends_on=[parent, "local"])
            for _ in range(2):
                assert await cache.get_or_load("loaded", load, depends_on=[parent]) == "loaded"
                assert await decorated(7) == "loaded"
            await cache.set("free", "v")

        for change in (users.set("user:7", 1), users.delete("user:7"), users.invalidate(prefix="user:")):
            await fill()
            keys = ["set", "many:1", "many:2", "loaded", decorated.key(7)]
            assert set(await cache.get_many(keys)) == set(keys)
            await change
            assert await cache.get_many([*keys, "free"]) == {"free": "v"}
        assert loads == 6, "each is loaded once until its parent changes"
        await cache.set("set", "v", depends_on=["local"])
        await cache.set("local", 1)
        assert await cache.get("set") is None


async def test_dependents_over_others() -> None:
    """A loader that reads what depends on something else itself."""
    async with running_server() as server, CacheClient(server.address) as cache:

        async def posts() -> list[int]:
            return [1, 2]

        async def page() -> int:
            return len(await cache.get_or_load("posts", posts, depends_on=["user"]))

        assert await cache.get_or_load("page", page, depends_on=["posts"]) == 2
        assert await cache.get("page") == 2
        await cache.set("user", "new")
        assert await cache.get("page") is None


async def test_loaders_say_what_they_have_used() -> None:
    """Besides what the call says, and each for its own value."""
    async with running_server() as server, CacheClient(server.address) as cache:

        async def load_many(keys: list[str]) -> dict[str, object]:
            return {key: Loaded(key, depends_on=[f"of {key}"]) for key in keys}

        for _ in range(2):
            assert set(await cache.get_or_load_many(["a", "b"], load_many, depends_on=["both"])) == {"a", "b"}
        for change, left in (("of a", {"b"}), ("both", set())):
            await cache.set(change, 1)
            assert set(await cache.get_many(["a", "b"])) == left
        with pytest.raises(InvalidArgument, match="33 keys"):
            await cache.get_or_load(
                "k",
                lambda: Loaded(1, depends_on=["one more"]),
                depends_on=[str(at) for at in range(MAX_PARENTS)],
            )


async def test_what_is_no_parent_is_the_callers_fault() -> None:
    """Found before anything is sent."""
    async with running_server() as server, CacheClient(server.address) as cache:
        for parents, error in (
            ("user:7", InvalidArgument),
            ([str(at) for at in range(MAX_PARENTS + 1)], InvalidArgument),
            ([""], InvalidKey),
            ([Parent("No Name", "k")], InvalidNamespace),
        ):
            with pytest.raises(error):
                await cache.set("k", 1, depends_on=parents)
        with pytest.raises(InvalidArgument, match="not a parameter"):
            cache.cached("k", depends_on=["user:{unknown}"])(lambda: 1)
        assert await cache.get("k") is None


async def test_blocking_client() -> None:
    """The same with threads."""
    async with running_server() as server:

        def work() -> None:
            with blocking.CacheClient(server.address) as cache:
                cache.set("set", "v", depends_on=["p"])
                cache.set_many({"many": "v"}, depends_on=["p"])
                assert cache.get_or_load("loaded", lambda: 1, depends_on=["p"]) == 1
                decorated = cache.cached("of:{name}", depends_on=["{name}"])(lambda name: name)
                assert decorated("p") == "p"
                keys = ["set", "many", "loaded", "of:p"]
                assert set(cache.get_many(keys)) == set(keys)
                cache.set("p", "new")
                assert cache.get_many(keys) == {}

        await asyncio.to_thread(work)


async def test_unary_calls() -> None:
    """Any language: Set, SetMany, and a load; the flag by which nodes know dependents is not shown."""
    async with running_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        cache = cache_pb2_grpc.CacheServiceStub(channel)
        parents = [pb.Parent(key=b"p"), pb.Parent(namespace="users", key=b"u")]
        await cache.Set(pb.SetRequest(key=b"set", value=b"v", depends_on=parents))
        item = pb.SetManyRequest.Item(key=b"many", value=b"v", depends_on=parents)
        await cache.SetMany(pb.SetManyRequest(items=[item, pb.SetManyRequest.Item(key=b"free", value=b"v")]))
        lease = await cache.GetOrLease(pb.GetOrLeaseRequest(key=b"loaded", depends_on=parents))
        fulfil = pb.FulfillRequest(key=b"loaded", token=lease.token, value=b"v", depends_on=parents)
        assert (await cache.Fulfill(fulfil)).version

        async def found() -> list[bool]:
            request = pb.GetManyRequest(keys=[b"set", b"many", b"loaded", b"free"])
            return [result.entry.found for result in (await cache.GetMany(request)).results]

        assert all(await found())
        assert (await cache.Get(pb.GetRequest(key=b"set"))).entry.flags == 0
        await cache.Delete(pb.DeleteRequest(namespace="users", key=b"u"))
        assert await found() == [False, False, False, True]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cache.Set(pb.SetRequest(key=b"k", value=b"v", depends_on=[pb.Parent()]))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_loader_of_a_node_says_what_it_has_used() -> None:
    """Nobody knows before the first load ends: that one is not kept, if changes were not noted until then."""
    options = {"origins.o.loader": "tests.support.loaders:load", "namespaces.read.origin": "o"}
    async with (
        running_server(**options) as server,
        CacheClient(server.address, namespace="read") as cache,
        CacheClient(server.address, namespace="users") as users,
    ):
        for change in (cache.set("p", 1), users.set("u", 1)):
            for _ in range(2):
                assert await cache.get("dependent") == "v"
            assert (await cache.lookup("dependent")).found
            loads = server.node.namespaces.get("read").loads
            assert await cache.get("dependent") == "v"
            assert server.node.namespaces.get("read").loads == loads, "it is kept"
            await change
            assert await cache.get("dependent") == "v"
            assert server.node.namespaces.get("read").loads == loads + 1, "it is loaded anew"
