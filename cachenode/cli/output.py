"""How results look: JSON for programs, tables, bars and plain values for people."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cachenode.core.texts import LINE_CONTROLS, count, seconds, shown, size, version

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "bar",
    "console",
    "count",
    "jsonable",
    "new_table",
    "percent",
    "print_json",
    "seconds",
    "shown",
    "size",
    "version",
    "write_value",
]

_WIDE = 200
_DUMP_BYTES = 1_024
_CONTROLS = {code: text for code, text in LINE_CONTROLS.items() if chr(code) not in "\n\t"}


def console(*, stderr: bool = False) -> Console:
    """Return where tables go. A pipe has no width: there, rows stay whole."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDE)


def new_table(title: str = "") -> Table:
    """Return an empty table in the style of all commands."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document on standard output: indented on a terminal, one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(document, indent=indent, ensure_ascii=False, default=jsonable))  # noqa: T201 - the result


def jsonable(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return what stands in JSON for a value that JSON does not know."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return list(value) if isinstance(value, (tuple, set, frozenset)) else str(value)


def write_value(value: object) -> None:
    """Write a cached value on standard output.

    Text is written as it is, other values as JSON. Bytes go to a pipe unchanged. On a terminal they are dumped, and
    control characters of text are shown instead of obeyed: a value must not move the cursor or change the title.
    """
    terminal = sys.stdout.isatty()
    if isinstance(value, bytes):
        if not terminal:
            sys.stdout.flush()
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
            return
        text = _dump(value)
    elif isinstance(value, str):
        text = value.translate(_CONTROLS) if terminal else value
    else:
        text = json.dumps(value, indent=2 if terminal else None, ensure_ascii=False, default=jsonable)
        text = text.translate(_CONTROLS) if terminal else text
    print(text)  # noqa: T201 - the result


def _dump(data: bytes) -> str:
    lines = [f"{len(data):,} bytes"]
    for start in range(0, min(len(data), _DUMP_BYTES), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<47}  {text}")
    if len(data) > _DUMP_BYTES:
        lines.append(f"… and {len(data) - _DUMP_BYTES:,} bytes more; send the output to a file to have them all")
    return "\n".join(lines)


def bar(share: float, largest: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a bar whose length is a share's part of the largest one, in eighths of a character."""
    eighths = round(width * 8 * share / largest) if largest > 0 else 0
    whole, rest = divmod(eighths, 8)
    if ascii_only:
        return "#" * (whole + (rest >= 4))
    return "█" * whole + (chr(0x2590 - rest) if rest else "")


def percent(part: int, whole: int) -> str:
    """Return a ratio for people; a dash if there is nothing to divide by."""
    return f"{part / whole:.1%}" if whole else "-"
