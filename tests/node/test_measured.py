"""What a node counts of a namespace for advice."""

from __future__ import annotations

from cachenode.core.entries import Batch, Operation
from tests.node.test_read_through import Rig

K = b"k"


async def test_loads_are_timed_and_are_no_writes() -> None:
    """Their mean duration is known, what they store is not taken for a write, and stale reads are counted."""
    rig = Rig(stale_s=100.0)
    space = rig.node.namespaces.get("n")
    space.observed.window.note(rig.clock.now(), space.counted())
    rig.loader.put(K, b"v")
    rig.loader.gate.clear()
    reading = rig.reading()
    await rig.loader.held.wait()
    rig.clock.advance(0.25)
    rig.loader.gate.set()
    assert await reading == [b"v"]
    await rig.get()
    await rig.write(Operation.SET, b"set", key=b"other")
    await run_invalidate(rig, b"third")
    rig.clock.advance(50.0)
    rig.loader.gate.clear()
    assert await rig.get() == [b"v"]
    measured = space.measured(rig.clock.now())
    rig.loader.gate.set()
    await rig.node.read_through.close()
    assert measured.seconds == 50.25
    assert (measured.reads, measured.hits) == (3, 2)
    assert (measured.writes, measured.invalidations) == (1, 1)
    assert (measured.loads, measured.load_seconds) == (1, 0.25)
    assert (measured.stale_reads, measured.keys, measured.reads_through) == (1, 2, True)
    assert measured.bytes > 0


async def run_invalidate(rig: Rig, key: bytes) -> None:
    rest = rig.node.execute(Batch(Operation.INVALIDATE, "n", [key]), lambda _: None)
    if rest is not None:
        await rest
