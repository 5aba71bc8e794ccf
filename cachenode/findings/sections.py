"""Which section of the runbook says more about what a check finds."""

from __future__ import annotations

__all__ = ["SECTIONS"]

SECTIONS = {
    "certificates": "CacheNodeCertificateEnds",
    "clocks": "Clocks",
    "hit_ratios": "CacheNodeHitRatioLow",
    "hot_key": "CacheNodeSlow",
    "l2": "CacheNodeL2Away",
    "late_sessions": "Late sessions",
    "links": "CacheNodeViewsDiffer",
    "loads": "CacheNodeLoadsFail",
    "memory": "CacheNodeEvictionsHigh",
    "origins": "CacheNodeOriginLeftAlone",
    "overload": "CacheNodeSlow",
    "policies": "Nodes that differ",
    "quotas": "Full quotas",
    "regions": "CacheNodeRegionBehind",
    "redis_settings": "CacheNodeL2Away",
    "releases": "Nodes that differ",
    "silent": "CacheNodeDown",
    "stampede": "Stampedes",
    "views": "CacheNodeViewsDiffer",
    "write_behind": "CacheNodeWriteBehindLate",
}
"""By the check's name. Some are those of alerts, others are what only the doctor looks for."""
