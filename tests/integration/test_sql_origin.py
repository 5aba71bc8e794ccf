"""The origin "sql" with real databases, SQLite and PostgreSQL: alone, and through a cluster that writes through."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cachenode.adapters.sql_origin import SqlOrigin
from cachenode.cli.local_cluster import LocalCluster
from cachenode.origins import ABSENT, Loaded, OriginError, Write
from cachenode_client import CacheClient, CacheUnavailable, SinkFailed
from tests.support.postgres import Postgres, postgres

SCHEMA = """
CREATE TABLE users (
  id BIGINT PRIMARY KEY, name TEXT NOT NULL, langs TEXT, life REAL, tags TEXT, version BIGINT NOT NULL
)
"""
SELECT = "SELECT id, name, langs, life, tags FROM users WHERE id IN :keys"
UPSERT = (
    "INSERT INTO users (id, name, langs, version) VALUES (:key, :name, :langs, :version) ON CONFLICT (id) DO UPDATE"
    " SET name = excluded.name, langs = excluded.langs, version = excluded.version"
    " WHERE users.version < excluded.version"
)
DELETE = "DELETE FROM users WHERE id = :key AND version < :version"
OPTIONS: dict[str, Any] = {
    "key": "user:{id:int}",
    "select": SELECT,
    "ttl_column": "life",
    "tags_column": "tags",
    "upsert": UPSERT,
    "delete": DELETE,
    "keys": "SELECT id FROM users ORDER BY id",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL for all tests."""
    with postgres() as server:
        yield server


class Database:
    """A database with the table, and how tests look into it."""

    def __init__(self, url: str, path: Path | None) -> None:
        self.url = url
        self._path = path

    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute a statement past the cache; return its rows."""
        if self._path is not None:
            with closing(sqlite3.connect(self._path, timeout=30)) as database, database:
                return list(database.execute(sql))
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty table in either."""
    if request.param == "sqlite":
        found = Database(f"sqlite:///{tmp_path / 'db'}", tmp_path / "db")
        await found.execute("PRAGMA journal_mode=WAL")
    else:
        found = Database(request.getfixturevalue("server").url, None)
        await found.execute("DROP TABLE IF EXISTS users")
    await found.execute(SCHEMA)
    return found


@pytest.mark.parametrize("select", [SELECT, SELECT.replace("IN :keys", "= :key")])
async def test_rows_are_values(database: Database, select: str) -> None:
    """A dictionary of columns without those set aside; what does not fit the pattern, or is no row, is absent."""
    await database.execute("INSERT INTO users VALUES (1, 'Ada', NULL, 2.5, 'a, b', 1), (2, 'Bob', 'en', NULL, NULL, 1)")
    origin = SqlOrigin(url=database.url, **{**OPTIONS, "select": select})
    found = await origin.load_many(["user:1", "user:2", "user:3", "user:x", "user:01", "other:1", b"\xff"])
    assert found == {
        "user:1": Loaded({"id": 1, "name": "Ada", "langs": None}, 2.5, ("a", "b")),
        "user:2": Loaded({"id": 2, "name": "Bob", "langs": "en"}),
    }
    assert await origin.load("user:2") == found["user:2"]
    assert await origin.load("user:9") is ABSENT
    assert origin.keys is not None
    listed = origin.keys()
    assert [key async for key in listed] == ["user:1", "user:2"]
    await origin.close()


async def test_one_column_as_the_value(database: Database) -> None:
    """And no list of keys where no statement gives one."""
    await database.execute("INSERT INTO users VALUES (1, 'Ada', NULL, NULL, NULL, 1)")
    origin = SqlOrigin(url=database.url, key="{id:int}", select=SELECT, value_column="name")
    assert await origin.load("1") == Loaded("Ada")
    assert origin.keys is None
    await origin.close()


async def test_late_write_loses(database: Database) -> None:
    """Statements know the version: what comes late or twice changes nothing."""
    origin = SqlOrigin(url=database.url, **OPTIONS)
    user = {"name": "Ada", "langs": ["en", "fr"]}
    await origin.write(Write("user:1", user, 5))
    for version in (4, 5):
        await origin.write(Write("user:1", {**user, "name": "late"}, version))
    await origin.write(Write("user:1", ABSENT, 3))
    assert await database.execute("SELECT id, name, langs, version FROM users") == [(1, "Ada", '["en","fr"]', 5)]
    await origin.write(Write("user:1", ABSENT, 6))
    assert await database.execute("SELECT * FROM users") == []
    await origin.close()


