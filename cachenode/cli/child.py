"""One node as a child process: started, waited for, signalled, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cachenode.errors import CacheNodeError

__all__ = ["Child", "ClusterError", "LocalNode", "ended"]

_TAIL_LINES = 15
_TAIL_BYTES = 16_384


class ClusterError(CacheNodeError):
    """A local cluster could not do what was asked. The text says why, with the end of the node's log."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A running node.

    Attributes:
        id: Its name.
        address: host:port for clients.
        http: host:port of metrics and probes.
        pid: Its process.
    """

    id: str
    address: str
    http: str
    pid: int

    def to_dict(self) -> dict[str, str | int]:
        """Return the fields for JSON."""
        return asdict(self)


class Child:
    """The process of one node. It dies with this process (see `cachenode.cli.parent`).

    Args:
        node_id: Name of the node.
        log: File for its standard error; what it holds is kept.
        environ: Its environment.
    """

    def __init__(self, node_id: str, log: Path, environ: Mapping[str, str]) -> None:
        self.id = node_id
        self.log = log
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, arguments: Sequence[str], *, timeout_s: float) -> LocalNode:
        """Start the process and return once the node is in a view.

        Raises:
            ClusterError: It ended or did not get ready in time. If it still runs, `stop` ends it.
        """
        command = [sys.executable, "-m", "cachenode", "serve", "--ready-json", "--parent", str(os.getpid())]
        with self.log.open("ab") as errors:
            self._process = process = await asyncio.create_subprocess_exec(
                *command,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=dict(self._environ),
                start_new_session=True,  # Ctrl-C in the terminal is for the launcher alone, which then stops the nodes
            )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise ClusterError(f"{self.id} was not ready within {timeout_s:g} s.{self.last_words()}") from None
        if not line:
            code = await process.wait()
            raise ClusterError(f"{self.id} did not start: {ended(code)}.{self.last_words()}")
        self._draining = asyncio.create_task(_drain(process.stdout))
        ready = json.loads(line)
        return LocalNode(id=ready["id"], address=ready["address"], http=ready["http"], pid=ready["pid"])

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                # Not its send_signal, which looks whether the process has ended and takes the exit code from asyncio.
                os.kill(self._process.pid, number)

    async def wait(self) -> int:
        """Return the exit code when the process has ended; negative for a signal."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """End the process: by SIGTERM, which lets it leave its cluster; after the grace by SIGKILL."""
        if self.running:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)  # a frozen process handles no SIGTERM
            try:
                await asyncio.wait_for(self.wait(), grace_s)
            except TimeoutError:
                self.send(signal.SIGKILL)
        await self.wait()
        if self._draining is not None:
            await self._draining
            self._draining = None

    def last_words(self) -> str:
        """Return the end of the log, indented, under the log's name."""
        with contextlib.suppress(OSError):
            data = self.log.read_bytes()[-_TAIL_BYTES:]
            lines = data.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:]
            if lines:
                return f" The end of {self.log}:\n" + "\n".join(f"    {line}" for line in lines)
        return f" Nothing is in {self.log}."


async def _drain(pipe: asyncio.StreamReader) -> None:
    """Throw away what comes after the first line: a full pipe would stop the node."""
    while await pipe.read(4_096):
        pass


def ended(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"it ended with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
