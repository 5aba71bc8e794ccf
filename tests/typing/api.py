"""The public API as users' type checkers see it. Checked by ``mypy --strict``, never run.

An unused ``type: ignore`` is an error there, so each one below proves that wrong use is noticed.
"""

from __future__ import annotations

import math
from typing import Any, Literal, assert_type

from cachenode_api.selectors import Selector
from cachenode_api.view import View
from cachenode_client import (
    ABSENT,
    Absent,
    CacheClient,
    CacheError,
    CacheTimeout,
    EventInvalidation,
    InvalidArgument,
    Invalidated,
    InvalidKey,
    Loaded,
    Lookup,
    ManyFailed,
    Parent,
    Published,
    Reset,
    Serializer,
    Tls,
    Unserializable,
    Versioned,
    WarmStep,
)
from cachenode_client.blocking import CacheClient as BlockingCacheClient


class Own:
    """A serializer with plain attributes fits the protocol."""

    id = 200
    name = "own"
    all_types = True

    def dumps(self, value: object) -> bytes:
        """Return bytes."""
        return repr(value).encode()

    def loads(self, data: bytes) -> str:
        """Return a value."""
        return data.decode()


own: Serializer = Own()


class NoLoads:
    """Not a serializer."""

    id = 200
    name = "no loads"

    def dumps(self, value: object) -> bytes:
        """Return bytes."""
        return repr(value).encode()


async def load_async() -> int | Absent:
    """A loader."""
    return ABSENT


def load_sync() -> dict[str, int]:
    """A loader that blocks."""
    return {"a": 1}


def load_many(keys: list[str]) -> dict[str, int]:
    """A loader of many keys that blocks."""
    return dict.fromkeys(keys, 1)


async def load_many_async(keys: list[bytes]) -> dict[bytes, int]:
    """A loader of many keys."""
    return dict.fromkeys(keys, 1)


def load_user(number: int) -> str:
    """A function to be kept."""
    return str(number)


async def asyncio_client() -> None:
    """Everything that an asyncio user can call."""
    async with CacheClient(
        "127.0.0.1:7401,[::1]:7401",
        namespace="default",
        timeout_s=1.0,
        on_error="miss",
        serializer=Own(),
        compression="zlib",
        client_name="typing",
    ) as cache:
        assert_type(cache, CacheClient)
        assert_type(await cache.get("k"), Any)
        assert_type(await cache.get(b"k", 5, timeout_s=1, namespace="n"), Any)
        assert_type(await cache.lookup("k"), Lookup)
        found_version = (await cache.lookup("k")).version
        assert_type(await cache.set("k", {"a": (1,)}, ttl_s=math.inf), int)
        assert_type(await cache.set("k", 1, if_version=found_version), int)
        assert_type(await cache.add("k", 1, ttl_s=5), int)
        assert_type(await cache.replace("k", 1), int)
        assert_type(await cache.incr("n", 5, ttl_s=60), int)
        assert_type(await cache.decr("n"), int)
        assert_type(await cache.delete("k"), bool)
        assert_type(await cache.invalidate(tags=["a"], mode="expire"), int)
        await cache.invalidate("k", mode="forget")  # type: ignore[arg-type]
        assert_type(await cache.publish("user.deleted", {"userId": 7}, event_id="1"), Published)
        user = cache.versioned("user", 7, namespace="n")
        assert_type(user, Versioned)
        assert_type(await user.set("profile", 1, ttl_s=5), int)
        assert_type(await user.get_many(["profile"]), dict[str, Any])
        assert_type(await user.get_or_load("profile", load_async), Any)
        assert_type(await user.delete("profile"), bool)
        await user.bump(mode="expire")
        user.key(7)  # type: ignore[arg-type]
        assert_type(await cache.touch("k", ttl_s=60), bool)
        assert_type(await cache.get_and_touch("k", ttl_s=60), Any)
        assert_type(await cache.contains("k"), bool)
        assert_type(await cache.ttl("k"), float | None)
        texts = ["a", "b"]
        assert_type(await cache.get_many(texts), dict[str, Any])
        assert_type(await cache.get_many({b"a", b"b"}), dict[bytes, Any])
        numbers = {"a": 1, "b": 2}  # A Mapping[str | bytes, ...] parameter would refuse this: mappings are invariant.
        assert_type(await cache.set_many(numbers, ttl_s=5), dict[str, int])
        assert_type(await cache.get_or_load("k", load_async, ttl_s=5, lease_s=1, soft_timeout_s=0.1), Any)
        assert_type(await cache.get_or_load("k", load_sync, default=1), Any)
        assert_type(await cache.get_or_load("k", lambda: Loaded(1, ttl_s=5, tags=["a"], keep=False)), Any)
        assert_type(await cache.get_or_load_many(texts, load_many), dict[str, Any])
        assert_type(await cache.get_or_load_many([b"a"], load_many_async), dict[bytes, Any])
        kept = cache.cached("user:{number}", ttl_s=5, soft_timeout_s=0.1)(load_user)
        assert_type(await kept(5), Any)
        assert_type(kept.key(number=5), str)
        kept("five")  # type: ignore[arg-type]
        assert_type(await cache.view(), View)
        async with cache.watch(namespace="*", timeout_s=5) as events:
            async for event in events:
                assert_type(event, Invalidated | Reset)
                break
        async for event in cache.watch():
            told(event)
        assert_type(cache.stats(), dict[str, int])
    await cache.aclose()