async def test_each_of_many_has_its_outcome(database: Database) -> None:
    """One is refused by the database, one by the pattern, one lacks a field; the others are done."""
    origin = SqlOrigin(url=database.url, **OPTIONS)
    good = {"name": "Ada", "langs": None}
    writes = [Write("user:1", good, 1), Write("user:2", {"name": None, "langs": None}, 2), Write("user:3", good, 3)]
    assert await origin.write_many(writes[::2]) == {}
    failures = await origin.write_many(
        [*(write._replace(version=10 + write.version) for write in writes), Write("x", 1, 9), Write("user:4", 7, 9)]
    )
    told = {key: (str(why), why.again, why.maybe_done) for key, why in failures.items()}
    assert told == {
        "user:2": ("IntegrityError", False, False),
        "x": ("the key does not fit the pattern of the origin's keys", False, False),
        "user:4": ("the value has no field for the parameter 'name'", False, False)
        if "user:4" in told and "'name'" in told["user:4"][0]
        else ("the value has no field for the parameter 'langs'", False, False),
    }
    assert await database.execute("SELECT id, version FROM users ORDER BY id") == [(1, 11), (3, 13)]
    with pytest.raises(OriginError, match="IntegrityError"):
        await origin.write(writes[1])
    with pytest.raises(OriginError, match="JSON"):
        await origin.write(Write("user:1", {"name": "x", "langs": [object()]}, 99))
    await origin.close()


async def test_database_that_is_away(server: Postgres) -> None:
    """It is told as an outage in which nothing was written, without the URL; afterwards it goes on."""
    away = Postgres()
    away.start()
    try:
        database = Database(away.url, None)
        await database.execute(SCHEMA)
        origin = SqlOrigin(url=away.url, **OPTIONS)
        await origin.write(Write("user:1", {"name": "Ada", "langs": None}, 1))
        away.kill()
        for failing in (origin.load("user:1"), origin.write(Write("user:1", {"name": "Eve", "langs": None}, 2))):
            with pytest.raises(OriginError) as caught:
                await failing
            assert (caught.value.again, caught.value.maybe_done) == (True, False)
            assert str(caught.value).isidentifier()
        away.start()
        assert await origin.load("user:1") == Loaded({"id": 1, "name": "Ada", "langs": None})
        await origin.close()
    finally:
        away.remove()


async def written(client: CacheClient, key: str, value: object) -> None:
    """Write a key, also while its owner has just died."""
    for _ in range(20):
        with contextlib.suppress(CacheUnavailable):
            await client.set(key, value)
            return
        await asyncio.sleep(0.5)
    pytest.fail("nobody has taken the keys of the node that died")


async def test_cluster_that_writes_through(database: Database, tmp_path: Path) -> None:
    """What clients write is in the table, in order; its refusal changes nothing; a killed node loses nothing."""
    options = "".join(f"{name} = {json.dumps(value)}\n" for name, value in {**OPTIONS, "url": database.url}.items())
    config = (
        '[origins.users]\nloader = "sql"\nsink = "sql"\nbatch_keys = 100\nbatch_writes = 100\n'
        f"[origins.users.options]\n{options}"
        '[namespaces.users]\norigin = "users"\nwrite = "through"\n'
    )
    (tmp_path / "node.toml").write_text(config)
    arguments = ["--config", str(tmp_path / "node.toml")]
    async with LocalCluster(nodes=3, directory=tmp_path / "c", arguments=arguments) as cluster:
        addresses = ",".join(node.address for node in cluster.nodes)
        async with CacheClient(addresses, namespace="users", timeout_s=15.0) as one:
            async with CacheClient(addresses, namespace="users", timeout_s=15.0) as two:
                users = {f"user:{n}": {"name": f"user {n}", "langs": None} for n in range(60)}
                await one.set_many(users)
                rows = await database.execute("SELECT id, name FROM users ORDER BY id")
                assert rows == [(n, f"user {n}") for n in range(60)]
                assert await two.get_many(list(users)) == users
                clients = [one, two]
                await asyncio.gather(
                    *(clients[n % 2].set("user:7", {"name": f"writer {n}", "langs": None}) for n in range(40))
                )
                [(last,)] = await database.execute("SELECT name FROM users WHERE id = 7")
                assert [(await each.get("user:7"))["name"] for each in clients] == [last, last]
                with pytest.raises(SinkFailed, match="IntegrityError") as caught:
                    await one.set("user:7", {"name": None, "langs": None})
                assert not caught.value.retryable
                assert (await two.get("user:7"))["name"] == last
                assert await two.delete("user:9")
                assert await one.get("user:9") is None
                os.kill(cluster.nodes[2].pid, signal.SIGKILL)
                await asyncio.gather(*(written(one, key, {"name": "new", "langs": None}) for key in users))
                assert {each["name"] for each in (await two.get_many(list(users))).values()} == {"new"}
                assert await database.execute("SELECT count(*) FROM users WHERE name = 'new'") == [(60,)]
