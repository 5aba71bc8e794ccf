"""What nodes export, to compare with what alerts and dashboards ask for."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

from cachenode.adapters.metrics import NodeCollector
from cachenode.core.stats import NodeStats
from tests.meta.test_pages import zeros

__all__ = ["exported", "metrics_in"]

_METRIC = re.compile(r"\b(?:cache|cachenode)_[a-z0-9_]+(?![a-z0-9_:])")


@cache
def exported() -> set[str]:
    """Return the names of all series of a node."""
    stats = dataclasses.replace(zeros(NodeStats), certificate_expires_at=0.0)
    found = set()
    for family in NodeCollector(lambda: stats).collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket"]}.get(family.type, [""])
        found |= {family.name + ending for ending in endings}
    return found


def metrics_in(query: str) -> set[str]:
    """Return the metrics of nodes that a query names; labels such as cache_layer are none."""
    return set(_METRIC.findall(re.sub(r"\{[^}]*\}|\b(?:by|without|on)\s*\([^)]*\)", " ", query)))