async def warming(cache: CacheClient) -> None:
    """A job's steps."""
    async with cache.warm(["a", b"b"], rate_per_s=5) as steps:
        async for step in steps:
            assert_type(step, WarmStep)
    async for step in cache.warm(origin=True):
        assert_type(step.loaded, int)


def blocking_client() -> None:
    """Everything that a user of threads can call."""
    with BlockingCacheClient("dns:///cachenode:7401", serializer="msgspec", compression=None) as cache:
        assert_type(cache, BlockingCacheClient)
        assert_type(cache.get("k"), Any)
        assert_type(cache.lookup("k"), Lookup)
        assert_type(cache.set("k", 1, ttl_s=5), int)
        assert_type(
            cache.get_or_load(
                "k", lambda: Loaded(1, depends_on=["a"]), depends_on=["b", b"c", Parent("n", "d"), ("n", b"e")]
            ),
            Any,
        )
        assert_type(cache.add("k", 1), int)
        assert_type(cache.replace("k", 1), int)
        assert_type(cache.incr("n", 5), int)
        assert_type(cache.decr("n"), int)
        assert_type(cache.delete("k"), bool)
        assert_type(cache.invalidate("k", mode="expire"), int)
        assert_type(cache.publish("user.deleted").invalidations, tuple[EventInvalidation, ...])
        user = cache.versioned("user", 7)
        assert_type(user.get_or_load("profile", load_sync), Any)
        assert_type(user.lookup("profile"), Lookup)
        user.bump()
        assert_type(cache.touch("k", ttl_s=60), bool)
        assert_type(cache.get_and_touch("k", 0, ttl_s=60), Any)
        assert_type(cache.contains("k"), bool)
        assert_type(cache.ttl("k"), float | None)
        texts = ["a", "b"]
        assert_type(cache.get_many(texts), dict[str, Any])
        numbers = {"a": 1}
        assert_type(cache.set_many(numbers), dict[str, int])
        assert_type(cache.get_or_load("k", load_sync, soft_timeout_s=0.1), Any)
        assert_type(cache.get_or_load_many(texts, load_many), dict[str, Any])
        assert_type(cache.cached("user:{number}")(load_user).key(5), str)
        assert_type(cache.view(), View)
        with cache.watch() as events:
            for event in events:
                told(event)
        for step in cache.warm(top=5, namespace="users"):
            assert_type(step, WarmStep)
        assert_type(cache.stats(), dict[str, int])
    cache.close()


def results(found: Lookup) -> None:
    """A lookup's fields."""
    assert_type(found.found, bool)
    assert_type(found.value, Any)
    assert_type(found.version, int)
    assert_type(found.ttl_s, float | None)
    assert_type(found.layer, Literal["near", "l1", "l2", "none"])
    assert_type(found.stale, bool)
    assert_type(found.flags, int)
    found.version = 5  # type: ignore[misc]


def told(event: Invalidated | Reset) -> None:
    """An event's fields."""
    assert_type(event.node_id, str)
    if isinstance(event, Invalidated):
        assert_type(event.sequence, int)
        assert_type(event.namespace, str)
        assert_type(event.keys, tuple[bytes, ...])
        assert_type(event.selectors, tuple[Selector, ...])
        assert_type(event.selectors[0].covers(b"k", ()), bool)
    event.node_id = ""  # type: ignore[misc]


def failures(error: CacheError, many: ManyFailed) -> None:
    """Errors are caught by what they are."""
    assert_type(error.reason, str)
    assert_type(error.retryable, bool)
    assert_type(many.errors, dict[Any, CacheError])
    _1: TimeoutError = CacheTimeout()
    _2: ValueError = InvalidKey()
    _3: InvalidArgument = InvalidKey()
    _4: TypeError = Unserializable()


async def wrong_use(cache: CacheClient) -> None:
    """What the type checker must notice."""
    CacheClient(on_error="ignore")  # type: ignore[arg-type]
    CacheClient(serializer=NoLoads())  # type: ignore[arg-type]
    CacheClient("a", "default")  # type: ignore[call-arg]
    await cache.get(5)  # type: ignore[arg-type]
    await cache.set("k")  # type: ignore[call-arg]
    await cache.set("k", 1, 60)  # type: ignore[call-arg]
    await cache.set("k", 1, depends_on=7)  # type: ignore[arg-type]
    await cache.set("k", 1, ttl_s="60")  # type: ignore[arg-type]
    await cache.get_many([1])  # type: ignore[type-var]


CacheClient("cache-0:7401", tls=Tls("ca.pem", server_name="cache"))
BlockingCacheClient("cache-0:7401", tls=None)
Tls(7)  # type: ignore[arg-type]
