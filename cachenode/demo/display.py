"""What people see: the progress while it runs, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cachenode.demo.report import KillReport, LayerReport, Report
from cachenode.demo.timeline import FLOOR, Timeline, sparkline

__all__ = ["Display", "Moment", "print_report"]

_COLUMNS = 60
_LABEL = 12
_PLAIN_EVERY_S = 2.0
_NAMES = {
    "near": "near  memory of the clients",
    "l1": "L1  memory of the nodes",
    "l2": "L2  Valkey, shared",
    "origin": "origin  SQLite",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """The state of the run at one moment."""

    seconds: float
    requests: int
    asked: int
    rate: float
    hit_ratio: float | None
    members: tuple[str, ...]
    gone: str
    timeline: Timeline
    killed_at_s: float | None
    note: str


class Display:
    """Progress: a panel that redraws itself on a terminal, a line now and then elsewhere, nothing if `quiet`."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._printed_s = -_PLAIN_EVERY_S
        self._note = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a sentence above the progress."""
        if not self._quiet:
            self._console.print(text, highlight=False)

    def show(self, moment: Moment) -> None:
        """Show the state of the run."""
        if self._live is not None:
            self._live.update(_panel(moment, self._console), refresh=True)
        elif not self._quiet and (moment.seconds - self._printed_s >= _PLAIN_EVERY_S or moment.note != self._note):
            self._printed_s, self._note = moment.seconds, moment.note
            self._console.print(_line(moment), highlight=False, soft_wrap=True)


def _line(moment: Moment) -> str:
    text = (
        f"{moment.seconds:5.1f} s  {moment.requests:>9,} requests  {moment.rate:>7,.0f}/s  "
        f"hit ratio {_percent(moment.hit_ratio):>6}  members {len(moment.members)}"
    )
    return f"{text}  {moment.note}" if moment.note else text


def _panel(moment: Moment, console: Console) -> RenderableType:
    members = Text("  ".join(f"● {name}" for name in moment.members), style="green")
    if moment.gone:
        members.append(f"  ✗ {moment.gone}", style="bold red")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", width=_LABEL - 2)
    facts.add_row("requests", f"{moment.requests:,} of {moment.asked:,}, [bold]{moment.rate:,.0f}[/] a second")
    facts.add_row("hits", f"[bold]{_percent(moment.hit_ratio)}[/] in the last second")
    facts.add_row("members", members)
    rows: list[RenderableType] = [
        ProgressBar(total=max(1, moment.asked), completed=moment.requests, width=_COLUMNS + _LABEL),
        Text(""),
        facts,
        Text(""),
        *_curves(moment.timeline, moment.killed_at_s, moment.gone, console),
    ]
    if moment.note:
        rows.append(Text(moment.note, style="yellow"))
    return Panel(Group(*rows), title="cachenode demo", width=_COLUMNS + _LABEL + 6, padding=(1, 2))


def _curves(timeline: Timeline, killed_at_s: float | None, node_id: str, console: Console) -> list[Text]:
    """Return the spark lines of the hit ratio, with L2 and without, and the mark of the kill under them."""
    unicode = "utf" in console.encoding.lower()
    lines = [
        Text.assemble(
            (f"{label:<{_LABEL}}", "dim"),
            (sparkline(timeline.ratios(_COLUMNS, memory_only=memory_only), unicode=unicode), style),
            no_wrap=True,
        )
        for label, memory_only, style in (("all layers", False, "green"), ("near + L1", True, "cyan"))
    ]
    if killed_at_s is not None:
        text = f"{'▲' if unicode else '^'} {node_id} killed"
        column = int(killed_at_s / timeline.column_s(_COLUMNS))
        if column + len(text) > _COLUMNS:
            text, column = f"{node_id} killed {text[0]}", column - len(text) + 1
        lines.append(Text(" " * (_LABEL + max(0, column)) + text, style="red", no_wrap=True))
    return lines


def print_report(report: Report, console: Console) -> None:
    """Print the report for people."""
    tally = report.tally
    console.print()
    console.print(
        f"[bold]{tally.requests:,}[/] requests in {report.seconds:.1f} s ({report.rate:,.0f} a second), from "
        f"{report.processes} processes\nwith {report.callers} callers each, over {report.records:,} airports.",
        highlight=False,
    )
    console.print(
        f"The cache answered [bold green]{report.hit_ratio:.1%}[/] of them: the origin was spared "
        f"[bold]{tally.hits:,}[/] loads\nand had {len(tally.waited_us['origin']):,} to do.",
        highlight=False,
    )
    console.print()
    console.print(_layer_table(report.layers))
    console.print(
        f"[dim]A node has only {report.memory} of memory, so that L2 has something to do. The origin is\n"
        f"a local file; {report.origin_delay_ms:g} ms are added for the way to a real database. Everything\n"
        "shares this machine's cores: these are not the latencies of a real cluster.[/]",
        highlight=False,
    )
    console.print()
    console.print(_node_table(report))
    console.print()
    console.print(f"[bold]Hit ratio over time[/], from {FLOOR:.0%} to 100%", highlight=False)
    kill = report.kill
    node_id, at_s = (kill.node_id, kill.at_s) if kill is not None else ("", None)
    for line in _curves(tally.timeline, at_s, node_id, console):
        console.print(line)
    if kill is not None:
        console.print()
        console.print(_kill_text(kill), highlight=False)
    _print_acts(report, console)
    console.print()
    _print_verdict(report, console)


def _print_acts(report: Report, console: Console) -> None:
    for act in report.acts:
        console.print()
        console.print(f"[bold]{act.title}[/]", highlight=False)
        for line in act.lines:
            console.print(line, highlight=False, soft_wrap=True)


def _layer_table(layers: Sequence[LayerReport]) -> Table:
    table = Table(title="Where the values came from", title_justify="left", title_style="bold")
    table.add_column("layer")
    for column in ("requests", "share", "p50", "p99"):
        table.add_column(column, justify="right")
    for layer in layers:
        table.add_row(
            _NAMES[layer.name], f"{layer.requests:,}", f"{layer.share:.1%}", _ms(layer.p50_ms), _ms(layer.p99_ms)
        )
    return table


def _node_table(report: Report) -> Table:
    table = Table(title="Keys in memory", title_justify="left", title_style="bold")
    table.add_column("node")
    if report.kill is not None:
        table.add_column("before the kill", justify="right")
    table.add_column("at the end", justify="right")
    for node in report.nodes:
        after = "[red]killed[/]" if node.killed else _count(node.keys_after)
        table.add_row(*([node.id, _count(node.keys_before), after] if report.kill is not None else [node.id, after]))
    return table


def _kill_text(kill: KillReport) -> str:
    noticed = (
        f"The others took it out of their view after {kill.noticed_after_s:.1f} s."
        if kill.noticed_after_s is not None
        else "The others had not taken it out of their view when the run ended."
    )
    return (
        f"[bold]{kill.node_id}[/] was killed (SIGKILL) after {kill.at_s:.1f} s.\n{noticed}\n"
        f"Hit ratio: {_percent(kill.level_before)} before, {_percent(kill.lowest)} at the lowest, "
        f"{_percent(kill.level_after)} at the end.\n{_recovery(kill)}"
    )


def _recovery(kill: KillReport) -> str:
    if not kill.recovered or kill.recovered_after_s is None:
        return "[red]It did not recover.[/]"
    if not kill.recovered_after_s:
        return "It never fell below 80% of what it was: L2 has what a lost node had in memory."
    return f"It was back after {kill.recovered_after_s:.1f} s."


def _print_verdict(report: Report, console: Console) -> None:
    tally = report.tally
    reads = tally.errors - tally.not_stored
    if tally.errors:
        console.print(
            f"Reads that no node answered, served by the origin instead: {reads:,}.\n"
            f"Values that no node confirmed to have stored: {tally.not_stored:,}.",
            highlight=False,
        )
    colour = "red" if tally.failed or tally.wrong else "green"
    console.print(f"[{colour}]Failed requests: {tally.failed:,}. Wrong values: {tally.wrong:,}.[/]", highlight=False)
    for problem in report.problems:
        console.print(f"[bold red]{problem}[/]", highlight=False)


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.2f} ms"
