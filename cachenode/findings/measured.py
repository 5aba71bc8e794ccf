"""What `cachenode_api.advise` wants to know, from the answers of all nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from cachenode_api.advise import Measured
from cachenode_api.v1 import admin_pb2 as pb

__all__ = ["measured"]

_NAMES = tuple(each.name for each in fields(Measured))


def measured(answers: Iterable[pb.AdviseResponse]) -> dict[str, Measured]:
    """Return what all nodes together have counted, by namespace."""
    sums: dict[str, Measured] = {}
    for answer in answers:
        for space in answer.namespaces:
            one = Measured(**{name: getattr(space.measured, name) for name in _NAMES})
            sums[space.name] = sums[space.name].plus(one) if space.name in sums else one
    return sums
