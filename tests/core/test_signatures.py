"""Signed messages: what is refused, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.signatures import Signatures, Verdict, signed

SECRET = b"0123456789abcdef"
BODY = b'{"event": "e"}'
NOW = 1_700_000_000


def test_good_once() -> None:
    """A message of somebody who knows the secret is good; so is another with the same time."""
    signatures = Signatures()
    assert signatures.check(signed(SECRET, NOW, BODY), BODY, [SECRET], NOW) is Verdict.GOOD
    assert signatures.check(signed(SECRET, NOW, b"{}"), b"{}", [SECRET], NOW) is Verdict.GOOD


def test_known_signature() -> None:
    """The scheme is what the documentation says, byte for byte."""
    # printf 1.body | openssl dgst -sha256 -hmac key
    digest = "91b5374b153842ad05b2c4eab9349b8321b14703165bd3fb8b034dfb8be98ae5"
    assert signed(b"key", 1, b"body") == f"t=1,v1={digest}"


@given(st.binary(max_size=50), st.integers(0, 49), st.integers(1, 255))
def test_wrong(body: bytes, at: int, by: int) -> None:
    """Any change of the body, the time or the secret makes the signature wrong."""
    signatures, header = Signatures(), signed(SECRET, NOW, body)
    changed = bytearray(body or b"x")
    changed[at % len(changed)] ^= by
    assert signatures.check(header, bytes(changed), [SECRET], NOW) is Verdict.WRONG
    assert signatures.check(header, body, [b"another secret.."], NOW) is Verdict.WRONG
    assert signatures.check(header.replace(str(NOW), str(NOW + 1)), body, [SECRET], NOW) is Verdict.WRONG
    assert signatures.check(header, body, [], NOW) is Verdict.WRONG
    assert not len(signatures)


@pytest.mark.parametrize("apart", [-301, 301, -10_000])
def test_late(apart: int) -> None:
    """What is too old or from the future is refused; 300 seconds are not too much."""
    signatures = Signatures()
    header = signed(SECRET, NOW + apart, BODY)
    assert signatures.check(header, BODY, [SECRET], NOW) is Verdict.LATE
    assert signatures.check(signed(SECRET, NOW - 300, BODY), BODY, [SECRET], NOW) is Verdict.GOOD


def test_replayed() -> None:
    """Within the window a signature is good once, unless what it signed could not be done."""
    signatures, header = Signatures(), signed(SECRET, NOW, BODY)
    assert signatures.check(header, BODY, [SECRET], NOW) is Verdict.GOOD
    assert signatures.check(header, BODY, [SECRET], NOW + 300) is Verdict.REPLAYED
    signatures.take_back(header)
    assert signatures.check(header, BODY, [SECRET], NOW) is Verdict.GOOD
    assert signatures.check(header, BODY, [SECRET], NOW + 1_000) is Verdict.LATE
    signatures.check(signed(SECRET, NOW + 1_000, BODY), BODY, [SECRET], NOW + 1_000)
    assert len(signatures) == 1


def test_replay_beside_another_signature() -> None:
    """It does not help to add a signature, nor to put them in another order."""
    signatures, header = Signatures(), signed(SECRET, NOW, BODY)
    assert signatures.check(header, BODY, [SECRET], NOW) is Verdict.GOOD
    for other in (f"{header},v1={'0' * 64}", f"t={NOW},v1={'0' * 64},{header.partition(',')[2]}"):
        assert signatures.check(other, BODY, [SECRET], NOW) is Verdict.REPLAYED


def test_two_secrets() -> None:
    """While one secret takes another's place both are good."""
    signatures = Signatures()
    for secret in (SECRET, b"the next secret."):
        header = signed(secret, NOW, BODY)
        assert signatures.check(header, BODY, [SECRET, b"the next secret."], NOW) is Verdict.GOOD


@pytest.mark.parametrize(
    "header", ["", "t=1", "v1=" + "0" * 64, "t=x,v1=" + "0" * 64, "t=1,v1=" + "G" * 64, "t=1,v1=0"]
)
def test_malformed(header: str) -> None:
    """What is no signature at all."""
    assert Signatures().check(header, BODY, [SECRET], NOW) is Verdict.MALFORMED
