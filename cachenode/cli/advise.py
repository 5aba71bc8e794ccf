"""``advise``: whether caching pays, which TTL and which pattern, from what the nodes have counted."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.keys import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from cachenode.cli.options import Address, Format, Output, Timeout, parse_duration
from cachenode.cli.output import console, new_table, print_json, seconds

if TYPE_CHECKING:
    from cachenode_client.advise import Advice, Measured, Thresholds

__all__ = ["advise"]

_CACHES = {True: "yes", False: "no", None: "not known"}


@reports
def advise(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="Only this one.", show_default=False)
    ] = "",
    staleness: Annotated[
        str, typer.Option("--staleness", metavar="DURATION", help="How old a value may be, such as 30s.")
    ] = "",
    consistent: Annotated[
        bool, typer.Option("--consistent", help="Readers must never see a value that has been replaced.")
    ] = False,
    load_cost: Annotated[
        str, typer.Option("--load-cost", metavar="DURATION", help="What a load takes, where nodes see none.")
    ] = "",
    threshold: Annotated[
        list[str] | None,
        typer.Option("--threshold", metavar="NAME=NUMBER", help="Another limit of a rule; `cachenode docs advise`."),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = Format.TABLE,
) -> None:
    """Say whether caching pays for each namespace, which TTL, and which pattern, with the numbers behind it.

    The nodes tell what they have counted over the last five minutes. Where that is too little, what is missing is said
    instead.
    """
    from cachenode.cli.admin import ask_advice
    from cachenode.findings import measured
    from cachenode_client.advise import Wishes
    from cachenode_client.advise import advise as advised

    wishes = Wishes(
        staleness_s=_duration("--staleness", staleness),
        consistent=consistent,
        load_s=_duration("--load-cost", load_cost),
    )
    limits = _thresholds(threshold or [])
    asked, answers = asyncio.run(ask_advice(address, namespace, timeout))
    silent = [node for node, answer in answers.items() if answer is None]
    found = {
        name: (counted, advised(counted, wishes, limits))
        for name, counted in sorted(measured(answer for answer in answers.values() if answer is not None).items())
    }
    if output is Format.JSON:
        spaces = [_document(name, measured, advice) for name, (measured, advice) in found.items()]
        print_json({"epoch": asked.view.epoch, "silent": silent, "wishes": asdict(wishes), "namespaces": spaces})
    else:
        _print(found, silent)


def _duration(option: str, text: str) -> float | None:
    try:
        return parse_duration(text) if text else None
    except CliError:
        raise CliError(f"{option}: must be a duration such as 50ms, 30s or 5m", code=ExitCode.USAGE) from None


def _thresholds(texts: list[str]) -> Thresholds:
    from cachenode_client.advise import Thresholds

    known, numbers = {each.name for each in fields(Thresholds)}, {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            numbers[name.strip()] = float(number)
        except ValueError:
            raise CliError(f"--threshold: {name} must be a number", code=ExitCode.USAGE) from None
        if name.strip() not in known:
            raise CliError(f"--threshold: must be one of {', '.join(sorted(known))}", code=ExitCode.USAGE)
    return Thresholds(**numbers)


def _document(name: str, measured: Measured, advice: Advice) -> dict[str, Any]:
    document = asdict(advice) | {"pattern": advice.pattern.value if advice.pattern is not None else None}
    return {"name": name, **document, "measured": asdict(measured)}


def _print(found: dict[str, tuple[Measured, Advice]], silent: list[str]) -> None:
    screen = console()
    table = new_table()
    for heading in ("namespace", "cache it", "TTL", "pattern", "reads/s", "hit ratio", "load", "saved"):
        table.add_column(heading, justify="right" if heading in {"reads/s", "hit ratio", "load", "saved"} else "left")
    for name, (measured, advice) in found.items():
        table.add_row(name, _CACHES[advice.cache], _ttl(advice), _pattern(advice), *_seen(measured, advice))
    screen.print(table, markup=False)
    for name, (_, advice) in found.items():
        for line in _lines(advice):
            screen.print(f"{name}: {line}.", markup=False, soft_wrap=True)
    if not found:
        screen.print("No namespace is in use.")
    for node in silent:
        screen.print(f"{node} does not answer; what it has seen is missing.", markup=False, soft_wrap=True)


def _lines(advice: Advice) -> list[str]:
    verb = "because" if advice.cache else "not worth it:"
    lines = [f"{verb} {'; '.join(advice.reasons)}"] if advice.reasons else []
    lines += [f"missing {each}" for each in advice.missing]
    return lines + list(advice.notes)


def _ttl(advice: Advice) -> str:
    return "-" if advice.ttl_s is None else seconds(advice.ttl_s)


def _pattern(advice: Advice) -> str:
    if advice.pattern is None:
        return "-"
    name = advice.pattern.value
    return f"{name}, refreshed ahead" if advice.refresh and name != "refresh-ahead" else name


def _seen(measured: Measured, advice: Advice) -> tuple[str, str, str, str]:
    if not measured.seconds or not measured.reads:
        return "-", "-", "-", "-"
    load = "-"
    if measured.loads:
        load = f"{measured.load_seconds / measured.loads * 1_000:,.1f} ms"
    saved = f"{advice.numbers['saved_s_per_s']:.3g} s/s" if advice.numbers else "-"
    return f"{measured.reads / measured.seconds:,.1f}", f"{measured.hits / measured.reads:.1%}", load, saved
