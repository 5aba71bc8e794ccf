"""From tallies to a verdict, and how it is shown."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cachenode.demo.display import Display, Moment, print_report
from cachenode.demo.probe import NodeKeys
from cachenode.demo.report import KillReport, Report, Tally, kill_report, node_reports
from cachenode.demo.run import Plan
from cachenode.demo.timeline import SLICE_S, Timeline


def line(near: int = 0, l1: int = 0, l2: int = 0, origin: int = 0, **more: Any) -> dict[str, Any]:
    """Return one report of a client process, a millisecond for each L1 hit, two for L2, ten for the origin."""
    base = {"near": [1] * near, "l1": [1000] * l1, "l2": [2000] * l2, "origin": [10_000] * origin}
    return base | {"failed": 0, "wrong": 0, "errors": 0, "not_stored": 0, "problem": ""} | more


def report_of(*lines: dict[str, Any], kill: KillReport | None = None) -> Report:
    tally = Tally()
    for index, each in enumerate(lines):
        tally.add(each, index * SLICE_S)
    ids = ["node-0", "node-1"]
    before = {name: NodeKeys(keys=1_500, used_bytes=1, evictions=0) for name in ids}
    return Report(
        records=28_298,
        processes=2,
        callers=32,
        seconds=10.0,
        tally=tally,
        asked=tally.requests,
        nodes=node_reports(before, {"node-0": before["node-0"]}, ids=ids, killed="node-1" if kill else ""),
        kill=kill,
        origin_delay_ms=5.0,
        memory="1MiB",
    )


def killed_timeline(*percents: int) -> Timeline:
    timeline = Timeline()
    for index, percent in enumerate(percents):
        timeline.add(index * SLICE_S, memory=percent, l2=0, requests=100)
    return timeline


def shown(report: Report) -> str:
    text = io.StringIO()
    print_report(report, Console(file=text, width=100, color_system=None))
    return text.getvalue()


def test_layers_add_up() -> None:
    """Shares are of all requests, latencies of the layer's own."""
    report = report_of(line(near=20, l1=40, l2=20), line(origin=20))
    assert [(layer.requests, layer.share, layer.p50_ms) for layer in report.layers] == [
        (20, 0.2, 0.001),
        (40, 0.4, 1.0),
        (20, 0.2, 2.0),
        (20, 0.2, 10.0),
    ]
    assert report.hit_ratio == pytest.approx(0.8)
    assert report.rate == pytest.approx(10)
    assert not report.problems


def test_a_layer_without_requests_has_no_latency() -> None:
    """Nothing measured is null in JSON, not a number that looks measured."""
    layers = json.loads(json.dumps(report_of(line(l1=1)).to_dict(), allow_nan=False))["layers"]
    assert layers[0]["p50_ms"] is None


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (line(l1=5, failed=2, problem="CacheTimeout"), "2 requests failed, the first with CacheTimeout"),
        (line(l1=5, wrong=1), "1 values differ"),
        (line(origin=5), "answered no request"),
    ],
)
def test_what_fails_the_demo(bad: dict[str, Any], text: str) -> None:
    """Failed requests, wrong values and a cache that never answers are problems, and people are told."""
    report = report_of(bad)
    assert text in report.problems[0]
    assert text in shown(report)
    assert not report.to_dict()["ok"]


def test_requests_that_were_never_made_fail_the_demo() -> None:
    """A client that stopped early does not pass for one that had no failures."""
    report = dataclasses.replace(report_of(line(l1=5)), asked=6)
    assert report.problems == ("Only 5 of 6 requests were made.",)


def test_cache_errors_are_told_but_fail_nothing() -> None:
    """Reads that fell back to the origin and values not stored are counted apart from failed requests."""
    report = report_of(line(l1=5, origin=5, errors=5, not_stored=2))
    assert not report.problems
    assert report.to_dict()["cache_errors"] == {"reads": 3, "writes": 2}
    assert "served by the origin instead: 3." in shown(report)
    assert "confirmed to have stored: 2." in shown(report)


