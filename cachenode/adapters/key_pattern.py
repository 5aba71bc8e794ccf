"""Which part of a key an origin knows a value by: ``user:{id}`` says that it is what follows ``user:``."""

from __future__ import annotations

import re

from cachenode.errors import ConfigError

__all__ = ["KeyPattern"]

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(:int)?\}")
_INT = re.compile(r"(?:0|-?[1-9][0-9]{0,18})\Z")


class KeyPattern:
    """A key's pattern with one placeholder, ``{name}``, or ``{name:int}`` for whole numbers.

    Args:
        pattern: The pattern.

    Attributes:
        name: Of the placeholder.

    Raises:
        ConfigError: It has no placeholder, or more than one.
    """

    def __init__(self, pattern: str) -> None:
        found = list(_PLACEHOLDER.finditer(pattern))
        if len(found) != 1 or any(mark in _PLACEHOLDER.sub("", pattern) for mark in "{}"):
            raise ConfigError(['options.key: must hold one placeholder, as in "user:{id}" or "user:{id:int}"'])
        [place] = found
        self.name = place[1]
        self._before, self._after = pattern[: place.start()], pattern[place.end() :]
        self._is_int = place[2] is not None

    def part(self, key: str | bytes) -> str | int | None:
        """Return the part of a key that the placeholder stands for; None if the key does not fit.

        Each part belongs to one key: ``007`` is no whole number.
        """
        if isinstance(key, bytes) or not (key.startswith(self._before) and key.endswith(self._after)):
            return None
        part = key[len(self._before) : len(key) - len(self._after)]
        if len(key) <= len(self._before) + len(self._after):
            return None
        if not self._is_int:
            return part
        return int(part) if _INT.match(part) else None

    def key(self, part: object) -> str:
        """Return the key of a part."""
        return f"{self._before}{part}{self._after}"
