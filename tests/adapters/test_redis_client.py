from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from cachenode.adapters.redis_access import RedisAccess
from cachenode.adapters.redis_client import FAILURES, RedisAddress, check_cluster, connect, parse_url, reason
from cachenode.errors import ConfigError
from tests.support.eventually import eventually


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", RedisAddress(hosts=(("cache", 6379),))),
        ("redis://cache:7000/3", RedisAddress(hosts=(("cache", 7000),), db=3)),
        ("redis://cache/", RedisAddress(hosts=(("cache", 6379),))),
        ("redis://[::1]:7000", RedisAddress(hosts=(("::1", 7000),))),
        ("redis://me:p%40ss@cache", RedisAddress(hosts=(("cache", 6379),), username="me", password="p@ss")),
        ("redis://:secret@cache", RedisAddress(hosts=(("cache", 6379),), password="secret")),
        ("rediss://cache", RedisAddress(hosts=(("cache", 6379),), tls=True)),
        ("unix:///run/redis.sock", RedisAddress(path="/run/redis.sock")),
        ("unix:///run/a%20b.sock?db=2", RedisAddress(path="/run/a b.sock", db=2)),
        ("unix://me:secret@/run/s", RedisAddress(path="/run/s", username="me", password="secret")),
    ],
)
def test_reads_urls(url: str, expected: RedisAddress) -> None:
    """Every accepted form is read as documented."""
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://:hunter2@cache",
        "redis://:hunter2@",
        "redis://:hunter2@cache:port",
        "redis://:hunter2@cache:70000",
        "redis://:hunter2@cache/one",
        "redis://:hunter2@cache/1/2",
        "redis://:hunter2@cache?socket_timeout=9",
        "redis://:hunter2@cache#1",
        "unix://:hunter2@run/redis.sock",
        "unix://",
        "unix:///",
        "unix:///run/s?db=x",
        "unix:///run/s?hunter2",
        "redis://[hunter2",
    ],
)
def test_refuses_other_urls(url: str) -> None:
    """The error lists what is accepted and never shows the password."""
    with pytest.raises(ConfigError, match=r"redis url: .*accepted are redis://.*rediss://.*unix://") as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_password_is_not_shown() -> None:
    """An address may be logged."""
    assert "hunter2" not in repr(parse_url("redis://:hunter2@cache"))


def test_profile_of_the_hot_path() -> None:
    """No retries, no health checks, a fixed protocol and a bounded pool, whatever the library's defaults are."""
    for url in ("redis://:pw@cache:7000/3", "rediss://cache", "unix:///run/s"):
        pool = connect(url, timeout_s=0.2, connect_timeout_s=0.3, max_connections=5).connection_pool
        options = pool.connection_kwargs
        assert pool.max_connections == 5
        assert options["retry"].get_retries() == 0
        assert options["health_check_interval"] == 0
        assert options["protocol"] == 2
        connection = pool.connection_class(**options)
        assert connection.socket_timeout == pytest.approx(0.4)
        assert connection.socket_connect_timeout == pytest.approx(0.3)


async def test_a_server_that_is_not_there_costs_little() -> None:
    """A call to nobody fails at once instead of after seconds of retries."""
    client = connect("unix:///nonexistent/valkey.sock")
    began = time.monotonic()
    with pytest.raises(FAILURES):
        await client.ping()
    assert time.monotonic() - began < 1.0
    await client.aclose()


async def test_a_server_that_does_not_answer_costs_the_limit() -> None:
    """A listener that accepts and says nothing costs the socket's time limit, not the library's default."""

    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    done = asyncio.Event()
    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = connect(f"redis://127.0.0.1:{port}", timeout_s=0.05)
    began = time.monotonic()
    with pytest.raises(FAILURES):
        await client.ping()
    assert time.monotonic() - began < 1.0
    await client.aclose()
    done.set()
    listener.close()
    await listener.wait_closed()