def test_a_dip_that_ends_is_recovery() -> None:
    """The levels are those of the seconds before the kill and of the last seconds; the dip lies between."""
    timeline = killed_timeline(*[80] * 8, *[10] * 4, *[78] * 10)
    kill = kill_report(timeline, node_id="node-1", at_s=4.0, noticed_after_s=2.0)
    assert kill.level_before == pytest.approx(0.8)
    assert kill.lowest == pytest.approx(0.1)
    assert kill.level_after == pytest.approx(0.78)
    assert kill.recovered_after_s == pytest.approx(2.0)
    assert kill.recovered


@pytest.mark.parametrize(("after", "recovered"), [(65, True), (63, False), (0, False)])
def test_recovery_means_four_fifths(after: int, recovered: bool) -> None:
    """The hit ratio has to come back to 80 % of what it was."""
    timeline = killed_timeline(*[80] * 8, *[after] * 12)
    kill = kill_report(timeline, node_id="node-1", at_s=4.0, noticed_after_s=None)
    assert kill.recovered is recovered
    assert bool(report_of(line(l1=1), kill=kill).problems) is not recovered


def test_the_report_names_the_killed_node() -> None:
    """People see which node was killed, when, and that it is gone at the end."""
    kill = kill_report(killed_timeline(*[80] * 20), node_id="node-1", at_s=4.0, noticed_after_s=3.5)
    text = shown(report_of(*[line(l1=80, origin=20)] * 20, kill=kill))
    assert "node-1 was killed (SIGKILL) after 4.0 s." in text
    assert "The others took it out of their view after 3.5 s." in text
    assert "▲ node-1 killed" in text
    assert "Failed requests: 0. Wrong values: 0." in text


@pytest.mark.parametrize(("requests", "processes"), [(10, 3), (2, 4), (9, 3)])
def test_processes_share_the_requests(requests: int, processes: int) -> None:
    """The shares of the processes add up, and each process draws its own sequence."""
    plan = Plan(requests=requests, processes=processes, kill=False)
    tasks = [plan.task(number, address="a:1", origin=Path("airports.sqlite")) for number in range(processes)]
    assert sum(task.requests for task in tasks) == requests
    assert len({task.draw_seed for task in tasks}) == processes
    assert len({task.rank_seed for task in tasks}) == 1


def moment(seconds: float, note: str = "") -> Moment:
    return Moment(
        seconds=seconds,
        requests=1_000,
        asked=2_000,
        rate=500.0,
        hit_ratio=0.875,
        members=("node-0",),
        gone="node-1" if note else "",
        timeline=killed_timeline(80, 85, 90),
        killed_at_s=1.0 if note else None,
        note=note,
    )


def test_progress_off_a_terminal_is_a_line_now_and_then() -> None:
    """Logs get a line every two seconds, and one at once when something happened."""
    text = io.StringIO()
    console = Console(file=text, width=200, color_system=None)
    with Display(console, quiet=False) as display:
        for seconds in (0.2, 0.4, 1.9):
            display.show(moment(seconds))
        display.show(moment(2.0, "node-1 was killed at 1.9 s"))
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert "1,000 requests" in lines[0]
    assert "87.5%" in lines[0]
    assert "node-1 was killed" in lines[1]


def test_progress_on_a_terminal_shows_the_loss() -> None:
    """On a terminal the members, the lost node and the curve are shown."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=100, force_terminal=True, color_system=None)
    with Display(console, quiet=False) as display:
        display.show(moment(2.0, "node-1 was killed at 1.0 s"))
    text = buffer.getvalue()
    assert "✗ node-1" in text
    assert "1,000 of 2,000" in text
    assert "near + L1" in text


def test_quiet_shows_nothing() -> None:
    """With a JSON document wanted and no terminal, there is no progress."""
    text = io.StringIO()
    with Display(Console(file=text), quiet=True) as display:
        display.say("hello")
        display.show(moment(2.0))
    assert text.getvalue() == ""
