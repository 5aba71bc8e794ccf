"""Thousands of acknowledged writes, two nodes killed and the Valkey restarted meanwhile: none lost, none out of order.

::

    python -m tests.integration.write_behind.run --writes 20000 --postgres
    python -m tests.integration.write_behind.run --writes 20000 --cluster
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from cachenode_client import CacheClient
from tests.integration.load import until
from tests.integration.write_behind.site import NAMESPACE, SAFE, Site, Writer, out_of_order, site
from tests.support.postgres import Postgres, postgres
from tests.support.redis_topologies import ClusterSet, cluster

__all__ = ["Report", "run"]


@dataclass
class Report:
    """What a run brought.

    Attributes:
        acknowledged: Writes that succeeded.
        failed: Writes that did not, by reason.
        slowest_failure_s: How long the slowest of those took.
        lost: Keys whose row is older than an acknowledged write.
        out_of_order: Changes of a row that undid a newer one.
        committed: Writes that the sink committed; fewer than acknowledged, since newer ones took their place.
        repeated: Those of them that changed nothing: the sink had them, or newer ones, already.
        seconds: How long the writing took.
        drain_s: How long it took from the last acknowledgement until nothing waited.
    """

    acknowledged: int
    failed: dict[str, int]
    slowest_failure_s: float
    lost: int
    out_of_order: int
    committed: int
    repeated: int
    seconds: float
    drain_s: float


async def run(
    folder: Path,
    *,
    writes: int,
    keys: int = 200,
    writers: int = 20,
    database: Postgres | None = None,
    redis_cluster: ClusterSet | None = None,
    short: bool = False,
) -> Report:
    """Write, break things, and compare. With a Cluster a write counts once a replica's disk has it.

    Args:
        folder: For all files.
        writes: How many to have acknowledged.
        keys: How many keys.
        writers: How many at a time.
        database: See `site`.
        redis_cluster: See `site`.
        short: One node dies instead of two.
    """
    durability = "fsync" if redis_cluster is None else "replicated"
    async with site(folder, database=database, durability=durability, redis_cluster=redis_cluster) as here:
        per_writer = keys // writers
        async with CacheClient(here.cluster.address, namespace=NAMESPACE, timeout_s=5.0) as client:
            each = [Writer(client, [f"w{number}:{key}" for key in range(per_writer)]) for number in range(writers)]
            began = time.monotonic()
            await asyncio.gather(
                _nemesis(here, each, writes, short=short), *(one.write_many(writes // writers) for one in each)
            )
            seconds = time.monotonic() - began
            drain_s = await here.drained(60.0)
            rows, done = await here.contents()
            errors = [error for one in each for error in one.errors]
            return Report(
                acknowledged=sum(one.count for one in each),
                failed=dict(Counter(reason for reason, _ in errors)),
                slowest_failure_s=round(max((took for _, took in errors), default=0.0), 2),
                lost=sum(len(one.lost(rows)) for one in each),
                out_of_order=out_of_order(done),
                committed=len(done),
                repeated=sum(not changed for *_, changed in done),
                seconds=round(seconds, 1),
                drain_s=round(drain_s, 1),
            )


async def _nemesis(here: Site, writers: list[Writer], writes: int, *, short: bool) -> None:
    """Kill a node, then the queue's server, then another node, each when a part of the writes is done."""

    async def after(part: float) -> None:
        await until(lambda: sum(one.count for one in writers) >= part * writes, 600.0, "that part of the writes")

    if not short:
        await after(0.2)
        await here.cluster.kill("node-0")
        await after(0.4)
        await here.cluster.restart("node-0")
    await after(0.5)
    here.say("down")  # all that is acknowledged from here on waits in the queue
    await after(0.55)
    await here.fail_queue()
    here.say("down", said=False)
    await after(0.7)
    await here.cluster.kill("node-1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--cluster", action="store_true", help="the queue in a Redis Cluster, whose master fails over")
    parser.add_argument("--postgres", action="store_true", help="behind a real PostgreSQL instead of a SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="behind-") as folder, ExitStack() as stack:
        database = stack.enter_context(postgres()) if options.postgres else None
        here, redis_cluster = Path(folder), None
        if options.cluster:
            redis_cluster = stack.enter_context(cluster(here / "servers", settings=SAFE))
        report = asyncio.run(
            run(here, writes=options.writes, keys=options.keys, database=database, redis_cluster=redis_cluster)
        )
    print(json.dumps(asdict(report), indent=2))
    return 0 if not report.lost and not report.out_of_order else 1


if __name__ == "__main__":
    sys.exit(main())