class _Resetting(threading.Thread):
    """A server that answers PONG to anything, and can reset its connections."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connections: list[socket.socket] = []

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                connection.sendall(b"+PONG\r\n")

    def reset(self) -> None:
        for connection in self.connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RD)  # ends the thread's wait, which keeps it open
            connection.close()
        self.connections.clear()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.reset()
        self.join()


@pytest.mark.both_loops
async def test_a_connection_that_was_reset() -> None:
    """While nobody used it: the next call fails as it does when a server is away, and the one after it is answered."""
    server = _Resetting()
    server.start()
    client = connect(f"redis://127.0.0.1:{server.listener.getsockname()[1]}", timeout_s=5, connect_timeout_s=5)
    assert await client.ping()
    (connection,) = client.connection_pool._available_connections
    transport = connection._writer.transport
    server.reset()
    await eventually(transport.is_closing)
    with contextlib.suppress(*FAILURES):
        await client.ping()
    assert await client.ping()
    await client.aclose()
    server.stop()


@pytest.mark.parametrize("name", ["", "a:b", "{a}", "a b", "x" * 65, "-a", "a\n"])
def test_refuses_cluster_names(name: str) -> None:
    """A name with a meaning in keys is refused."""
    with pytest.raises(ConfigError, match="cluster"):
        check_cluster(name)


def test_takes_cluster_names() -> None:
    """Ordinary names pass."""
    assert check_cluster("Prod-eu.1_a") == "Prod-eu.1_a"


def test_reasons_hold_no_arguments() -> None:
    """A server's complaint about a command is reduced to its kind; what is wrong with the connection is said."""
    assert reason(ResponseError("unknown command, with args beginning with: 'secret'")) == "ResponseError"
    assert "protected mode" in reason(ResponseError("DENIED Running in protected mode because …"))
    assert reason(RedisConnectionError("Error 111 connecting to cache:6379.")) == "Error 111 connecting to cache:6379."
    assert reason(AuthenticationError("invalid username-password pair")) == "invalid username-password pair"
    assert reason(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis+sentinel://me:p%40ss@h1:26380,h2/the-master/3",
            RedisAddress("sentinel", (("h1", 26380), ("h2", 26379)), "", "the-master", 3, False, "me", "p@ss"),
        ),
        (
            "rediss+sentinel://[::1]:1,[::2]/m",
            RedisAddress("sentinel", (("::1", 1), ("::2", 26379)), master="m", tls=True),
        ),
        ("redis+cluster://:pw@h1:7000,h2", RedisAddress("cluster", (("h1", 7000), ("h2", 6379)), password="pw")),
        ("rediss+cluster://h1/0", RedisAddress("cluster", (("h1", 6379),), tls=True)),
    ],
)
def test_reads_urls_of_many_hosts(url: str, expected: RedisAddress) -> None:
    """Sentinels and the nodes of a Cluster are listed with commas, each with its port or the usual one."""
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:hunter2@h1",
        "redis+sentinel://:hunter2@h1/",
        "redis+sentinel://:hunter2@h1/m/x",
        "redis+sentinel://:hunter2@h1:0/m",
        "redis+sentinel://:hunter2@h1,,h2/m",
        "redis+sentinel://:hunter2@h1/m?db=hunter2",
        "redis+sentinel://:hunter2@::1/m",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@h1/1",
        "redis+cluster://:hunter2@h1:70000",
        "unix+cluster://:hunter2@/run/s",
    ],
)
def test_refuses_other_urls_of_many_hosts(url: str) -> None:
    """What is wrong is named, and the password is not."""
    with pytest.raises(ConfigError, match=r"redis url: .*accepted are .*sentinel.*cluster") as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)


def test_logins_come_from_files_unless_the_url_names_them(tmp_path: Path) -> None:
    """A password file is read for each connection; a URL's own user counts before it; what is missing is named."""
    secret = tmp_path / "password"
    secret.write_text("first\n")
    access = RedisAccess(username="node", password_file=str(secret))
    provider = connect("redis://cache", access=access).connection_pool.connection_kwargs["credential_provider"]
    assert provider.get_credentials() == ("node", "first")
    secret.write_text("second")
    assert provider.get_credentials() == ("node", "second")
    options = connect("redis://me:pw@cache", access=access).connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == ("me", "pw")
    assert "credential_provider" not in options
    assert "first" not in repr(access)
    with pytest.raises(ConfigError, match=r"l2\.ca_file: cannot be read"):
        RedisAccess(ca_file=str(tmp_path / "nowhere")).check()
