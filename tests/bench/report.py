"""What is told: a table, two JSON files and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.runner import Result
from tests.bench.stats import Summary, summarise

__all__ = ["one_line", "print_hit_ratios", "print_table", "write_json", "write_plot"]


def _number(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.1f}"


def _with_spread(summary: Summary) -> str:
    return f"{_number(summary.median)}\n[dim]{_number(summary.low)} to {_number(summary.high)}[/dim]"


def _verdict(result: Result) -> str:
    if result.error:
        return "[red]failed[/red]"
    return {True: "[green]met[/green]", False: "[red]missed[/red]", None: "-"}[result.outcome.met]


def one_line(result: Result) -> str:
    """Return a result for the running commentary."""
    if result.error:
        return f"{result.name}: failed: {escape(result.error)}"
    return f"{result.name}: {result.outcome.ratio:.2f} x {result.peer_name} {_verdict(result)}"


def print_table(console: Console, results: Sequence[Result], machine: Mapping[str, str]) -> None:
    """Print every result with its spread, the ratio to reach and the verdict."""
    table = Table(
        box=box.SIMPLE_HEAD, title="Ratios above 1 mean that cachenode is ahead (medians; lowest to highest round)"
    )
    table.add_column("row", no_wrap=True)
    for column in ("cachenode", "peer", "ratio", "to reach"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for result in results:
        cells = ["-", "-", "-"]
        if not result.error:
            outcome = result.outcome
            ratio = f"[bold]{outcome.ratio:.2f}[/bold]\n[dim]{outcome.low:.2f} to {outcome.high:.2f}[/dim]"
            cells = [_with_spread(summarise(result.ours)), _with_spread(summarise(result.peer)), ratio]
        target = "-" if result.target is None else f"{result.target:g}"
        name = f"{result.name}\n[dim]{result.unit}, against {result.peer_name}[/dim]"
        table.add_row(name, *cells, target, _verdict(result))
    console.print(table)
    console.print(" · ".join(f"{label} {value}" for label, value in machine.items()), style="dim")
    for result in results:
        if result.note:
            console.print(f"{result.name}: {escape(result.note)}")


def print_hit_ratios(console: Console, measured: Sequence[Mapping[str, Any]]) -> None:
    """Print the hit ratios of eviction policies."""
    table = Table(box=box.SIMPLE_HEAD, title="Hit ratio of eviction policies")
    table.add_column("trace")
    table.add_column("policy")
    table.add_column("hit ratio", justify="right")
    table.add_column("ns per operation", justify="right")
    for line in measured:
        cost = line.get("ns_per_op")  # the oracle has none
        shown = "-" if cost is None else f"{cost:,.0f}"
        table.add_row(str(line["trace"]), str(line["policy"]), f"{line['hit_ratio']:.4f}", shown)
    console.print(table)


def write_json(folder: Path, results: Sequence[Result], machine: Mapping[str, str], *, quick: bool) -> None:
    """Write results.json (a line per comparison) and details.json (rounds, targets, machine, failures)."""
    rows = []
    details = []
    for result in results:
        detail: dict[str, Any] = {
            "name": result.name,
            "target": result.target,
            "error": result.error,
            "note": result.note,
        }
        if not result.error:
            outcome = result.outcome
            row = {
                "name": result.name,
                "ours": summarise(result.ours).median,
                "peer": summarise(result.peer).median,
                "peer_name": result.peer_name,
                "unit": result.unit,
                "ratio": outcome.ratio,
                "better": result.better,
            }
            rows.append(row)
            detail |= row | {"met": outcome.met, "ours_rounds": result.ours, "peer_rounds": result.peer}
        details.append(detail)
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    whole = {"machine": dict(machine), "quick": quick, "rows": details}
    (folder / "details.json").write_text(json.dumps(whole, indent=1) + "\n")


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Draw the ratios with their spread and the ratios to reach."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [result for result in results if not result.error][::-1]
    colours = {True: "#2b8a3e", False: "#c92a2a", None: "#868e96"}
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.42 * max(len(shown), 1)), layout="constrained")
    for at, result in enumerate(shown):
        outcome = result.outcome
        axes.barh(at, outcome.ratio, color=colours[outcome.met], height=0.6)
        axes.plot([outcome.low, outcome.high], [at, at], color="black", linewidth=1)
        if result.target is not None:
            axes.plot([result.target] * 2, [at - 0.4, at + 0.4], color="black", linewidth=2)
        axes.annotate(
            f"{outcome.ratio:.2f}",
            (max(outcome.ratio, outcome.high), at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(1, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{result.name} / {result.peer_name}" for result in shown])
    axes.set_xlabel("ratio: above 1 cachenode is ahead; thick mark: to reach; thin line: spread of the rounds")
    axes.set_title("cachenode beside what you would use instead")
    figure.savefig(path, dpi=120)
    plt.close(figure)
