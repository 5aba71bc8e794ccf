"""What WARM does at the owners of keys: it loads what is not there, behind everybody else, and lives end spread out."""

from __future__ import annotations

import asyncio

from cachenode.core.entries import Batch, BatchResult, Loaded, Operation
from cachenode.core.warming import Warmed
from cachenode.errors import OriginError
from cachenode_api.reasons import Reason
from cachenode_api.records import HEADER, HEADER_BYTES
from tests.node.test_read_through import Rig
from tests.support.cluster import owned_by, run

K, OTHER = b"k", b"other"


async def warm(rig: Rig, *keys: bytes, node: str = "") -> BatchResult:
    """Warm keys."""
    on = rig.nodes[node] if node else rig.node
    return await run(on, Batch(Operation.WARM, "n", list(keys)))


async def test_keys_are_loaded_by_their_owners() -> None:
    """Each by its own node; what is there, and what the origin lacks, is told apart. Nothing counts as a read."""
    rig = Rig("a", "b", "c")
    keys = [key for name in "abc" for key in owned_by(rig.view, name, 2, prefix=f"{name}-")]
    for key in keys[1:]:
        rig.loader.put(key, b"v")
    await rig.get(keys[-1])
    reads = rig.count("misses"), rig.count("l1_hits")
    result = await warm(rig, *keys, node="a")
    assert result.versions == [Warmed.ABSENT, *[Warmed.LOADED] * 4, Warmed.FRESH]
    assert (rig.count("misses"), rig.count("l1_hits")) == reads
    assert [len(node.namespaces.get("n").store) for node in rig.nodes.values()] == [1, 2, 2]
    assert (await warm(rig, *keys[1:])).versions == [Warmed.FRESH] * 5


async def test_value_of_l2_is_brought_to_memory() -> None:
    """It is there, and need not be loaded; in a namespace without an origin that is all that warming does."""
    rig = Rig(l2=True)
    rig.loader.put(K, b"v")
    await rig.get()
    space = rig.node.namespaces.get("n")
    space.store.clear()
    assert (await warm(rig, K)).versions == [Warmed.FRESH]
    assert (len(space.store), rig.count("l2_hits"), len(rig.loader.calls)) == (1, 0, 1)
    space.store.clear()
    space.origin = None
    assert (await warm(rig, K, OTHER)).versions == [Warmed.FRESH, Warmed.ABSENT]
    assert len(space.store) == 1


async def test_failed_key_does_not_hold_up_the_others() -> None:
    """Its failure is its own."""
    rig = Rig()
    rig.loader.put(K, b"v")
    rig.loader.values[OTHER] = OriginError("bad", again=False)
    result = await warm(rig, OTHER, K, b"")
    assert result.versions == [0, Warmed.LOADED, 0]
    assert {at: failure.reason for at, failure in result.failures.items()} == {
        0: Reason.LOAD_FAILED,
        2: Reason.INVALID_KEY,
    }


async def test_lives_are_spread() -> None:
    """Up to a tenth shorter than the TTL, whether the namespace or the origin says it."""
    rig = Rig()
    keys = [b"%d" % number for number in range(200)]
    for number, key in enumerate(keys):
        rig.loader.values[key] = Loaded(b"v", 0, 10.0 if number % 2 else None)
    await warm(rig, *keys)
    records = (await run(rig.node, Batch(Operation.GET, "n", keys))).records
    lives = [HEADER.unpack_from(record)[3] - rig.clock.now() for record in records]
    assert 9.0 <= min(lives) < 9.2
    assert 9.8 < max(lives) <= 10.0


async def test_value_that_is_due_is_loaded_anew() -> None:
    """What would be loaded for the next reader is loaded now."""
    rig = Rig(refresh_ahead=0.5)
    rig.loader.put(K, b"old")
    await rig.get()
    assert (await warm(rig, K)).versions == [Warmed.FRESH]
    rig.loader.put(K, b"new")
    rig.clock.advance(6.0)
    assert (await warm(rig, K)).versions == [Warmed.LOADED]
    assert await rig.get() == [b"new"]


async def test_readers_go_first() -> None:
    """While the origin is busy a reader's key passes all that is being warmed."""
    rig = Rig(attempts=1)
    origin = rig.node.namespaces.get("n").origin
    origin._reads._most = 1
    origin._reads._limits = type(origin._reads._limits)(concurrency=1)
    for key in (b"1", b"2", b"3", K):
        rig.loader.put(key, b"v")
    rig.loader.gate.clear()
    warming = asyncio.ensure_future(warm(rig, b"1", b"2", b"3"))
    await rig.loader.held.wait()
    reading = rig.reading()
    await asyncio.sleep(0)
    rig.loader.gate.set()
    await asyncio.gather(warming, reading)
    assert rig.loader.calls == [[b"1"], [K], [b"2"], [b"3"]]


async def test_reader_hurries_what_is_being_warmed() -> None:
    """A reader of a key that waits its turn for nobody does not wait for the others before it."""
    rig = Rig(attempts=1)
    origin = rig.node.namespaces.get("n").origin
    origin._reads._most = 1
    origin._reads._limits = type(origin._reads._limits)(concurrency=1)
    for key in (b"1", b"2", b"3", K):
        rig.loader.put(key, b"v")
    rig.loader.gate.clear()
    warming = asyncio.ensure_future(warm(rig, b"1", b"2", b"3", K))
    await rig.loader.held.wait()
    reading = rig.reading()
    for _ in range(3):
        await asyncio.sleep(0)
    rig.loader.gate.set()
    await asyncio.gather(warming, reading)
    assert rig.loader.calls == [[b"1"], [K], [b"2"], [b"3"]]
    assert rig.count("load_waits") == 1


async def test_write_during_warming_wins() -> None:
    """What was loaded before a write is not stored after it."""
    rig = Rig()
    rig.loader.put(K, b"old")
    rig.loader.gate.clear()
    warming = asyncio.ensure_future(warm(rig, K))
    await rig.loader.held.wait()
    await rig.write(Operation.SET, b"new")
    rig.loader.gate.set()
    await warming
    result = await run(rig.node, Batch(Operation.GET, "n", [K]))
    assert result.records[0][HEADER_BYTES:] == b"new"


async def test_stranger_is_refused() -> None:
    """A peer that has another view is told that the key is not here."""
    rig = Rig("a", "b")
    [key] = owned_by(rig.view, "b")
    result = await run(rig.nodes["a"], Batch(Operation.WARM, "n", [key]), from_peer=True)
    assert result.failures[0].reason is Reason.NOT_OWNER
