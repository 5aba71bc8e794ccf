"""Fill tokens: what was read may be stored only if nothing was written since the read began."""

from cachenode.core.fills import FillTokens


def test_write_during_fill() -> None:
    """A write between the read and the store voids the token."""
    fills = FillTokens()
    (token,) = fills.begin([b"k"])
    fills.void(b"k")
    assert not fills.settle(b"k", token)


def test_two_fills_share_a_token() -> None:
    """Of two reads of one key at the same time the first one stores."""
    fills = FillTokens()
    first, second = fills.begin([b"k", b"k"])
    assert fills.settle(b"k", first)
    assert not fills.settle(b"k", second)


def test_fill_after_write() -> None:
    """A read that begins after the write has a right of its own."""
    fills = FillTokens()
    (old,) = fills.begin([b"k"])
    fills.void(b"k")
    (new,) = fills.begin([b"k"])
    assert not fills.settle(b"k", old)
    assert fills.settle(b"k", new)


def test_other_keys_are_not_touched() -> None:
    """Voiding one key leaves the tokens of others alive; voiding all leaves none."""
    fills = FillTokens()
    a, b, c = fills.begin([b"a", b"b", b"c"])
    fills.void(b"a")
    assert fills.settle(b"b", b)
    fills.void_all()
    assert not fills.settle(b"a", a)
    assert not fills.settle(b"c", c)
    assert len(fills) == 0
    assert repr(fills) == "<FillTokens 0 live>"
