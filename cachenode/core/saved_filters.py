"""Filters that nodes save for each other, and when a merge of them may be believed.

What a node saves is a *record*. Whatever happens later, both of its claims stay true:

1. *Its own writes*: every key that this node, in this life, has written under any view up to the epoch `through` is in
   it. It is saved after the node's word for the view after that (`Placement.released_epoch`), so nothing that it orders
   under those views can be acknowledged any more. A node that has ended its service for good claims `FOR_EVER`.
2. *A base*, if it has one: every key that the origin listed, and together with the own writes of the members of that
   time every key that anybody has written under a view before the base's epoch.

So a record that is old, or that a store which has lost its last writes brings back, is never wrong: it only claims
less.
A merge of records knows all that was written before a view, if one has a base, if all members of every view from the
base's epoch up to there are known, and if each of them claims its own writes of those views. It is then a base itself.

What takes a merge its belief away, each forced by a test in ``tests/core/test_saved_filters.py``:

1. A member was killed: it has claimed nothing for its last view, and may have written
   (``test_member_that_was_killed``).
2. A view that nobody knows: somebody may have joined, written and gone (``test_view_that_nobody_knows``).
3. The same epoch with other members: a life that nobody has heard of has written under it, as where a list of seeds
   counts the epochs (``test_epoch_that_was_given_twice``).
4. A record that is damaged, of another size, another hash or a later format (``test_record_that_does_not_fit``).
5. A barrier that the record knows and this cluster does not, since the store has lost it: the origin may have changed
   under it (``test_barrier_that_is_known_no_more``). One by tag may cover any key (``test_suspended_base``).

Not covered: an epoch that is given out twice by a registry that has lost its history while no node ran, if the store of
the records has kept its own.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from zlib import crc32

from cachenode.core.bloom import Base, KeyFilter

__all__ = [
    "FOR_EVER",
    "MOST_BYTES",
    "BadRecord",
    "Head",
    "Index",
    "Life",
    "Merge",
    "Record",
    "Refused",
    "lives_of",
    "plan_merge",
]

Life = tuple[str, str]
"""Id and incarnation of a node."""
FOR_EVER = 2**53
MOST_BYTES = 64 * 1024 * 1024
"""A larger filter is not saved: fifty million keys at one per cent."""
_FORMAT = 1
_HASH = "blake2b-128"
_MOST_VIEWS = 32
_LENGTH = struct.Struct("<H")
_BITS_PER_HALVING = 1 / math.log(2)
"""A Bloom filter takes so many bits for each key and each time that its error is halved (Bloom, 1970)."""


class BadRecord(ValueError):
    """A record that this node cannot use. Its text says why, for people."""


class Refused(Exception):
    """A merge that cannot be believed. Its text says why, for people."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one node has saved.

    Attributes:
        life: Whose.
        through: The newest epoch of whose views its own writes are all in it.
        views: The members of the views that it has seen, by epoch.
        position: Of the newest barrier that it knows.
        base: What its bits are good for; None without bits.
        bits: A `KeyFilter`; empty without a base.
        keys: What it has written, if it has no base yet.
    """

    life: Life
    through: int
    views: Mapping[int, tuple[Life, ...]]
    position: int
    base: Base | None = None
    bits: bytes = b""
    keys: tuple[bytes, ...] = ()

    def body(self) -> bytes:
        """Return the large part: the bits, and then the keys."""
        return self.bits + b"".join(_LENGTH.pack(len(key)) + key for key in self.keys)

    def head(self, body: bytes) -> bytes:
        """Return the small part, which says what the body is."""
        views = dict(sorted(self.views.items())[-_MOST_VIEWS:])
        head = {
            "format": _FORMAT,
            "hash": _HASH,
            "life": self.life,
            "through": self.through,
            "views": {str(epoch): lives for epoch, lives in views.items()},
            "position": self.position,
            "base": asdict(self.base) if self.base is not None else None,
            "bits": len(self.bits),
            "bytes": len(body),
            "check": crc32(body),
        }
        return json.dumps(head, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Head:
    """The small part of a record, as it was read."""

    record: Record
    bits: int
    size: int
    check: int

    @classmethod
    def parse(cls, text: bytes) -> Head:
        """Return what a head says.

        Raises:
            BadRecord: It is damaged, or of another format or hash.
        """
        try:
            head = json.loads(text)
            if head["format"] != _FORMAT or head["hash"] != _HASH:
                raise BadRecord(f"it has format {head['format']} and hash {head['hash']}")
            views = {int(epoch): tuple((one, life) for one, life in lives) for epoch, lives in head["views"].items()}
            base = _base(head["base"]) if head["base"] is not None else None
            life, through, position = (head["life"][0], head["life"][1]), int(head["through"]), int(head["position"])
            return cls(
                Record(life, through, views, position, base), int(head["bits"]), int(head["bytes"]), int(head["check"])
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise error if isinstance(error, BadRecord) else BadRecord("it is damaged") from None

    def with_body(self, body: bytes) -> Record:
        """Return the whole record.

        Raises:
            BadRecord: The body is not that of this head.
        """
        if len(body) != self.size or crc32(body) != self.check:
            raise BadRecord("it is damaged")
        keys, at = [], self.bits
        while at < len(body):
            try:
                (length,) = _LENGTH.unpack_from(body, at)
            except struct.error:
                raise BadRecord("it is damaged") from None
            keys.append(body[at + 2 : at + 2 + length])
            at += 2 + length
        record = self.record
        return Record(
            record.life, record.through, record.views, record.position, record.base, body[: self.bits], tuple(keys)
        )


@dataclass(frozen=True, slots=True)
class Index:
    """Where a node that has just begun starts to look.

    Attributes:
        room: Keys that the filter has room for.
        error: Part of the absent keys that may pass.
        lives: Some that have saved something; their records tell of others.
    """

    room: int
    error: float
    lives: tuple[Life, ...]

    def save(self) -> bytes:
        """Return it as bytes."""
        return json.dumps({"format": _FORMAT, "hash": _HASH, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, text: bytes) -> Index:
        """Return what an index says.

        Raises:
            BadRecord: It is damaged, or of another format or hash.
        """
        try:
            found = json.loads(text)
            if found["format"] != _FORMAT or found["hash"] != _HASH:
                raise BadRecord(f"it has format {found['format']} and hash {found['hash']}")
            lives = tuple((str(one), str(life)) for one, life in found["lives"])
            return cls(*_sized(int(found["room"]), float(found["error"])), lives)
        except (ValueError, KeyError, TypeError) as error:
            raise error if isinstance(error, BadRecord) else BadRecord("it is damaged") from None


def _base(found: Mapping[str, float]) -> Base:
    """Return what a record's bits are good for, as it says: something else may stand in its place."""
    room, error = _sized(int(found["room"]), float(found["error"]))
    return Base(
        number=int(found["number"]),
        epoch=int(found["epoch"]),
        position=int(found["position"]),
        suspended=bool(found["suspended"]),
        room=room,
        error=error,
        listed=int(found["listed"]),
        listed_at=float(found["listed_at"]),
    )


