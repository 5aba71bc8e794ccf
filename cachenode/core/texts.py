"""How numbers, times and keys look to people, on a terminal and in a browser."""

from __future__ import annotations

from cachenode_api.version import epoch_of, sequence_of

__all__ = ["LINE_CONTROLS", "count", "seconds", "shown", "size", "version"]

LINE_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
"""What would move the cursor of a terminal, written out."""
_DURATIONS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"))


def shown(raw: bytes) -> str:
    """Return a key, prefix, pattern or tag for one line: what would move the cursor, or is no text, is written out."""
    return raw.decode(errors="backslashreplace").translate(LINE_CONTROLS)


def version(number: int) -> str:
    """Return a version or a position of barriers as its owner's epoch and sequence."""
    return f"{epoch_of(number)}:{sequence_of(number)}"


def count(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}"


def size(number: int) -> str:
    """Return a number of bytes in the unit that fits."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{number} B" if unit == "B" else f"{value:,.1f} {unit}"


def seconds(value: float) -> str:
    """Return a duration in its two largest units."""
    for at, (length, unit) in enumerate(_DURATIONS):
        if value >= length:
            smaller, small_unit = _DURATIONS[at + 1] if at + 1 < len(_DURATIONS) else (1.0, "s")
            return f"{int(value // length)}{unit} {int(value % length // smaller)}{small_unit}"
    return f"{value:.1f}s"
