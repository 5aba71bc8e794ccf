"""The Python in the READMEs runs as it stands, against a real node; only addresses are put in.

What a block takes from the application around it (a database, a loader, pages to forget) is a stand-in here. A block
that watches never ends by itself: it has done its part once it has told of an event.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Any

import pytest

from cachenode.server import Server
from cachenode_client import CacheClient, Invalidated, Reset

TOP = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ADDRESS = re.compile(r'CacheClient\("[^"]+"')


class Told(Exception):
    """A block that watches has told of what it saw."""


def blocks() -> Iterator[Any]:
    for name in ("README.md", "client/README.md"):
        for number, code in enumerate(_BLOCK.findall((TOP / name).read_text(encoding="utf-8"))):
            yield pytest.param(code, id=f"{name}-{number}")


def tell(*_: object) -> None:
    raise Told


async def load_user() -> dict[str, int]:
    return {"id": 7}


async def load_users(keys: list[str]) -> dict[str, dict[str, int]]:
    return {key: {"id": 7} for key in keys}


async def fetch_user(number: int) -> dict[str, int]:
    return {"id": number}


def application(cache: CacheClient) -> dict[str, Any]:
    """Return the names that the text takes as given."""
    return {
        "cache": cache,
        "database": SimpleNamespace(fetch_user=fetch_user),
        "load_user": load_user,
        "load_users": load_users,
        "pages": SimpleNamespace(forget=tell, clear=tell),
        "print": tell,
        "Invalidated": Invalidated,
        "Reset": Reset,
    }


async def write_on(cache: CacheClient) -> None:
    """Give those who watch something to see, until they have seen it."""
    while True:
        await cache.set("news", 1)


@pytest.mark.parametrize("code", list(blocks()))
async def test_block_runs(code: str, server: Server, cache: CacheClient) -> None:
    """Nothing in it is wrong, misses a name, or is of a former release."""
    code = _ADDRESS.sub(f'CacheClient("{server.address}"', code).replace("timeout_s=0.2", "timeout_s=10")
    names = application(cache)
    exec("async def block():\n" + indent(code, "    "), names)
    if "blocking" in code:
        await asyncio.to_thread(asyncio.run, names["block"]())
    elif "watch(" in code:
        writer = asyncio.create_task(write_on(cache))
        with pytest.raises(Told):
            async with asyncio.timeout(30):
                await names["block"]()
        writer.cancel()
    else:
        async with asyncio.timeout(30):
            await names["block"]()


def test_there_are_blocks() -> None:
    """The READMEs still show code, in the form that is looked for here."""
    assert len(list(blocks())) >= 5
