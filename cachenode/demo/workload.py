"""Which records are asked for: few of them often, most of them hardly ever, as in life (Zipf's law)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate

__all__ = ["zipf_draws"]

_CHUNK = 1024


def zipf_draws(items: Sequence[str], *, exponent: float, rank_seed: int, draw_seed: int) -> Iterator[str]:
    """Draw items without end; the one of rank r is drawn in proportion to 1 / r ** exponent.

    Args:
        items: What to draw from.
        exponent: 0 draws evenly; 1 is the usual popularity of things on the web.
        rank_seed: Decides which items are popular; the same seed makes the same ones popular in all processes.
        draw_seed: Decides the sequence of draws.
    """
    ranked = list(items)
    random.Random(rank_seed).shuffle(ranked)  # noqa: S311 - repeatable on purpose
    bounds = list(accumulate(1 / rank**exponent for rank in range(1, len(ranked) + 1)))
    draws = random.Random(draw_seed)  # noqa: S311 - repeatable on purpose
    while True:
        yield from draws.choices(ranked, cum_weights=bounds, k=_CHUNK)
