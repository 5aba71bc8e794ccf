"""What a mutant is: a safeguard that is switched off, and where the simulator should notice it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

__all__ = ["Mutant", "swap"]


@dataclass(frozen=True)
class Mutant:
    """A safeguard that is switched off.

    Attributes:
        apply: Switches it off until the stack is closed.
        profile: The profile under which it shows.
        clauses: What it should break; any of these.
        seeds: So many runs at most until it is found.
        first: The first seed.
    """

    apply: Callable[[ExitStack], None]
    profile: str
    clauses: tuple[str, ...] = ("C3",)
    seeds: int = 40
    first: int = 0


def swap(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Replace an attribute until the stack is closed."""
    stack.enter_context(patch.object(owner, name, value))