def _sized(room: int, error: float) -> tuple[int, float]:
    """Return the measures of a filter, unless there is none of these, or none that is ever saved."""
    if not (room > 0 and 0 < error < 1 and room * -math.log2(error) * _BITS_PER_HALVING <= 8 * MOST_BYTES):
        raise BadRecord("it is damaged")
    return room, error


def lives_of(records: Iterable[Record]) -> set[Life]:
    """Return all that records tell of."""
    return {life for record in records for lives in record.views.values() for life in lives} | {
        record.life for record in records
    }


@dataclass(frozen=True, slots=True)
class Merge:
    """What a merge takes, and what it is good for.

    Attributes:
        base: The base that it rests on.
        life: Whose that is.
        needed: Whose records have to be put together.
    """

    base: Base
    life: Life
    needed: frozenset[Life]

    def unite(self, records: Iterable[Record]) -> KeyFilter:
        """Return a filter of what is in the records.

        Raises:
            Refused: One is not there, or its filter has another size.
        """
        united, missing = KeyFilter(self.base.room, self.base.error), set(self.needed)
        for record in records:
            if record.bits and not united.unite(record.bits):
                raise Refused("a node's filter has another size")
            for key in record.keys:
                united.add(key)
            missing.discard(record.life)
        if missing:
            raise Refused("what a node has saved is damaged")
        return united


def plan_merge(records: Sequence[Record], *, epoch: int, members: Collection[Life], position: int) -> Merge:
    """Return what a filter of all that was written before a view is put together from.

    Args:
        records: At most one of each life; their bits and keys are not looked at.
        epoch: Of the view in force.
        members: Its members.
        position: Of the newest barrier that this cluster knows.

    Raises:
        Refused: It could not be believed.
    """
    by_life = {record.life: record for record in records}
    views = _views(records, epoch, members)
    bases = [
        (_rank(record.base, record.life in members), record.life, record.base) for record in records if record.base
    ]
    bases = [each for each in bases if each[2].epoch <= epoch]
    if not bases:
        raise Refused("nobody has a filter")
    _, whose, base = max(bases, key=lambda each: each[0])
    if base.suspended:
        raise Refused("a tag was invalidated since its keys were listed")
    if any(record.position > position for record in records):
        raise Refused("the shared store has lost invalidations")
    needed = {whose: 0} | dict.fromkeys(members, 0)
    for at in range(base.epoch, epoch):
        if at not in views:
            raise Refused("a view since its keys were listed is not known")
        needed |= dict.fromkeys(views[at], at)
    for life, through in needed.items():
        known = by_life.get(life)
        if known is None or known.through < through:
            raise Refused("a node has gone without saving what it wrote")
    return Merge(base, whose, frozenset(needed))


def _rank(base: Base, present: bool) -> tuple[int, int, bool]:
    """Return how good a base is: the fewer views come after it the better, and best is one of a node that is there."""
    return base.epoch, base.number, present


def _views(records: Sequence[Record], epoch: int, members: Collection[Life]) -> dict[int, set[Life]]:
    """Return the members of the views that are known."""
    views: dict[int, set[Life]] = {epoch: set(members)}
    for record in records:
        for at, lives in record.views.items():
            if views.setdefault(at, set(lives)) != set(lives):
                raise Refused("two views have the same epoch")
    return views
