"""Secrets of origins, which are in files so that no configuration holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cachenode.errors import ConfigError

__all__ = ["secrets_of"]


def secrets_of(option: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return what files hold, by the names that an option gives them.

    Raises:
        ConfigError: One cannot be read.
    """
    found = {}
    for name, path in files.items():
        try:
            found[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError([f"options.{option}: {type(error).__name__}"]) from None
    return found
