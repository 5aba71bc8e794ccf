"""Errors of the node.

::

    CacheNodeError
    ├── ConfigError        the configuration is not valid; carries every problem found
    ├── EventRefused       an event cannot be used, or would make too much untrue
    ├── L2Unavailable      the shared store did not answer in time, or refused
    ├── OriginError        an origin could not be read or written
    ├── PeerUnavailable    a peer did not answer, or its link is down
    ├── RegionUnavailable  another region does not answer, or refuses
    └── RegistryError      the registry cannot be reached, or refuses this member
"""

from __future__ import annotations

from collections.abc import Sequence

from cachenode_api.reasons import Reason

__all__ = [
    "CacheNodeError",
    "ConfigError",
    "EventRefused",
    "L2Unavailable",
    "OriginError",
    "PeerUnavailable",
    "RegionUnavailable",
    "RegistryError",
]


class CacheNodeError(Exception):
    """Root of the node's own errors. Texts name fields, limits and sizes, never keys or values."""


class ConfigError(CacheNodeError):
    """The configuration is not valid.

    Attributes:
        problems: Every problem found, one line each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class EventRefused(CacheNodeError):
    """An event cannot be used, would make too much untrue, or what it says could not be done.

    Attributes:
        reason: Why, as whoever sent it is told.
    """

    def __init__(self, text: str, reason: Reason) -> None:
        self.reason = reason
        super().__init__(text)


class L2Unavailable(CacheNodeError):
    """The shared store did not answer in time, or refused."""


class OriginError(CacheNodeError):
    """An origin could not be read or written. Its text is shown to those who wait for that.

    Attributes:
        again: True if the same question may be answered another time; False if the origin did answer.
        maybe_done: True if a write may have been done all the same.
    """

    def __init__(self, text: str, *, again: bool = True, maybe_done: bool = False) -> None:
        self.again = again
        self.maybe_done = maybe_done
        super().__init__(text)


class PeerUnavailable(CacheNodeError):
    """A peer did not answer, or its link is down.

    Attributes:
        sent: True if the request had left, so that a write may have happened.
    """

    def __init__(self, text: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(text)


class RegionUnavailable(CacheNodeError):
    """Another region does not answer, or refuses what this one says.

    Attributes:
        refused: True if it has answered: asking again does not help before somebody has changed a configuration.
    """

    def __init__(self, text: str, *, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(text)


class RegistryError(CacheNodeError):
    """The registry cannot be reached, or refuses this member."""
