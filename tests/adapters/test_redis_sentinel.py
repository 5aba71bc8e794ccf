"""Which server sentinels lead to, and that nothing is asked of a former master: real servers, sentinels of our own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.sentinel import MasterNotFoundError

from cachenode.adapters import redis_sentinel
from cachenode.adapters.redis_access import NO_ACCESS, RedisAccess
from cachenode.adapters.redis_client import connect
from cachenode.adapters.redis_pipeline import RedisPipeline, Unsent
from cachenode.cli.ports import free_ports
from tests.support.eventually import eventually
from tests.support.redis_topologies import Process


class ScriptedSentinel:
    """Says what it is told to say of the master ``m``.

    Attributes:
        master: Its port.
        epoch: Of the configuration.
        flags: What it thinks of the master.
        mute: Whether it says nothing at all.
        asked: How often.
        logins: User and password of those who logged in.
    """

    def __init__(self, master: int, epoch: int = 1) -> None:
        self.master, self.epoch, self.flags, self.mute, self.asked = master, epoch, "master", False, 0
        self.port = 0
        self.logins: list[list[bytes]] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).startswith(b"*"):
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if self.mute:
                continue
            if words[0] == b"AUTH":
                self.logins.append(words[1:])
                writer.write(b"+OK\r\n")
                continue
            self.asked += 1
            if words[-1] != b"m":
                writer.write(b"-ERR No such master with that name\r\n")
                continue
            state = {"name": "m", "ip": "127.0.0.1", "port": self.master, "flags": self.flags}
            state["config-epoch"] = self.epoch
            texts = [str(text).encode() for pair in state.items() for text in pair]
            writer.write(b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts))
        writer.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Process]]:
    """Two servers, each a master."""
    one, other = (
        Process(tmp_path_factory.mktemp("server"), port, ["save ''", "enable-debug-command local"])
        for port in free_ports(2)
    )
    try:
        one.start()
        other.start()
        yield one, other
    finally:
        one.kill()
        other.kill()


@asynccontextmanager
async def watched_by(
    *sentinels: ScriptedSentinel, master: str = "m", access: RedisAccess = NO_ACCESS
) -> AsyncIterator[RedisPipeline]:
    """Run sentinels, and have a pipeline to the master that they name."""
    async with AsyncExitStack() as stack:
        for sentinel in sentinels:
            server = await asyncio.start_server(sentinel.answer, "127.0.0.1", 0)
            sentinel.port = server.sockets[0].getsockname()[1]
            stack.callback(server.close)
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        client = connect(f"redis+sentinel://{places}/{master}", timeout_s=5.0, connect_timeout_s=20.0, access=access)
        stack.push_async_callback(client.aclose)
        yield RedisPipeline(client)


async def port_of(pipeline: RedisPipeline) -> int:
    """Return which server answers."""
    (reply,) = await pipeline.round_trip([("CONFIG", "GET", "port")])
    return int(reply[1])


async def test_the_newest_configuration_counts(servers: tuple[Process, Process]) -> None:
    """Of sentinels that name different masters, the one with the highest configuration epoch is believed."""
    one, other = servers
    old, new = ScriptedSentinel(one.port, epoch=3), ScriptedSentinel(other.port, epoch=4)
    async with watched_by(old, new) as pipeline:
        assert await port_of(pipeline) == other.port


async def test_a_mute_sentinel_costs_nothing(servers: tuple[Process, Process]) -> None:
    """Nobody waits for those that do not answer once more than half have answered."""
    one, _ = servers
    mute, first, second = (ScriptedSentinel(one.port) for _ in range(3))
    mute.mute = True
    async with watched_by(mute, first, second) as pipeline:
        async with asyncio.timeout(8.0):  # less than one that is waited for costs
            assert await port_of(pipeline) == one.port


@pytest.mark.parametrize("flags", ["master,s_down", "master,s_down,o_down"])
async def test_no_master_is_no_connection(servers: tuple[Process, Process], flags: str) -> None:
    """A master that is down is not dialled: whoever asks learns at once that nothing was sent."""
    sentinel = ScriptedSentinel(servers[0].port)
    sentinel.flags = flags
    async with watched_by(sentinel) as pipeline:
        with pytest.raises(Unsent, match="no master that is up"):
            await pipeline.round_trip([("PING",)])


async def test_sentinels_have_users_of_their_own(servers: tuple[Process, Process], tmp_path: Path) -> None:
    """Who logs in at the sentinels is not told to the server, nor the other way round."""
    sentinel, secret = ScriptedSentinel(servers[0].port), tmp_path / "password"
    secret.write_text("hunter2")
    access = RedisAccess(sentinel_username="watcher", sentinel_password_file=str(secret))
    async with watched_by(sentinel, access=access) as pipeline:
        assert await port_of(pipeline) == servers[0].port
    assert {tuple(login) for login in sentinel.logins} == {(b"watcher", b"hunter2")}


async def test_an_unknown_master_is_said() -> None:
    """A name that the sentinels do not know is a mistake in the URL, and is called one."""
    async with watched_by(ScriptedSentinel(1), master="other") as pipeline:
        with pytest.raises(Unsent, match="do not know a master of the name in the URL"):
            await pipeline.round_trip([("PING",)])


async def test_sentinels_that_are_away_change_nothing(
    servers: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master in use stays in use while nobody names another; new connections cannot be made."""
    monkeypatch.setattr(redis_sentinel, "LOOK_S", 0.0)
    sentinel = ScriptedSentinel(servers[0].port)
    async with watched_by(sentinel) as pipeline:
        assert await port_of(pipeline) == servers[0].port
        sentinel.flags = "master,s_down"
        assert await port_of(pipeline) == servers[0].port
        with pytest.raises(MasterNotFoundError):
            await pipeline.look()


