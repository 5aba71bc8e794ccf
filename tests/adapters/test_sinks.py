"""Plug-ins as sinks: called as what they are, with values as clients have written them."""

from __future__ import annotations

from typing import Any

import pytest

from cachenode.adapters.sinks import PluginSink
from cachenode.core.entries import SinkWrite
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Write
from cachenode_client._values import Codec


def written(key: bytes, value: object, version: int = 7) -> SinkWrite:
    """Return a write as a node makes it."""
    return SinkWrite(key, *Codec().encode(value), version)


class Table:
    """A sink with a name for each way to be called."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.failing: dict[str | bytes, Exception] = {}
        self.closed = 0

    async def write(self, write: Write) -> None:
        self.writes.append(write)
        if write.key in self.failing:
            raise self.failing[write.key]

    def write_many(self, writes: list[Write]) -> dict[str | bytes, Exception] | None:
        self.writes += writes
        return {write.key: self.failing[write.key] for write in writes if write.key in self.failing} or None

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("most_writes", [1, 2])
async def test_write_as_plugins_see_it(most_writes: int) -> None:
    """Text or bytes as the key, the value decoded, `ABSENT` for a removal, and the version."""
    table = Table()
    sink = PluginSink(table, most_writes=most_writes)
    given = [written(b"k", {"n": [1]}), SinkWrite(b"\xff", None, 0, 8)]
    for part in [given] if most_writes > 1 else [[each] for each in given]:
        assert await sink.write(part) == [None] * len(part)
    assert table.writes == [Write("k", {"n": [1]}, 7), Write(b"\xff", ABSENT, 8)]
    await sink.close()
    assert table.closed == 1


async def test_function_in_a_thread() -> None:
    """A plain function is a sink too."""
    seen: list[Write] = []
    sink = PluginSink(seen.append)
    assert await sink.write([written(b"k", None)]) == [None]
    assert seen == [Write("k", None, 7)]
    await sink.close()


async def test_exception_leaves_open_what_was_done() -> None:
    """It is told by its type; only an `OriginError` can say that nothing was."""
    table = Table()
    sink = PluginSink(table)
    table.failing["k"] = OSError("a secret")
    with pytest.raises(OriginError, match=r"^OSError$") as caught:
        await sink.write([written(b"k", 1)])
    assert (caught.value.maybe_done, caught.value.again) == (True, True)
    table.failing["k"] = OriginError("no such column", again=False)
    with pytest.raises(OriginError, match="no such column") as caught:
        await sink.write([written(b"k", 1)])
    assert (caught.value.maybe_done, caught.value.again) == (False, False)


async def test_each_of_many_has_its_outcome() -> None:
    """What the mapping names has not been written; a value that nobody can read is not even given."""
    table = Table()
    sink = PluginSink(table, most_writes=9)
    table.failing = {"b": ValueError("a secret"), "c": OriginError("refused", again=False)}
    odd = SinkWrite(b"d", b"\xff", 1, 7)
    found = await sink.write([written(b"a", 1), written(b"b", 1), written(b"c", 1), odd])
    assert [str(each) for each in found] == [
        "None",
        "ValueError",
        "refused",
        "the value cannot be given to the sink: value: the stored bytes are not those of serializer 1",
    ]
    assert [(each.again, each.maybe_done) for each in found if each] == [(True, True), (False, False), (False, False)]
    assert [each.key for each in table.writes] == ["a", "b", "c"]
    assert [str(each) for each in await sink.write([odd])] == [str(found[3])]


@pytest.mark.parametrize(("plugin", "most", "lacks"), [(7, 1, "write"), (object(), 2, "write_many")])
def test_what_cannot_be_called(plugin: Any, most: int, lacks: str) -> None:
    """It is said when the node starts."""
    with pytest.raises(ConfigError, match=f"is no function, and has no {lacks}$"):
        PluginSink(plugin, most_writes=most)


async def test_answer_that_is_no_mapping() -> None:
    """The sink has a defect; it may have written."""
    sink = PluginSink(lambda _: 7, most_writes=2)
    with pytest.raises(OriginError, match="must return nothing, or a mapping of keys to exceptions, not int") as caught:
        await sink.write([written(b"k", 1)])
    assert (caught.value.maybe_done, caught.value.again) == (True, False)
