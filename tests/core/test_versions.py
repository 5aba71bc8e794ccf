"""Versions of an owner."""

from cachenode.core.versions import VersionSource
from cachenode_api.version import epoch_of, sequence_of


def test_versions_rise_over_epochs() -> None:
    """Every version is above all before it, in the same epoch and in the next."""
    source = VersionSource()
    given = []
    for epoch in (1, 1, 2, 7):
        source.enter(epoch)
        given += [source.next(), source.next()]
    assert given == sorted(set(given))
    assert epoch_of(given[-1]) == 7
    assert sequence_of(given[0]) == 1


def test_lower_epoch_is_ignored() -> None:
    """An epoch never falls, so that no version is given twice."""
    source = VersionSource()
    source.enter(5)
    source.enter(3)
    assert source.epoch == 5
