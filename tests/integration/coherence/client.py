"""A client process: writes its own keys, reads all, and records what it did. Ends when its standard input does.

``python -m tests.integration.coherence.client`` with a JSON object on the first line of standard input: see `Task`.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cachenode_client import CacheClient, CacheError, blocking
from tests.integration.coherence.history import ACKNOWLEDGED, MISS, READ, RECORD, UNKNOWN, is_origin

KEYS = 60
GROUP = 6
_READS_AT_ONCE = 50
_FLUSH_EVERY = 200


@dataclass
class Task:
    """What a client process is to do.

    Attributes:
        address: Where the cluster is.
        seed: Of its choices.
        mine: Keys that it writes.
        origin: The file that is the origin: a whole number of 8 bytes per key.
        record: The file that gets its history.
        threads: So many readers of the blocking client; 0 for the asyncio client.
        near: Whether it has a near cache.
    """

    address: str
    seed: int
    mine: list[int]
    origin: str
    record: str
    threads: int
    near: bool


def name(key: int) -> str:
    """Return a key's name; keys of one group share a prefix, and a tag."""
    return f"g{key // GROUP}:{key}"


class Recorder:
    """The history of one process."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []

    def note(self, kind: int, key: int, value: int, began: int, ended: int) -> None:
        """Record one operation."""
        with self._lock:
            self._waiting.append(RECORD.pack(kind, key, value, began, ended))
            if len(self._waiting) >= _FLUSH_EVERY:
                self._flush()

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            self._flush()
            self._file.close()

    def _flush(self) -> None:
        self._file.write(b"".join(self._waiting))
        self._file.flush()
        self._waiting.clear()


class Origin:
    """The truth of the origin keys, shared by all processes."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._values = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def read(self, key: int) -> int:
        return self._values[key]

    def commit(self, key: int, value: int) -> None:
        self._values[key] = value


def selectors(key: int, rng: random.Random) -> dict[str, Any]:
    """Return one of the ways in which a key can be declared untrue."""
    return rng.choice(
        [
            {"keys": name(key)},
            {"keys": [name(key)]},
            {"prefix": f"g{key // GROUP}:"},
            {"pattern": f"g*:{key}"},
            {"tags": [f"group-{key // GROUP}"]},
            {"tags": [f"key-{key}"]},
            {"namespace": "default"} if rng.random() < 0.1 else {"keys": name(key)},
        ]
    )


class AsyncWorker:
    """The asyncio client at work."""

    def __init__(self, task: Task, recorder: Recorder, origin: Origin) -> None:
        self.task = task
        self.recorder = recorder
        self.origin = origin
        self.rng = random.Random(task.seed)
        self.client = CacheClient(task.address, near_cache=8 << 20 if task.near else None, timeout_s=3)

    async def run(self, stopping: asyncio.Event) -> None:
        """Read and write until told to stop."""
        async with self.client:
            jobs = [asyncio.create_task(self._read_forever()) for _ in range(3)]
            jobs += [asyncio.create_task(self._write_forever(key)) for key in self.task.mine]
            await stopping.wait()
            for job in jobs:
                job.cancel()
            for outcome in await asyncio.gather(*jobs, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome

    async def _read_forever(self) -> None:
        while True:
            for _ in range(_READS_AT_ONCE):
                await self._read(self.rng.randrange(KEYS))
            await asyncio.sleep(0.01)

    async def _read(self, key: int) -> None:
        began = time.monotonic_ns()
        try:
            if is_origin(key):
                tags = [f"group-{key // GROUP}", f"key-{key}"]
                value = await self.client.get_or_load(name(key), self._loader(key), tags=tags, timeout_s=8)
            else:
                value = await self.client.get(name(key), MISS)
        except CacheError:
            return
        self.recorder.note(READ, key, value, began, time.monotonic_ns())

    def _loader(self, key: int) -> Any:
        async def load() -> int:
            value = self.origin.read(key)
            await asyncio.sleep(self.rng.choice([0, 0.001, 0.02]))
            return value

        return load

    async def _write_forever(self, key: int) -> None:
        value = 0
        while True:
            value += 1
            began = time.monotonic_ns()
            if is_origin(key):
                self.origin.commit(key, value)
            try:
                how = selectors(key, self.rng)
                if is_origin(key):
                    await self.client.invalidate(**how)
                else:
                    await self.client.set(name(key), value, tags=[f"group-{key // GROUP}"])
            except CacheError:
                if not is_origin(key):
                    self.recorder.note(UNKNOWN, key, value, began, 0)
            else:
                self.recorder.note(ACKNOWLEDGED, key, value, began, time.monotonic_ns())
                if is_origin(key):
                    print(key, value, how, file=sys.stderr)
            await asyncio.sleep(self.rng.uniform(0.05, 0.4))


class BlockingReader:
    """The blocking client at work: it only reads, in several threads."""

    def __init__(self, task: Task, recorder: Recorder, origin: Origin) -> None:
        self.task = task
        self.recorder = recorder
        self.origin = origin
        self.client = blocking.CacheClient(task.address, near_cache=8 << 20 if task.near else None, timeout_s=3)

    def run(self, stopping: threading.Event) -> None:
        """Read until told to stop."""
        with self.client:
            threads = [
                threading.Thread(target=self._read_forever, args=(random.Random(self.task.seed + number), stopping))
                for number in range(self.task.threads)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _read_forever(self, rng: random.Random, stopping: threading.Event) -> None:
        while not stopping.is_set():
            for _ in range(_READS_AT_ONCE):
                self._read(rng.randrange(KEYS))
            stopping.wait(0.02)

    def _read(self, key: int) -> None:
        began = time.monotonic_ns()
        try:
            if is_origin(key):
                tags = [f"group-{key // GROUP}", f"key-{key}"]
                value = self.client.get_or_load(name(key), lambda: self.origin.read(key), tags=tags, timeout_s=8)
            else:
                value = self.client.get(name(key), MISS)
        except CacheError:
            return
        self.recorder.note(READ, key, value, began, time.monotonic_ns())


def main() -> None:
    """Do the task on standard input."""
    task = Task(**json.loads(sys.stdin.readline()))
    recorder, origin = Recorder(Path(task.record)), Origin(task.origin)
    try:
        if task.threads:
            ended = threading.Event()

            def wait_for_the_end() -> None:
                sys.stdin.read()
                ended.set()

            threading.Thread(target=wait_for_the_end, daemon=True).start()
            BlockingReader(task, recorder, origin).run(ended)
        else:
            asyncio.run(_work(AsyncWorker(task, recorder, origin)))
    finally:
        recorder.close()


async def _work(worker: AsyncWorker) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await worker.run(ended)


if __name__ == "__main__":
    main()
