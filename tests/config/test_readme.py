"""The README lists every setting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from cachenode.config.model import NodeConfig
from cachenode.config.sources import NAMED

README = Path(__file__).parents[2] / "README.md"


def paths(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from paths(field.annotation, f"{prefix}{name}.")
        elif name in NAMED:
            yield from paths(NAMED[name], f"{name}.<name>.")
        else:
            yield prefix + name


def test_readme_lists_every_setting() -> None:
    """Who looks for a setting finds a row of the table."""
    text = README.read_text(encoding="utf-8")
    missing = [path for path in paths(NodeConfig) if f"| `{path}` |" not in text]
    assert missing == []
