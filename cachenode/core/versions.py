"""Where an owner takes its versions from: the epoch under which it owns, and a sequence that never goes back."""

from __future__ import annotations

from cachenode_api.version import epoch_of, make_version, sequence_of

__all__ = ["VersionSource"]


class VersionSource:
    """Strictly increasing versions, as long as the epoch does not fall.

    The sequence goes on over epochs rather than beginning anew: nothing needs it to begin anew, and a bug in the
    epoch would then still not give a version twice.
    """

    __slots__ = ("_epoch", "_sequence")

    def __init__(self) -> None:
        self._epoch = 0
        self._sequence = 0

    @property
    def epoch(self) -> int:
        """The epoch of the next version."""
        return self._epoch

    def enter(self, epoch: int) -> None:
        """Use a new epoch from now on. A lower one is ignored."""
        self._epoch = max(self._epoch, epoch)

    def surpass(self, version: int) -> None:
        """Give only versions above this one from now on, as soon as this node's epoch is not below its."""
        if epoch_of(version) >= self._epoch:
            self._sequence = max(self._sequence, sequence_of(version))

    def next(self) -> int:
        """Return a version above all given so far."""
        self._sequence += 1
        return make_version(self._epoch, self._sequence)
