"""A cluster on this machine: an L2 and several nodes, each a process of its own.

For trying things out, for the demonstration, and for tests that kill, freeze and restart nodes. Nothing is left
behind: the context's end stops what it started, and should this process be killed, the kernel stops it (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from cachenode.adapters.embedded import EmbeddedValkey
from cachenode.cli.certs import make_certificates
from cachenode.cli.child import Child, ClusterError, LocalNode
from cachenode.cli.ports import free_ports
from cachenode.config import redact_url
from cachenode_client import Tls

__all__ = ["ClusterError", "LocalCluster", "LocalNode"]

_START_S = 30.0
_STOP_S = 8.0
_POLL_S = 0.05
_CALL_S = 1.0
_PORT_ATTEMPTS = 4
_NOT_SHARED = frozenset({"CACHENODE_L2__URL", "CACHENODE_L2__REGISTRY_URL", "CACHENODE_NODE__ADVERTISE"})
"""Settings that the launcher makes itself, or that cannot be the same for every node."""


class LocalCluster:
    """Several nodes and their L2, as an asynchronous context.

    Use it from the main thread: on Linux, children die with the thread that started them. A node that dies is
    reported and not restarted.

    Args:
        directory: For logs, the embedded Valkey's socket, and cluster.json, which says where the nodes are while they
            run. One cluster at a time can use it.
        nodes: How many; they are called node-0, node-1 and so on.
        l2_url: A Redis or Valkey of your own; None starts an embedded Valkey.
        memory: Of each node, such as "64MiB"; "" for the default.
        name: Of the cluster; "" makes one up, so that clusters that share a Redis stay apart.
        port: Of the first node, the next ones are two apart with HTTP between; 0 takes free ones.
        arguments: More flags of ``cachenode serve`` for every node.
        tls: Whether all of them talk TLS, with certificates made for this run.
        region: Name of the region that it is; "" for none.
        peers: The other regions, as ``regions.peers`` has them in an environment variable.
        token_file: Holds a token that may see the view, if the nodes' configuration asks for one.
        on_exit: Called with a node's name and exit code when it ends by itself.
    """

    def __init__(
        self,
        *,
        directory: Path,
        nodes: int = 3,
        l2_url: str | None = None,
        memory: str = "",
        name: str = "",
        port: int = 0,
        arguments: Sequence[str] = (),
        tls: bool = False,
        region: str = "",
        peers: str = "",
        token_file: Path | None = None,
        on_exit: Callable[[str, int], None] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.name = name or f"local-{secrets.token_hex(4)}"
        """The name of the cluster."""
        self.l2_url = l2_url or ""
        """The URL of L2."""
        self._valkey = None if l2_url else EmbeddedValkey(self.directory)
        self._l2_started = False
        self._memory = memory
        self._port = port
        self._arguments = tuple(arguments)
        self._token_file = token_file
        self._regions = {"CACHENODE_REGIONS__NAME": region, "CACHENODE_REGIONS__PEERS": peers} if region else {}
        self.certs = self.directory / "certs" if tls else None
        """Where the certificates are; None without TLS."""
        self._on_exit = on_exit
        self._names = [f"node-{number}" for number in range(nodes)]
        self._children: dict[str, Child] = {}
        self._nodes: dict[str, LocalNode] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._lock: IO[bytes] | None = None

    @property
    def nodes(self) -> tuple[LocalNode, ...]:
        """Every node as it was last started, also those that were killed."""
        return tuple(self._nodes.values())

    @property
    def any_running(self) -> bool:
        """False once every node has ended."""
        return any(child.running for child in self._children.values())

    @property
    def address(self) -> str:
        """What clients connect to: all nodes."""
        return ",".join(node.address for node in self.nodes)

    @property
    def file(self) -> Path:
        """The file that says where the nodes are."""
        return self.directory / "cluster.json"

    @property
    def l2_pid(self) -> int | None:
        """The process of the embedded Valkey; None if it was stopped or L2 is somebody else's."""
        return self._valkey.pid if self._valkey is not None and self._l2_started else None

    @property
    def tls(self) -> Tls | None:
        """What clients need to connect over TLS, None if they do not."""
        if self.certs is None:
            return None
        return Tls(self.certs / "ca.pem", self.certs / "client.pem", self.certs / "client-key.pem")

    def describe(self) -> dict[str, object]:
        """Return what cluster.json holds. A password in the URL of L2 is starred out."""
        certs = {"certs": str(self.certs)} if self.certs is not None else {}
        return {"nodes": [node.to_dict() for node in self.nodes], "l2": redact_url(self.l2_url), **certs}

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything; return when all nodes have one view and hear each other. After a failure call `stop`.

        Raises:
            ClusterError: A node did not start, or another cluster uses the directory.
            EmbeddedValkeyError: The embedded Valkey is not installed or did not start.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._claim()
        if self.certs is not None:
            make_certificates(self.certs)
        if self._valkey is not None:
            self.start_l2()
        for name in self._names:
            log = self.directory / f"{name}.log"
            log.write_bytes(b"")
            self._children[name] = Child(name, log, self._environ())
        started = await _all(self._start_node(name) for name in self._names)
        self._nodes = {node.id: node for node in started}
        await self._wait_until_together()
        self._write_file()

    async def stop(self) -> None:
        """End everything that was started, the nodes first. Safe to call twice, and after a start that failed."""
        for task in self._watching.values():
            task.cancel()
        self._watching.clear()
        await asyncio.gather(*(child.stop(_STOP_S) for child in self._children.values()))
        if self._lock is not None:  # without it the files here, the Valkey's socket too, are another cluster's
            if self._valkey is not None:
                self.stop_l2()
            self.file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def kill_all(self) -> None:
        """End every node at once, without letting any leave in good order; `stop` is still to be called."""
        for child in self._children.values():
            child.send(signal.SIGKILL)

    async def kill(self, node_id: str, /) -> None:
        """End one node as a crash would (SIGKILL)."""
        await self._end(node_id, signal.SIGKILL)

    async def terminate(self, node_id: str, /) -> None:
        """End one node in good order (SIGTERM)."""
        await self._end(node_id, signal.SIGTERM)

    async def restart(self, node_id: str, /) -> LocalNode:
        """Start a node that has ended, or end it in good order first, under its old name and address.

        It waits for all running nodes to have one view, so let frozen ones go on before.

        Raises:
            ClusterError: It did not start, or the others did not take it in.
        """
        if self._child(node_id).running:
            await self.terminate(node_id)
        self._nodes[node_id] = await self._start_node(node_id)
        await self._wait_until_together()
        self._write_file()
        return self._nodes[node_id]

    def pause(self, node_id: str, /) -> None:
        """Freeze a node (SIGSTOP): it answers nothing, and its connections stay open."""
        self._child(node_id).send(signal.SIGSTOP)

    def resume(self, node_id: str, /) -> None:
        """Let a frozen node go on."""
        self._child(node_id).send(signal.SIGCONT)

    def stop_l2(self) -> None:
        """End the embedded Valkey. What it held is lost, the membership included. Does nothing if it is stopped.

        Raises:
            ClusterError: L2 is somebody else's.
        """
        self._own_l2().stop()
        self._l2_started = False

    def start_l2(self) -> None:
        """Start the embedded Valkey, empty, where it was before. Does nothing if it runs.

        Raises:
            ClusterError: L2 is somebody else's, or the Valkey came up at another place, which the nodes do not know.
            EmbeddedValkeyError: It is not installed or did not start.
        """
        url = self._own_l2().start().url
        self._l2_started = True
        if self.l2_url not in {"", url}:
            raise ClusterError("the Valkey came up at another socket; use a directory with a shorter path")
        self.l2_url = url

    def _own_l2(self) -> EmbeddedValkey:
        if self._valkey is None:
            raise ClusterError("L2 was not started by this cluster")
        return self._valkey

    async def _end(self, node_id: str, number: signal.Signals) -> None:
        child = self._child(node_id)
        watching = self._watching.pop(node_id, None)
        if watching is not None:
            watching.cancel()  # its end is no news
        if number is signal.SIGKILL:
            child.send(number)
        await child.stop(_STOP_S)

    def _child(self, node_id: str) -> Child:
        if node_id not in self._children:
            raise ClusterError(f"there is no such node; the nodes are {', '.join(self._names)}")
        return self._children[node_id]

    def _claim(self) -> None:
        """Take the directory: two clusters in one would overwrite each other's files."""
        lock = (self.directory / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ClusterError(f"another cluster is running in {self.directory}; use another directory") from None
        self._lock = lock
        self.file.unlink(missing_ok=True)

    def _environ(self) -> dict[str, str]:
        # Not among the flags, which every user of the machine can read: a URL may hold a password.
        environ = {name: value for name, value in os.environ.items() if name not in _NOT_SHARED}
        return environ | {"CACHENODE_L2_URL": self.l2_url} | self._regions | self._tls_environ()

    def _tls_environ(self) -> dict[str, str]:
        if self.certs is None:
            return {}
        files = {"CERT_FILE": "node.pem", "KEY_FILE": "node-key.pem", "CA_FILE": "ca.pem"}
        settings = {f"CACHENODE_TLS__{name}": str(self.certs / file) for name, file in files.items()}
        # The console is read-only here, and only this machine reaches it: no certificate is asked for on that port.
        return settings | {"CACHENODE_TLS__VERIFY_CLIENTS": "true", "CACHENODE_HTTP__CONSOLE": "true"}

    async def _start_node(self, name: str) -> LocalNode:
        child, known = self._children[name], self._nodes.get(name)
        chosen = known is None and not self._port
        for attempt in range(_PORT_ATTEMPTS if chosen else 1):
            words = ["--id", name, *self._where(name, known), *self._shared()]
            try:
                node = await child.start(words, timeout_s=_START_S)
                break
            except ClusterError as error:  # a port that was free may have been taken meanwhile
                if "in use" not in str(error) or attempt == _PORT_ATTEMPTS - 1 or not chosen:
                    raise
        self._watching[name] = asyncio.create_task(self._watch(name, child))
        return node

    def _where(self, name: str, known: LocalNode | None) -> list[str]:
        """Return the flags for a node's addresses: a restarted one comes back to where it was."""
        if known is not None:
            return ["--listen", known.address, "--http-listen", known.http]
        if self._port:
            first = self._port + 2 * self._names.index(name)
            listen, http = first, first + 1
        else:
            listen, http = free_ports(2)
        return ["--listen", f"127.0.0.1:{listen}", "--http-listen", f"127.0.0.1:{http}"]

    def _shared(self) -> list[str]:
        memory = ["--memory", self._memory] if self._memory else []
        return ["--discovery", "redis", "--cluster-name", self.name, *memory, *self._arguments]

    async def _watch(self, name: str, child: Child) -> None:
        code = await child.wait()
        if self._on_exit is not None:
            self._on_exit(name, code)

    async def _wait_until_together(self) -> None:
        """Wait until every running node has the same view, of all of them, and hears the others."""
        from cachenode.cli.admin import ask_views
        from cachenode.cli.errors import CliError

        deadline = time.monotonic() + _START_S
        running = {name for name, child in self._children.items() if child.running}
        while time.monotonic() < deadline:
            with contextlib.suppress(CliError):
                asked, answers = await ask_views(self._nodes[min(running)].address, _CALL_S, self.tls, self._token_file)
                replies = [reply for reply in answers.values() if reply is not None]
                linked = all(peer.linked for reply in replies for peer in reply.peers)
                epochs = {reply.header.view_epoch for reply in replies}
                if linked and len(epochs) == 1 and set(asked.view.by_id) == running and len(replies) == len(running):
                    return
            dead = [child for name, child in self._children.items() if name in running and not child.running]
            if dead:
                raise ClusterError(f"{dead[0].id} ended.{dead[0].last_words()}")
            await asyncio.sleep(_POLL_S)
        text = f"the nodes did not find each other within {_START_S:g} s; their logs are in {self.directory}"
        raise ClusterError(text)

    def _write_file(self) -> None:
        """Write cluster.json so that readers see all of it or nothing."""
        draft = self.directory / "cluster.json.new"
        draft.write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
        draft.replace(self.file)


async def _all(starts: Iterable[Coroutine[Any, Any, LocalNode]]) -> list[LocalNode]:
    """Await all of them; after the first failure the others are given up."""
    tasks = [asyncio.create_task(start) for start in starts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
