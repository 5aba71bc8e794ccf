"""How often an absent key is loaded when a thousand callers in ten processes ask three nodes for it at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cachenode.cli.local_cluster import LocalCluster
from tests.bench.processes import BenchError
from tests.support.loading_clients import answers, go, loads, processes

__all__ = ["PROCESSES", "origin_loads"]

PROCESSES = 10
_CALLERS = 100
_LOAD_S = 0.2


async def origin_loads(rounds: int) -> list[float]:
    """Return the number of loads of each round.

    Raises:
        BenchError: A caller got something else than the loaded value.
    """
    counts = []
    with tempfile.TemporaryDirectory(prefix="cachenode-bench-") as folder:
        async with LocalCluster(nodes=3, directory=Path(folder) / "cluster") as cluster:
            addresses = ",".join(node.address for node in cluster.nodes)
            for number in range(rounds):
                log = Path(folder) / f"loads-{number}"
                async with processes(PROCESSES, addresses, f"flight-{number}", _CALLERS, _LOAD_S, log) as callers:
                    for process in callers:
                        go(process)
                    found = [result for process in callers for result in await answers(process)]
                if len(found) != PROCESSES * _CALLERS or not set(found) <= set(loads(log)):
                    raise BenchError("single_flight: not every caller got a loaded value")
                counts.append(float(len(loads(log))))
    return counts