async def test_a_change_of_master_is_found_by_who_has_not_asked_for_long(
    servers: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle connection to the former master, which still answers, is closed; the history is another."""
    one, other = servers
    sentinel = ScriptedSentinel(one.port)
    async with watched_by(sentinel) as pipeline:
        assert await port_of(pipeline) == one.port
        sentinel.master = other.port
        assert await port_of(pipeline) == one.port, "it was asked a moment ago"
        assert pipeline.history == 0
        monkeypatch.setattr(redis_sentinel, "LOOK_S", 0.0)
        await pipeline.look()
        assert await port_of(pipeline) == other.port
        assert pipeline.history == 1


async def test_a_look_is_for_a_second(servers: tuple[Process, Process]) -> None:
    """Sentinels are not asked for each call."""
    sentinel = ScriptedSentinel(servers[0].port)
    async with watched_by(sentinel) as pipeline:
        await port_of(pipeline)
        asked = sentinel.asked
        for _ in range(50):
            await port_of(pipeline)
        assert sentinel.asked <= asked + 2


async def test_connections_of_a_former_life_are_not_used(servers: tuple[Process, Process]) -> None:
    """Once one connection has met another server at an address, the others are opened anew before they are used."""
    one, other = servers
    target = one.port

    async def lead_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        with contextlib.suppress(asyncio.CancelledError):  # the test's loop ends
            await asyncio.gather(copy(reader, back), copy(there, writer))

    async with AsyncExitStack() as stack:
        proxy = await asyncio.start_server(lead_on, "127.0.0.1", 0)
        stack.callback(proxy.close)
        port = proxy.sockets[0].getsockname()[1]
        client = connect(f"redis://127.0.0.1:{port}", timeout_s=5.0, connect_timeout_s=2.0)
        stack.push_async_callback(client.aclose)
        pipeline = RedisPipeline(client)
        await asyncio.gather(*(pipeline.round_trip([("BLPOP", "nothing", 0.2)]) for _ in range(3)))
        pool: Any = client.connection_pool
        assert len(pool._available_connections) == 3
        target = other.port
        await pool._available_connections[-1].disconnect()  # the next that is used
        assert await port_of(pipeline) == other.port
        assert await asyncio.gather(*(port_of(pipeline) for _ in range(3))) == [other.port] * 3
        assert pipeline.history == 1


async def test_answers_of_a_former_life_do_not_count(servers: tuple[Process, Process]) -> None:
    """What the former master answers after the new one was met is no answer."""
    one, other = servers
    sentinel = ScriptedSentinel(one.port)
    async with watched_by(sentinel) as pipeline:
        await port_of(pipeline)
        late = asyncio.create_task(pipeline.round_trip([("BLPOP", "nothing", 0.5)]))
        await eventually(lambda: int(one.info()["blocked_clients"]) == 1)
        sentinel.master = other.port
        assert await port_of(pipeline) == other.port
        with pytest.raises(Exception, match="another server has taken the place"):
            await late


async def test_a_replica_is_not_asked(tmp_path: Path, servers: tuple[Process, Process]) -> None:
    """A server that takes no writes is not taken for the master, whoever names it."""
    (port,) = free_ports(1)
    replica = Process(tmp_path, port, ["save ''", f"replicaof 127.0.0.1 {servers[0].port}"])
    try:
        replica.start()
        async with watched_by(ScriptedSentinel(port)) as pipeline:
            with pytest.raises(Unsent, match="is a replica"):
                await pipeline.round_trip([("PING",)])
    finally:
        replica.kill()
