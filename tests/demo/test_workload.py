"""Draws by Zipf's law."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from cachenode.demo.workload import zipf_draws

ITEMS = [f"K{number:03}" for number in range(200)]


def draw(count: int, *, exponent: float = 1.0, rank_seed: int = 1, draw_seed: int = 2) -> list[str]:
    draws = zipf_draws(ITEMS, exponent=exponent, rank_seed=rank_seed, draw_seed=draw_seed)
    return list(islice(draws, count))


def test_frequencies_follow_zipfs_law() -> None:
    """The item of rank r is drawn about 1/r times as often as the first."""
    counts = [count for _, count in Counter(draw(200_000)).most_common(10)]
    for rank, count in enumerate(counts, start=1):
        assert abs(count * rank / counts[0] - 1) < 0.1


def test_exponent_zero_draws_evenly() -> None:
    """With exponent 0 no item is more popular than another."""
    counts = Counter(draw(100_000, exponent=0))
    assert len(counts) == len(ITEMS)
    assert max(counts.values()) < 1.4 * min(counts.values())


def test_processes_agree_on_what_is_popular() -> None:
    """Draws with the same rank seed favour the same items, though in another sequence."""
    one, other = draw(20_000, draw_seed=2), draw(20_000, draw_seed=3)
    assert one != other
    assert Counter(one).most_common(1)[0][0] == Counter(other).most_common(1)[0][0]


def test_draws_are_repeatable() -> None:
    """The same seeds give the same draws, others give others."""
    assert draw(5_000) == draw(5_000)
    assert Counter(draw(5_000)).most_common(3) != Counter(draw(5_000, rank_seed=9)).most_common(3)
