"""Marks clients in a forked child: gRPC's connections and threads do not survive a fork.

A hook of the interpreter does it at the moment of the fork, so that no call needs to compare process ids.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import ReferenceType

__all__ = ["watch"]

_clients: set[ReferenceType[Any]] = set()


def watch(client: ReferenceType[Any]) -> None:
    """Mark this client as forked in any child process that is forked from now on."""
    _clients.add(type(client)(client(), _clients.discard))


def _mark() -> None:
    for reference in list(_clients):
        client = reference()
        if client is not None:
            client.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark)
