"""Child processes that never outlive the benchmark.

Each child is in a session of its own, so that Ctrl-C reaches the harness alone, which then stops the children by
process id, the last one first. Should the harness itself be killed, the kernel kills the children (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachenode_api.transport import GRPC_SETTING

__all__ = ["BenchError", "Child", "spawn", "spawn_worker"]

_PR_SET_PDEATHSIG = 1
_STOP_S = 5.0
_ROOT = Path(__file__).parents[2]


class BenchError(Exception):
    """Something that the benchmark needs did not work; the text says what."""


def _die_with_parent(parent: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def before_exec() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died in between, and no signal will come
                os._exit(1)

    return before_exec


@dataclass(slots=True)
class Child:
    """A running child, spoken to in lines of JSON."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid

    async def read(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line that it prints as JSON; other lines are skipped.

        Raises:
            BenchError: It ended, or said nothing in time.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                while line := await self.process.stdout.readline():
                    with contextlib.suppress(ValueError):
                        answer = json.loads(line)
                        if isinstance(answer, dict):
                            return answer
        except TimeoutError:
            raise BenchError(f"{self.name}: no answer within {timeout_s:.0f} s{self._last_words()}") from None
        raise BenchError(f"{self.name}: ended unexpectedly{self._last_words()}")

    async def ask(self, order: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send an order and return the answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            await self.process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise BenchError(f"{self.name}: ended unexpectedly{self._last_words()}") from None
        return await self.read(timeout_s)

    async def drain(self) -> None:
        """Throw away what it prints from now on: a full pipe would stop it."""
        assert self.process.stdout is not None
        while await self.process.stdout.read(1 << 16):
            pass

    async def stop(self) -> None:
        """End it: end of input and SIGTERM, then SIGKILL."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        for send in (self.process.terminate, self.process.kill):
            if self.process.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                send()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), _STOP_S)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def _log_file(logs: Path, name: str) -> Path:
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{name}.log"


def _environ(*, tuned: bool) -> dict[str, str]:
    name, value = GRPC_SETTING
    environ = {key: text for key, text in os.environ.items() if key != name}
    return environ | {name: value} if tuned else environ


@contextlib.asynccontextmanager
async def spawn(name: str, command: Sequence[str], *, logs: Path, tuned: bool = False) -> AsyncIterator[Child]:
    """Start a child and stop it on leaving. What it writes to stderr goes to a file in `logs`.

    Each child has gRPC as it comes, whatever this process imported; `tuned` sets it up as our own processes do.
    """
    log = _log_file(logs, name)
    path = os.pathsep.join((str(_ROOT), str(_ROOT / "client"), os.environ.get("PYTHONPATH", "")))
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=_environ(tuned=tuned) | {"PYTHONPATH": path.rstrip(os.pathsep)},
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()),
        )
    child = Child(name, process, log)
    try:
        yield child
    finally:
        await asyncio.shield(child.stop())


@contextlib.asynccontextmanager
async def spawn_worker(
    name: str, kind: str, settings: Mapping[str, Any], *, logs: Path, uvloop: bool, tuned: bool = False
) -> AsyncIterator[Child]:
    """Start a contender's process. It says one line when it is connected; the caller reads it."""
    spec = {"kind": kind, "uvloop": uvloop, **settings}
    command = [sys.executable, "-m", "tests.bench.worker", json.dumps(spec)]
    async with spawn(name, command, logs=logs, tuned=tuned) as child:
        yield child
