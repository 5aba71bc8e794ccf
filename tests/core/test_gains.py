from __future__ import annotations

from cachenode.core.gains import Gains


def test_nothing_is_taken_before_a_view() -> None:
    """Without a view there is nobody from whom anything could be taken, and nothing is remembered."""
    gains = Gains()
    gains.touch("n", b"k")
    assert not gains.takes("n", b"k", 0.0)
    assert (gains.open, len(gains)) == (False, 0)


def test_removed_key_is_not_taken() -> None:
    """A key that was touched since the view began is not taken; others are, also of the same name elsewhere."""
    gains = Gains()
    gains.begin(10.0)
    gains.touch("n", b"k")
    assert not gains.takes("n", b"k", 1.0)
    assert gains.takes("n", b"other", 1.0)
    assert gains.takes("m", b"k", 1.0)


def test_late_entry_is_not_taken() -> None:
    """When the window is over nothing is taken, whether somebody has looked at the clock or not; then it is closed."""
    gains = Gains()
    gains.begin(10.0)
    gains.tick(9.9)
    assert gains.takes("n", b"k", 9.9)
    assert not gains.takes("n", b"k", 10.0)
    assert gains.open
    gains.tick(10.0)
    assert not gains.open
    assert not gains.takes("n", b"k", 9.0)
    assert "open=False" in repr(gains)


def test_new_view_begins_anew() -> None:
    """With the next view another window begins, in which nothing is touched yet."""
    gains = Gains()
    gains.begin(10.0)
    gains.touch("n", b"k")
    gains.begin(12.0)
    assert gains.takes("n", b"k", 11.0)


def test_too_many_touched_close_the_window() -> None:
    """With more keys than can be remembered nothing is taken any more."""
    gains = Gains(limit=2)
    gains.begin(10.0)
    gains.touch("n", b"1")
    gains.touch("n", b"2")
    gains.touch("n", b"2")
    assert gains.takes("n", b"k", 1.0)
    gains.touch("n", b"3")
    assert not gains.takes("n", b"k", 1.0)
    assert (gains.open, len(gains)) == (False, 0)
