"""Signed messages: who knows a secret has sent this, lately, and not before.

The signature is the HMAC-SHA256 of ``<timestamp>.<body>`` under the secret, in a header ``t=<timestamp>,v1=<hex>``, as
several senders of webhooks have it. A message that is older or younger than the window is refused, and within the
window each signature is good once: so what somebody has recorded on the way is worth nothing later, nor at once
(``test_replayed``). Several secrets may be good at a time, while one takes another's place.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum

__all__ = ["Signatures", "Verdict", "signed"]

_HEADER = re.compile(r"t=([0-9]{1,12})((?:,v1=[0-9a-f]{64}){1,4})\Z")
_MOST = 100_000


class Verdict(Enum):
    """What is wrong with a signature, if anything."""

    GOOD = "good"
    MALFORMED = "malformed"
    WRONG = "wrong"
    LATE = "late"
    REPLAYED = "replayed"


def signed(secret: bytes, timestamp: int, body: bytes) -> str:
    """Return the header of a message."""
    return f"t={timestamp},v1={_digest(secret, timestamp, body)}"


def _digest(secret: bytes, timestamp: int, body: bytes) -> str:
    return hmac.new(secret, b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()


class Signatures:
    """The signatures that have been seen.

    Args:
        window_s: How far from now the time of a message may be.
    """

    def __init__(self, window_s: float = 300.0) -> None:
        self._window_s = window_s
        self._seen: OrderedDict[str, float] = OrderedDict()

    def check(self, header: str, body: bytes, secrets: Sequence[bytes], now: float) -> Verdict:
        """Judge a message, and remember its signature if it is good.

        Args:
            header: As it came.
            body: As it came.
            secrets: Any of them is good.
            now: Seconds since 1970.
        """
        match = _HEADER.match(header)
        if match is None:
            return Verdict.MALFORMED
        timestamp, digests = int(match[1]), match[2].replace(",v1=", " ").split()
        right = ""
        for secret in secrets:  # all are tried, so that the time taken tells nothing
            expected = _digest(secret, timestamp, body)
            for digest in digests:
                right = digest if hmac.compare_digest(digest, expected) else right
        if not right:
            return Verdict.WRONG
        if abs(now - timestamp) > self._window_s:
            return Verdict.LATE
        self._forget(now)
        if right in self._seen:
            return Verdict.REPLAYED
        self._seen[right] = now + 2 * self._window_s
        return Verdict.GOOD

    def take_back(self, header: str) -> None:
        """Let a message come again: what it says could not be done."""
        for digest in header.split(",v1=")[1:]:
            self._seen.pop(digest, None)

    def _forget(self, now: float) -> None:
        seen = self._seen
        while seen and (seen[first := next(iter(seen))] <= now or len(seen) >= _MOST):
            del seen[first]

    def __len__(self) -> int:
        return len(self._seen)
