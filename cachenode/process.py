"""The process of one node: its signals, its logs, its garbage collector, and the line that says it is ready.

The first SIGTERM or SIGINT lets the node leave the cluster in its own time (`Server.stop`); a second one ends it at
once, since whoever sends it has no patience for that. SIGHUP comes after files were renamed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading

from cachenode.adapters.descriptors import raise_descriptor_limit
from cachenode.adapters.event_loop import event_loop_factory
from cachenode.adapters.logs import configure as configure_logs
from cachenode.config import NodeConfig
from cachenode.errors import ConfigError
from cachenode.server import Server

__all__ = ["run"]

_CLOSE_S = 2.0
_GC_THRESHOLD = 10_000
"""New containers between collections of the youngest (Python's own is 700): a busy node has hundreds in flight."""


def run(config: NodeConfig, *, ready_json: bool = False) -> int:
    """Run a node until a signal stops it. SIGTERM or SIGINT drains it; a second one ends it at once.

    Args:
        config: Validated configuration.
        ready_json: Print one JSON line with id, address, http and pid on standard output once the node is in a view.

    Returns:
        The exit code: 0 after a clean stop, 1 if the node could not start.
    """
    raise_descriptor_limit()
    configure_logs(config.log.level, config.log.format, config.node.id, burst=config.log.burst)
    try:
        loop_factory = event_loop_factory(config.node.event_loop)
    except ConfigError as error:
        print(f"cachenode: {error}", file=sys.stderr)  # noqa: T201 - as of a server that cannot start, below
        return 1
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code = runner.run(_run(config, ready_json=ready_json))
        # All is said and done. What the loop's end still waits for (uvloop's for whatever libuv is at, a look-up of a
        # name for instance) must not keep the process.
        end = threading.Timer(_CLOSE_S, os._exit, [code])
        end.daemon = True
        end.start()
    end.cancel()
    return code


async def _run(config: NodeConfig, *, ready_json: bool) -> int:
    server = Server(config)
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            os._exit(130)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await server.start()
    except (OSError, ConfigError) as error:
        print(f"cachenode: {error}", file=sys.stderr)  # noqa: T201 - the process's last word
        return 1
    loop.add_signal_handler(signal.SIGHUP, server.reopen_files)
    announcing = asyncio.create_task(_announce(server)) if ready_json else None
    _spare_the_collector()
    await asked.wait()
    if announcing is not None:
        announcing.cancel()
    await server.stop()
    return 0


def _spare_the_collector() -> None:
    """Keep garbage collections short: what was loaded at the start stays, and entries are bytes, which it never visits.

    As it comes, the collector looks at every module's objects again and again, several milliseconds each time, in
    which no call is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)


async def _announce(server: Server) -> None:
    await server.joined.wait()
    line = {
        "id": server.config.node.id,
        "address": server.address,
        "http": server.http_address,
        "pid": os.getpid(),
    }
    print(json.dumps(line), flush=True)  # noqa: T201 - for whoever started the process
