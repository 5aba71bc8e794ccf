"""A small demonstration with everything real: processes, nodes, L2, and a kill."""

from __future__ import annotations

import io

from rich.console import Console

from cachenode.cli.local_cluster import LocalCluster
from cachenode.demo.display import Display
from cachenode.demo.run import Plan, demonstrate


async def test_a_node_is_killed_and_no_request_fails() -> None:
    """Half-way a node dies; the others take over, no request fails, every value is the origin's; then policies work."""
    # The dead node may be noticed as late as six seconds after the kill, which comes half-way.
    # Few keys take most of so few requests: the hit ratio is high, and half a second of it says something.
    plan = Plan(requests=3_000, processes=2, kill=True, seconds=14.0, callers=8, exponent=1.6)
    with Display(Console(file=io.StringIO()), quiet=True) as display:
        report = await demonstrate(plan, LocalCluster, display)
    assert report.problems == ()
    assert report.tally.requests == 3_000
    assert report.tally.hits > 1_000
    assert report.kill is not None
    assert report.kill.noticed_after_s is not None
    assert [node.killed for node in report.nodes] == [False, False, True]
    assert report.nodes[0].keys_after
    acts = {act.name: act.figures for act in report.acts}
    assert 0 < acts["refresh"]["loads"] < 20
    assert acts["refresh"]["reads"] > 1_000
    assert (acts["cascade"]["before"], acts["cascade"]["left"]) == (34, 2)
    assert acts["negative_flood"]["loads"] == 200
