"""Hot keys: the rate that makes one, and how it fades."""

from __future__ import annotations

from cachenode.core.hot_keys import KEEP_S, HotKeys


def test_a_key_gets_hot_at_the_rate() -> None:
    """So many reads within a second make a key hot; as many over two seconds do not."""
    hot = HotKeys(4)
    assert [hot.count(b"k", 0.1 * n) for n in range(5)] == [False, False, False, True, True]
    assert not any(hot.count(b"other", 5 + 0.4 * n) for n in range(20))


def test_a_hot_key_fades() -> None:
    """It stays hot for a while after the rate was last seen, and then not."""
    hot = HotKeys(2)
    hot.count(b"k", 0.0)
    assert hot.count(b"k", 0.5)
    assert hot.count(b"k", 0.5 + KEEP_S - 0.1)
    assert not hot.count(b"k", 0.5 + KEEP_S + 1)
    assert len(hot) == 0


def test_many_cold_keys_do_not_hide_hot_ones_for_ever() -> None:
    """A window counts so many keys and no more; the next one begins anew."""
    hot = HotKeys(2, limit=3)
    for n in range(10):
        hot.count(n, 0.0)
    assert not any(hot.count(9, 0.1) for _ in range(5))
    assert [hot.count(9, 1.5), hot.count(9, 1.6)] == [False, True]


def test_off() -> None:
    """Without a rate nothing is counted."""
    hot = HotKeys(0)
    assert not any(hot.count(b"k", 0.0) for _ in range(1_000))
    assert "0 counted" in repr(hot)
