"""Whether caching pays, for how long, and by which pattern: `advise` says so from what was measured.

``cachenode advise`` asks it for every namespace of a cluster. An application can ask it before there is a cache::

    from cachenode_client.advise import Measured, Wishes, advise

    seen = Measured(seconds=3_600, reads=90_000, hits=81_000, writes=0, invalidations=120, keys=2_000)
    advice = advise(seen, Wishes(load_s=0.15, staleness_s=30))
    print(advice.cache, advice.ttl_s, advice.pattern, advice.reasons)
"""

from __future__ import annotations

from cachenode_api.advise import Advice, Measured, Pattern, Thresholds, Wishes, advise

__all__ = ["Advice", "Measured", "Pattern", "Thresholds", "Wishes", "advise"]
