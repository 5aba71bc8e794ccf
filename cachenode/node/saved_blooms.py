"""What this node saves of its Bloom filters in L2, and what it finds there (`cachenode.core.saved_filters`).

A record lies under ``.bloom``, in parts, and its head comes last: one that was interrupted is told by its check. It is
saved when a merge asks for it, and when the node leaves; then a second time, with the view that the registry says is in
force without it, so that no view is missing where all nodes leave at a time. An index by namespace tells a node that
has just begun whose records to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from cachenode.core.bloom import Base, KeyFilter, Source
from cachenode.core.saved_filters import (
    FOR_EVER,
    MOST_BYTES,
    BadRecord,
    Head,
    Index,
    Life,
    Record,
    Refused,
    lives_of,
    plan_merge,
)

if TYPE_CHECKING:
    from cachenode.node.l2_tier import L2Tier
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node
    from cachenode_api.view import View

__all__ = ["SavedBlooms"]

_KIND = ".bloom"
_KEPT_S = 7 * 86_400.0
_PART_BYTES = 128 * 1024
_MOST_LIVES = 256
_MOST_VIEWS = 32


class SavedBlooms:
    """The records of this node, and how others' are read.

    Args:
        node: The node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._views: dict[int, tuple[Life, ...]] = {}
        self._left: dict[str, tuple[Record, bytes]] = {}
        """What was saved when this node left."""
        node.placement.listeners.append(lambda _former, view: self._seen(view))

    @property
    def _me(self) -> Life:
        me = self._node.placement.me
        return me.id, me.incarnation

    def _seen(self, view: View) -> None:
        self._views[view.epoch] = tuple((member.id, member.incarnation) for member in view.members)
        while len(self._views) > _MOST_VIEWS:
            del self._views[min(self._views)]

    # Saving.

    async def save(self, namespace: Namespace, through: int) -> bool:
        """Save what this node knows. Return False if that cannot be done, or is too large.

        Args:
            namespace: Whose filter.
            through: The newest epoch of whose views nothing is written any more.
        """
        if self._node.closed:
            through = FOR_EVER
        tier, bloom = self._node.l2_for(namespace), namespace.bloom
        assert bloom is not None, "only namespaces with a filter are asked to save it"
        written = bloom.written()
        if tier is None or written is None:
            return False
        record = Record(self._me, through, dict(self._views), namespace.barriers.position, bloom.base, *written)
        body = record.body()
        if len(body) > MOST_BYTES:
            return False
        for number, at in enumerate(range(0, len(body), _PART_BYTES)):
            if not await self._note(tier, _name(namespace, self._me, number), body[at : at + _PART_BYTES]):
                return False
        if not await self._note(tier, _name(namespace, self._me), record.head(body)):
            return False
        if through == FOR_EVER:
            self._left[namespace.policy.name] = record, body
        bloom.saves += 1
        return await self._save_index(tier, namespace)

    async def _save_index(self, tier: L2Tier, namespace: Namespace) -> bool:
        bloom = namespace.bloom
        if bloom is None or bloom.base is None:  # who has no filter knows no better than who has written the last one
            return True
        newest = self._views.get(max(self._views, default=0), ())
        index = Index(bloom.base.room, bloom.base.error, tuple({*newest, self._me}))
        return await self._note(tier, _name(namespace), index.save())

    async def leave(self) -> None:
        """Save all filters, if this node has ended its writes for good."""
        for namespace in self._node.namespaces if self._node.closed else ():
            if namespace.bloom is not None:
                await self.save(namespace, FOR_EVER)

    async def left(self) -> None:
        """Add to what was saved the view without this node, which is not known if the registry did not tell it."""
        if self._node.placement.departure is None:
            return
        self._seen(self._node.placement.departure)
        for name, (record, body) in self._left.items():
            namespace = self._node.namespaces.get(name)
            tier = self._node.l2_for(namespace) if namespace is not None else None
            if namespace is not None and tier is not None:
                known = Record(record.life, FOR_EVER, dict(self._views), record.position, record.base, record.bits)
                await self._note(tier, _name(namespace, self._me), known.head(body))

    async def _note(self, tier: L2Tier, name: bytes, record: bytes) -> bool:
        return await tier.note(_KIND, name, record, _KEPT_S, self._node.versions.next())

    # Reading.

    async def index(self, namespace: Namespace) -> Index | None:
        """Return where to begin: what this node has, or else what was saved; None if nothing was.

        Raises:
            Refused: It is not what the configuration asks for.
        """
        bloom, tier, policy = namespace.bloom, self._node.l2_for(namespace), namespace.policy
        lives = {life for lives in self._views.values() for life in lives}
        if bloom is not None and bloom.base is not None:
            return Index(bloom.base.room, bloom.base.error, tuple(lives))
        [entry] = await tier.noted(_KIND, [_name(namespace)]) if tier is not None else [None]
        if entry is None:
            return None
        try:
            found = Index.parse(entry.value)
        except BadRecord as error:
            raise Refused(f"what is saved cannot be used: {error}") from None
        if found.error != policy.bloom_error or found.room < policy.bloom_keys:
            raise Refused("what is saved has other settings")
        return Index(found.room, found.error, tuple(lives.union(found.lives)))

    async def merge(self, namespace: Namespace, index: Index, view: View) -> tuple[KeyFilter, Base, Source]:
        """Return what was written before a view, what it is good for, and where that comes from.

        Raises:
            Refused: It could not be believed.
        """
        tier = self._node.l2_for(namespace)
        assert tier is not None, "what is saved is in L2"
        members = frozenset((member.id, member.incarnation) for member in view.members)
        heads = await self._heads(tier, namespace, members.union(index.lives))
        known = [head.record for head in heads.values()]
        plan = plan_merge(known, epoch=view.epoch, members=members, position=namespace.barriers.position)
        records = [await self._whole(tier, namespace, heads[life]) for life in sorted(plan.needed)]
        united = plan.unite(record for record in records if record is not None)
        return united, plan.base, Source.MERGED if plan.life in members else Source.SAVED

    async def _heads(self, tier: L2Tier, namespace: Namespace, lives: Collection[Life]) -> dict[Life, Head]:
        """Return the heads of these records, of those that they tell of, and so on."""
        heads: dict[Life, Head] = {}
        asked: set[Life] = set()
        while left := sorted(lives_of([head.record for head in heads.values()]).union(lives) - asked):
            left = left[: _MOST_LIVES - len(asked)]
            if not left:
                break
            asked.update(left)
            entries = await tier.noted(_KIND, [_name(namespace, life) for life in left])
            heads |= _parsed(left, [entry.value if entry is not None else b"" for entry in entries])
        return heads

    async def _whole(self, tier: L2Tier, namespace: Namespace, head: Head) -> Record | None:
        parts = []
        for number in range(-(-min(head.size, MOST_BYTES) // _PART_BYTES)):
            [entry] = await tier.noted(_KIND, [_name(namespace, head.record.life, number)])
            parts.append(entry.value if entry is not None else b"")
        try:
            return head.with_body(b"".join(parts))
        except BadRecord:
            return None


def _parsed(lives: Sequence[Life], texts: Iterable[bytes]) -> dict[Life, Head]:
    """Return the heads that can be used."""
    heads: dict[Life, Head] = {}
    for life, text in zip(lives, texts, strict=True):
        try:
            head = Head.parse(text)
        except BadRecord:
            continue
        if head.record.life == life:
            heads[life] = head
    return heads


def _name(namespace: Namespace, life: Life | None = None, part: int | None = None) -> bytes:
    name = [namespace.policy.name, *(life or ()), *([str(part)] if part is not None else [])]
    return "\0".join(name).encode()
