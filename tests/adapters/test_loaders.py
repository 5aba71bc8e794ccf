"""Plug-ins as loaders: found by name, called as what they are, their values as clients read them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cachenode.adapters.loaders import PluginLoader
from cachenode.adapters.plugins import find_plugin
from cachenode.core.entries import Loaded
from cachenode.errors import ConfigError, OriginError
from cachenode_api.records import TAGGED
from cachenode_api.tags import split_tags
from cachenode_client._values import Codec
from tests.support import loaders
from tests.support.eventually import eventually

HERE = "tests.support.loaders"


async def answers(plugin: Any, *keys: bytes, most_keys: int = 1) -> list[Any]:
    """Return what a plug-in says of keys: values decoded, errors as their texts."""
    loader = PluginLoader(plugin, most_keys=most_keys)
    try:
        found = [(await loader.load([key]))[0] for key in keys] if most_keys == 1 else await loader.load(keys)
    finally:
        await loader.close()
    return [Codec().decode(each.value, each.flags) if isinstance(each, Loaded) else each for each in found]


@pytest.mark.parametrize("plugin", [loaders.load, partial(loaders.load), loaders.load_in_thread])
async def test_function_of_one_key(plugin: Any) -> None:
    """Async or not; a key that is no text comes as bytes."""
    assert await answers(plugin, b"k", b"\xff") == ["value of 'k'", "value of b'\\xff'"]


async def test_what_there_is_besides_values() -> None:
    """None is a value, ABSENT is none; a value may bring its life and tags, or not be for keeping."""
    assert await answers(loaders.load, b"absent", b"none") == [None, None]
    loader = PluginLoader(loaders.load)
    [none], [tagged], [unkept] = [await loader.load([key]) for key in (b"none", b"tagged", b"unkept")]
    assert isinstance(none, Loaded)
    assert isinstance(tagged, Loaded)
    assert isinstance(unkept, Loaded)
    assert (none.ttl_s, none.keep, unkept.keep, tagged.ttl_s) == (None, True, False, 5)
    assert tagged.flags & TAGGED
    tags, value = split_tags(tagged.value)
    assert (list(tags), Codec().decode(value, tagged.flags & ~TAGGED)) == ([b"a", b"b"], {"n": 1})


@pytest.mark.parametrize("key", [b"odd", b"ended", b"bad tag", b"bad parent"])
async def test_value_that_cannot_be_stored(key: bytes) -> None:
    """It is the loader's defect, not an outage; the text does not repeat the value."""
    [error] = await answers(loaders.load, key)
    assert isinstance(error, OriginError)
    assert not error.again
    assert str(error).startswith("what the loader returned cannot be stored: ")


async def test_many_keys_at_a_time() -> None:
    """A mapping; what is missing in it is absent."""
    assert await answers(loaders.load_many, b"a", b"missing", b"absent", most_keys=9) == ["A", None, None]
    with pytest.raises(OriginError, match="must return a mapping of keys to values, not int") as caught:
        await answers(loaders.count, b"a", most_keys=9)
    assert not caught.value.again


async def test_exception_is_told_by_its_type() -> None:
    """Its text may hold anything."""
    with pytest.raises(OriginError) as caught:
        await answers(loaders.fail, b"k")
    assert (str(caught.value), caught.value.again) == ("OSError", True)


async def test_object_with_options(tmp_path: Path) -> None:
    """A class is made with the options, and closed in the end."""
    path = tmp_path / "db"
    path.touch()
    database = find_plugin(f"{HERE}:Database", {"path": str(path)})
    await PluginLoader(database, most_keys=2).close()
    assert database.closed


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("nothing", {}, "is neither module:name nor one of the installed loaders"),
        ("no_such_module:load", {}, "cannot be imported: ModuleNotFoundError"),
        (f"{HERE}:no_such", {}, "cannot be imported: AttributeError"),
        (f"{HERE}:Database", {"path": "/nonexistent/db"}, "cannot be made with its options: FileNotFoundError"),
        (f"{HERE}:Database", {"pass": "hunter2"}, "cannot be made with its options: TypeError"),
    ],
)
def test_what_cannot_be_found(name: str, options: dict[str, Any], text: str) -> None:
    """The problem says what is wrong, and no option's value."""
    with pytest.raises(ConfigError) as caught:
        find_plugin(name, options)
    assert str(caught.value).startswith(text)
    assert "hunter2" not in str(caught.value)


async def listed(plugin: Any, most_keys: int = 1) -> list[bytes]:
    """Return the keys that a plug-in lists."""
    loader = PluginLoader(plugin, most_keys=most_keys)
    try:
        return [key async for key in loader.enumerate()]
    finally:
        await loader.close()


async def test_keys_of_an_origin(tmp_path: Path) -> None:
    """An async generator, a plain one that holds a connection of its thread, and any iterable."""
    assert await listed(loaders.Listing()) == [b"a", b"\xff", b"b"]
    path = tmp_path / "users.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE users (id INTEGER)")
        database.executemany("INSERT INTO users VALUES (?)", [(number,) for number in range(2_500)])
    found = await listed(loaders.Database(str(path)), most_keys=100)
    assert (len(found), found[0], found[-1]) == (2_500, b"user:0", b"user:2499")
    plugin = SimpleNamespace(load=loaders.load, keys=lambda: {"x": 1, "y": 2})
    assert await listed(plugin) == [b"x", b"y"]


async def test_generator_of_keys_that_is_left(tmp_path: Path) -> None:
    """It is closed in its own thread."""
    closed: list[str] = []

    def keys() -> Iterator[str]:
        try:
            while True:
                yield "k"
        finally:
            closed.append(threading.current_thread().name)

    loader = PluginLoader(SimpleNamespace(load=loaders.load, keys=keys))
    left = loader.enumerate()
    assert await anext(left) == b"k"
    await left.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: closed == ["plugin-1"])


async def test_keys_that_cannot_be_listed() -> None:
    """No `keys`, or they fail: the error says so without their text."""
    assert not PluginLoader(loaders.load).enumerates
    with pytest.raises(OriginError, match="it has no `keys`"):
        await listed(loaders.load)
    assert PluginLoader(loaders.Listing()).enumerates
    with pytest.raises(OriginError, match=r"^OSError$"):
        await listed(loaders.Listing("a", "bad"))


def test_what_cannot_be_called() -> None:
    """A module's constant is no loader."""
    with pytest.raises(ConfigError, match="is no function, and has no load"):
        PluginLoader(7)


async def test_blocking_calls_run_side_by_side() -> None:
    """As many as there are threads, which are used again; one that never returns holds up nobody else."""
    meet, forever = threading.Barrier(3), threading.Event()
    names: set[str] = set()

    def load(key: str) -> str:
        names.add(threading.current_thread().name)
        if key == "stuck":
            forever.wait()
        elif key != "alone":
            meet.wait(10)
        return key

    loader = PluginLoader(load, threads=4)
    stuck = asyncio.ensure_future(loader.load([b"stuck"]))
    await asyncio.gather(*(loader.load([b"%d" % number]) for number in range(3)))
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    for _ in range(10):
        await loader.load([b"alone"])
    await loader.close()
    assert names == {f"plugin-{number}" for number in range(1, 5)}
    stuck_thread = next(thread for thread in threading.enumerate() if thread.name == "plugin-1")
    assert stuck_thread.daemon
    forever.set()
