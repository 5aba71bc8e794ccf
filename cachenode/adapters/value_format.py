"""How values look to an origin that gets bytes: JSON text, or the bytes themselves."""

from __future__ import annotations

import json
from typing import Any

from cachenode.errors import ConfigError, OriginError

__all__ = ["ValueFormat"]


class ValueFormat:
    """Turns values into bytes and back.

    Args:
        name: "json" or "bytes".

    Attributes:
        media_type: Of the bytes.

    Raises:
        ConfigError: It is neither.
    """

    def __init__(self, name: str) -> None:
        if name not in {"json", "bytes"}:
            raise ConfigError(["options.format: must be json or bytes"])
        self._is_json = name == "json"
        self.media_type = "application/json" if self._is_json else "application/octet-stream"

    def value(self, data: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return the value of bytes that an origin gave.

        Raises:
            OriginError: They are no JSON.
        """
        if not self._is_json:
            return data
        try:
            return json.loads(data)
        except ValueError:
            raise OriginError("the value is no JSON", again=False) from None

    def data(self, value: object) -> bytes:
        """Return the bytes of a value that an origin is to get.

        Raises:
            OriginError: It cannot be written so.
        """
        if not self._is_json:
            if not isinstance(value, bytes):
                raise OriginError(f"the value must be bytes, not {type(value).__name__}", again=False)
            return value
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError):
            raise OriginError("the value cannot be written as JSON", again=False) from None
