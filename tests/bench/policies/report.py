"""What is told of the policies' benchmark: a table, a JSON file and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.policies.runs import HotKey, Mixed

__all__ = ["Round", "Row", "missed", "print_table", "rows", "write_json", "write_plot"]


class Round(NamedTuple):
    """One side's results."""

    mixed: Mixed
    hot: HotKey


class Row(NamedTuple):
    """A figure of both sides, as medians over the rounds; `met` is None where nothing is to be reached."""

    name: str
    text: str
    ours: float
    peer: float
    to_reach: str
    met: bool | None


class _Figure(NamedTuple):
    name: str
    text: str
    of: Callable[[Round], float]
    to_reach: str = ""
    holds: Callable[[float], bool] | None = None


_FIGURES = (
    _Figure("hit_ratio", "requests that did not wait for the origin, %", lambda one: 100 * one.mixed.seen.hit_ratio,
            "≥ 95", lambda value: value >= 95),
    _Figure("origin_calls", "reads of the origin per 100 requests", lambda one: 100 * one.mixed.loads_per_request,
            "≤ 5", lambda value: value <= 5),
    _Figure("p50_ms", "median latency, ms", lambda one: 1e3 * one.mixed.seen.percentile(0.5),
            "< 5", lambda value: value < 5),
    _Figure("p99_ms", "99th percentile, ms", lambda one: 1e3 * one.mixed.seen.percentile(0.99),
            "< 20", lambda value: value < 20),
    _Figure("stale_reads", "answers older than a finished update", lambda one: float(one.mixed.seen.stale),
            "0", lambda value: value == 0),
    _Figure("failed", "requests that failed", lambda one: float(one.mixed.seen.failed + one.hot.seen.failed),
            "0", lambda value: value == 0),
    _Figure("hot_loads", "loads of a hot key at each end of its life", lambda one: one.hot.loads_per_end,
            "≤ 1.05", lambda value: 0 < value <= 1.05),
    _Figure("hot_slowest_ms", "slowest read of it, ms", lambda one: 1e3 * max(one.hot.seen.latencies_s),
            "< 50", lambda value: value < 50),
)  # fmt: skip


def rows(ours: Sequence[Round], peer: Sequence[Round]) -> list[Row]:
    """Return all figures."""
    found = []
    for figure in _FIGURES:
        mine, other = (statistics.median(map(figure.of, side)) for side in (ours, peer))
        met = figure.holds(mine) if figure.holds else None
        found.append(Row(figure.name, figure.text, mine, other, figure.to_reach, met))
    return found


def missed(found: Sequence[Row]) -> list[str]:
    """Return the figures that are not reached."""
    return [row.name for row in found if row.met is False]


def print_table(console: Console, found: Sequence[Row], machine: Mapping[str, str], workload: str) -> None:
    """Print every figure of both sides, and what is to be reached."""
    table = Table(box=box.SIMPLE_HEAD, title=workload, title_justify="left")
    for column, side in (("figure", "left"), ("what", "left"), ("cachenode", "right"), ("redis-py", "right")):
        table.add_column(column, justify=side, no_wrap=column == "figure")  # type: ignore[arg-type]
    table.add_column("to reach", justify="right")
    table.add_column("verdict")
    for row in found:
        verdict = {True: "[green]met[/green]", False: "[red]missed[/red]", None: "-"}[row.met]
        table.add_row(row.name, row.text, f"{row.ours:,.2f}", f"{row.peer:,.2f}", row.to_reach, verdict)
    console.print(table)
    console.print(" · ".join(f"{label} {value}" for label, value in machine.items()), style="dim")


def write_json(path: Path, found: Sequence[Row], machine: Mapping[str, str], workload: str) -> None:
    """Write the figures."""
    document = {"workload": workload, "machine": dict(machine), "rows": [row._asdict() for row in found]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def write_plot(path: Path, ours: Round, peer: Round) -> None:
    """Draw how long requests take, and how many loads a hot key costs as its life ends."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sides = (("cachenode", ours, "#1864ab"), ("redis-py cache-aside", peer, "#c92a2a"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, one, colour in sides:
        ordered = sorted(1e3 * each for each in one.mixed.seen.latencies_s)
        share = [1 - at / len(ordered) for at in range(len(ordered))]
        left.step(ordered, share, label=name, color=colour)
        loads = sorted(one.hot.loads_s)
        right.step([0.0, *loads], range(len(loads) + 1), where="post", label=name, color=colour)
    left.set(xscale="log", yscale="log", ylim=(1e-4, 1), xlabel="ms", ylabel="part of requests that take longer")
    left.set_title("Zipf(1.0) reads and updates on a 100 ms origin")
    left.axvline(20, color="black", linestyle=":", linewidth=1)
    right.set(yscale="symlog", xlabel="seconds", ylabel="loads so far")
    right.set_title("one hot key whose life ends again and again")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
