"""Settings that change while a node runs: who follows them, from when on, and what becomes of what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from cachenode.adapters.policies_memory import MemoryPolicies
from cachenode.core.entries import Batch, Operation
from cachenode.core.live_policy import LivePolicy
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import ConfigError
from cachenode.node.live_policies import LivePolicies
from cachenode.node.service import Node
from cachenode_api.records import HEADER, HEADER_BYTES, STALE
from tests.support.clock import ManualClock
from tests.support.cluster import fetch, new_node, put, run
from tests.support.origin import ScriptedLoader, origin_of

K = b"k"
CONFIGURED = {
    "default": NamespacePolicy(name="default", ttl_s=10.0, max_value_bytes=100, l2=False, share=1),
    "users": NamespacePolicy(name="users", ttl_s=10.0, max_value_bytes=100, l2=False, share=1, origin="o"),
}


def resolve(name: str, live: Mapping[str, LivePolicy]) -> NamespacePolicy:
    """Make a policy as the configuration does, of numbers alone."""
    names = [name] if name in CONFIGURED else ["default", name]
    texts = {field: text for each in names if each in live for field, text in live[each].fields.items()}
    if "bad" in texts:
        raise ConfigError(["bad: there is no such setting"])
    base = replace(CONFIGURED.get(name, CONFIGURED["default"]), name=name)
    changes: dict[str, Any] = {field: float(text) for field, text in texts.items()}
    return replace(base, **changes)


class Rig:
    """A node, its origin, and its changed settings."""

    def __init__(self, store: MemoryPolicies | None = None) -> None:
        self.clock = ManualClock()
        self.loader = ScriptedLoader()
        self.node: Node = new_node(
            "a", self.clock, policies=[*CONFIGURED.values()], origins={"o": origin_of(self.loader, self.clock)}
        )
        self.live = LivePolicies(self.node.namespaces, self.clock, resolve, store)

    def change(self, name: str = "users", **fields: str) -> None:
        self.live.adopt(name, self.live.of(name).changed(fields))

    async def read(self, key: bytes = K) -> tuple[bytes, bool] | None:
        """Return a value and whether it is marked stale."""
        [record] = (await run(self.node, Batch(Operation.GET, "users", [key]))).records
        return (record[HEADER_BYTES:], bool(HEADER.unpack_from(record)[1] & STALE)) if record else None

    def space(self, name: str = "users") -> Any:
        return self.node.namespaces.get(name)


async def test_change_is_for_what_is_stored_afterwards() -> None:
    """What is here keeps its life; what comes has the new one."""
    rig = Rig()
    await put(rig.node, b"old", b"v", namespace="users")
    rig.change(ttl_s="1")
    await put(rig.node, b"new", b"v", namespace="users")
    rig.clock.advance(2.0)
    assert await fetch(rig.node, b"old", "users") == b"v"
    assert rig.node.namespaces.get("users").store.peek(b"new", rig.clock.now()) is None
    assert rig.space().policy_version == 1


async def test_largest_value_changes() -> None:
    """A limit holds from then on."""
    rig = Rig()
    rig.change(max_value_bytes="3")
    assert (await put(rig.node, K, b"four", namespace="users")).failures
    assert not (await put(rig.node, K, b"v", namespace="users")).failures


async def test_stale_values_can_be_switched_on() -> None:
    """What is loaded from then on is served past its TTL, marked, while it is loaded anew."""
    rig = Rig()
    rig.loader.put(K, b"v")
    rig.change(stale_s="5")
    assert await rig.read() == (b"v", False)
    rig.clock.advance(11.0)
    rig.loader.gate.clear()
    assert await rig.read() == (b"v", True)
    rig.loader.gate.set()
    await rig.node.read_through.close()


async def test_values_stored_before_are_still_marked() -> None:
    """Switched off, what was stored to be served stale is marked until it is gone; what comes has one end."""
    rig = Rig()
    rig.change(stale_s="5")
    rig.loader.put(K, b"v")
    await rig.read()
    rig.change(stale_s="0")
    assert rig.space().looks
    rig.clock.advance(11.0)
    rig.loader.gate.clear()
    assert await rig.read() == (b"v", True)
    rig.loader.gate.set()
    await rig.node.read_through.close()


async def test_switched_off_is_free_again() -> None:
    """With nothing left from before, reads are not looked at any more."""
    rig = Rig()
    rig.change(refresh_ahead="0.5")
    assert (rig.space().looks, rig.space().look_at) == (True, -1)
    rig.change(refresh_ahead="0")
    assert (rig.space().looks, rig.space().look_at) == (False, rig.space().sample_at)


async def test_absences_can_be_switched_on_and_off() -> None:
    """Believed for as long as the policy says when they are found; not at all once it says so."""
    rig = Rig()
    rig.change(negative_ttl_s="60")
    assert await rig.read() is None
    rig.loader.put(K, b"v")
    assert await rig.read() is None
    rig.change(negative_ttl_s="0")
    assert await rig.read() == (b"v", False)


async def test_holdoff_can_be_switched_on() -> None:
    """What was removed before is held off too: nobody noted it."""
    rig = Rig()
    rig.loader.put(K, b"v")
    await run(rig.node, Batch(Operation.INVALIDATE, "users", [K]))
    rig.change(holdoff_s="2")
    await rig.read()
    await rig.read()
    assert len(rig.loader.calls) == 2
    rig.clock.advance(3.0)
    await rig.read()
    await rig.read()
    assert len(rig.loader.calls) == 3


async def test_followers_of_default() -> None:
    """Namespaces without a table follow its changes, made already or later; their own go before."""
    rig = Rig()
    assert rig.space("made").policy.ttl_s == 10.0
    rig.change("later", stale_s="3")
    rig.change("default", ttl_s="1", stale_s="2")
    assert (rig.space("made").policy.ttl_s, rig.space("made").policy.stale_s) == (1.0, 2.0)
    assert (rig.space("later").policy.ttl_s, rig.space("later").policy.stale_s) == (1.0, 3.0)
    assert (rig.space("later").policy_version, rig.space("third").policy.ttl_s) == (1, 1.0)
    assert rig.space("users").policy.ttl_s == 10.0


async def test_refused_change_changes_nothing() -> None:
    """Neither the namespace nor those that follow it."""
    rig = Rig()
    rig.change("follower", ttl_s="3")
    for name in ("users", "default"):
        with pytest.raises(ConfigError, match="bad"):
            rig.change(name, ttl_s="1", bad="1")
    assert rig.live.of("users") == LivePolicy()
    assert (rig.space().policy.ttl_s, rig.space("default").policy.ttl_s) == (10.0, 10.0)


async def test_older_change_is_not_followed() -> None:
    """A change that comes late, or twice, does nothing."""
    rig = Rig()
    rig.live.adopt("users", LivePolicy(2, {"ttl_s": "2"}))
    assert not rig.live.adopt("users", LivePolicy(1, {"ttl_s": "1"}))
    assert not rig.live.adopt("users", LivePolicy(2, {"ttl_s": "2"}))
    assert rig.space().policy.ttl_s == 2.0


async def test_node_that_starts_later_follows() -> None:
    """It looks into the store, and again now and then; a store that is away does not keep it from starting."""
    store = MemoryPolicies()
    first, second = Rig(store), Rig(store)
    store.down = True
    await second.live.start()
    store.down = False
    first.change(ttl_s="1")
    assert await first.live.keep("users")
    assert second.space().policy.ttl_s == 10.0
    await second.live._look(store)
    assert second.space().policy.ttl_s == 1.0
    third = Rig(store)
    await third.live.start()
    assert third.space().policy.ttl_s == 1.0
    for rig in (second, third):
        await rig.live.stop()


async def test_store_that_lost_its_history() -> None:
    """It gets back what the nodes follow, also that everything was reset."""
    rig = Rig(store := MemoryPolicies())
    rig.change(ttl_s="1")
    rig.live.adopt("users", rig.live.of("users").changed({}, None))
    await rig.live._look(store)
    assert await store.read() == {"users": LivePolicy(2)}


async def test_two_changes_at_a_moment() -> None:
    """Made at two nodes under the same version: both end with the greater one, in whatever order they hear of it."""
    store = MemoryPolicies()
    one, other = Rig(store), Rig(store)
    one.change(ttl_s="1")
    other.change(ttl_s="2")
    assert await one.live.keep("users")
    assert await other.live.keep("users")
    await one.live._look(store)
    assert [rig.space().policy.ttl_s for rig in (one, other)] == [2.0, 2.0]


async def test_change_that_comes_too_late() -> None:
    """The store has a newer one: that is followed."""
    rig = Rig(store := MemoryPolicies())
    await store.put("users", LivePolicy(5, {"ttl_s": "5"}))
    rig.change(ttl_s="1")
    assert await rig.live.keep("users")
    assert rig.live.of("users") == LivePolicy(5, {"ttl_s": "5"})


async def test_change_that_this_node_cannot_follow() -> None:
    """It is left out, and does not keep the node from following others."""
    store = MemoryPolicies()
    await store.put("users", LivePolicy(1, {"bad": "1"}))
    await store.put("carts", LivePolicy(1, {"ttl_s": "1"}))
    rig = Rig(store)
    await rig.live._look(store)
    await rig.live._look(store)
    assert (rig.space().policy.ttl_s, rig.space("carts").policy.ttl_s) == (10.0, 1.0)
    store.down = True
    assert not await rig.live.keep("carts")
    assert not await Rig().live.keep("carts")


async def test_store_that_cannot_be_reached_is_said_once_aloud() -> None:
    """Who has misspelled a URL sees a warning; a store that stays away does not fill the log with them."""
    rig = Rig(store := MemoryPolicies())
    levels = []
    for store.down in (True, True, False, True):
        with capture_logs() as logs:
            await rig.live._look(store)
        levels.append([line["log_level"] for line in logs if line["event"] == "policies_unknown"])
    assert levels == [["warning"], ["info"], [], ["warning"]]
