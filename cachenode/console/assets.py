"""The console's files, which are part of the package: read once, and served from memory under the names they have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

__all__ = ["Asset", "assets"]

_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file.

    Attributes:
        body: What it holds.
        content_type: Of the body.
        etag: Changes with it.
    """

    body: bytes
    content_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Return the files by their path under the console's, with "/" between folders."""
    return dict(_found(files("cachenode.console") / "static", PurePosixPath()))


def _found(folder: Traversable, prefix: PurePosixPath) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for each in folder.iterdir():
        path = prefix / each.name
        if each.is_dir():
            found += _found(each, path)
        elif path.suffix in _TYPES:
            body = each.read_bytes()
            found.append((str(path), Asset(body, _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])))
    return found
