"""Makes a run depend on its seed alone: sets keep the order of insertion, objects hash by number, dice are seeded.

The node and the SDK go through sets of objects here and there, where any order is right. But the order comes from
addresses and from the hash seed of strings, so two runs of one seed would differ.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, MutableSet
from contextlib import ExitStack
from random import Random
from types import ModuleType
from typing import Any, Self
from unittest.mock import patch

import cachenode.adapters.peer_links
import cachenode.adapters.registry_leases
import cachenode.adapters.registry_redis
import cachenode.node.invalidations
import cachenode.node.namespaces
import cachenode.node.origins
import cachenode.node.seed_membership
import cachenode.node.writes
import cachenode.rpc.guard
import cachenode.rpc.session
import cachenode.server
import cachenode_client._engine
import cachenode_client._router
from tests.sim.loop import HOST

__all__ = ["fix_order"]

_WITH_SETS = (cachenode.adapters.peer_links, cachenode_client._router)
_WITH_NUMBERS = (
    (cachenode.rpc.session, "_Session"),
    (cachenode_client._router, "Session"),
    (cachenode.adapters.peer_links, "Link"),
    (cachenode.node.invalidations, "Holder"),
)


class OrderedSet(MutableSet[Any]):
    """A set in the order of insertion. What comes from a common set comes sorted."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items: dict[Any, None] = {}
        self.update(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        self._items[value] = None

    def discard(self, value: Any) -> None:
        self._items.pop(value, None)

    def update(self, items: Iterable[Any]) -> None:
        self._items.update(dict.fromkeys(sorted(items) if type(items) in {set, frozenset} else items))

    def difference_update(self, items: Iterable[Any]) -> None:
        for item in items:
            self._items.pop(item, None)

    def union(self, *others: Iterable[Any]) -> OrderedSet:
        joined = OrderedSet(self)
        for other in others:
            joined.update(other)
        return joined

    def __ior__(self, other: Iterable[Any]) -> Self:
        self.update(other)
        return self

    def __or__(self, other: Iterable[Any]) -> OrderedSet:
        return self.union(other)

    def __sub__(self, other: Iterable[Any]) -> OrderedSet:
        rest = OrderedSet(self)
        rest.difference_update(other)
        return rest

    def __rsub__(self, other: Iterable[Any]) -> OrderedSet:
        return OrderedSet(other) - self


def _numbered(kind: type, numbers: Iterator[int]) -> type:
    """Return a class whose objects hash by a number of their own."""

    class Numbered(kind):
        __slots__ = ("_number",)

        def __init__(self, *args: Any, **named: Any) -> None:
            self._number = next(numbers)
            super().__init__(*args, **named)

        def __hash__(self) -> int:
            return int(self._number)

        def __eq__(self, other: object) -> bool:
            return self is other

    Numbered.__name__ = kind.__name__
    Numbered.__qualname__ = kind.__qualname__
    return Numbered


_Random = Random
"""Its name where `_Dice.Random` hides it."""


class _Dice:
    """Takes the place of the module `random`: every generator is seeded, by its host and number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made = itertools.count()
        self._shared: dict[str, Random] = {}

    def Random(self) -> Random:  # noqa: N802 - the name in the module
        host = HOST.get()
        return Random(f"{self._seed} {host.name if host else ''} {next(self._made)}")

    def _of_host(self) -> _Random:
        host = HOST.get()
        name = host.name if host else ""
        if name not in self._shared:
            self._shared[name] = Random(f"{self._seed} shared {name}")
        return self._shared[name]

    def uniform(self, low: float, high: float) -> float:
        return self._of_host().uniform(low, high)

    def random(self) -> float:
        return self._of_host().random()

    def expovariate(self, rate: float) -> float:
        return self._of_host().expovariate(rate)

    def randrange(self, *bounds: int) -> int:
        return self._of_host().randrange(*bounds)

    def getrandbits(self, bits: int) -> int:
        return self._of_host().getrandbits(bits)


class _Secrets:
    """Takes the place of the module `secrets`."""

    def __init__(self) -> None:
        self._made = itertools.count(1)

    def token_hex(self, size: int) -> str:
        return f"{next(self._made):0{2 * size}x}"

    def token_bytes(self, size: int) -> bytes:
        return next(self._made).to_bytes(size, "big")


def fix_order(stack: ExitStack, seed: int) -> None:
    """Patch what would otherwise differ from run to run, until the stack is closed."""

    def put(module: ModuleType, name: str, value: Any) -> None:
        stack.enter_context(patch.object(module, name, value, create=True))

    for module in _WITH_SETS:
        put(module, "set", OrderedSet)
    numbers = itertools.count(1)
    for module, name in _WITH_NUMBERS:
        put(module, name, _numbered(getattr(module, name), numbers))
    stand_ins = {"random": _Dice(seed), "secrets": _Secrets()}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in {"cachenode", "cachenode_client"}:
            for used, stand_in in stand_ins.items():
                if getattr(module, used, None) is sys.modules[used]:
                    put(module, used, stand_in)
    for registry in (cachenode.adapters.registry_leases, cachenode.adapters.registry_redis):
        put(registry, "new_seed", lambda: b"simulated-seed-0")
