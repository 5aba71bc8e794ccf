from __future__ import annotations

import math

import pytest

from cachenode.core.memory import Memory
from cachenode.core.policy import NamespacePolicy
from cachenode.core.store import Store
from cachenode.node.namespaces import MAX_IMPLICIT, Namespaces

BUDGET = 1 << 20


def policy(name: str, *, ttl_s: float = math.inf, max_value_bytes: int = 1_000) -> NamespacePolicy:
    return NamespacePolicy(name=name, ttl_s=ttl_s, max_value_bytes=max_value_bytes, l2=False, share=1.0)


def namespaces(*more: NamespacePolicy, strict: bool = False) -> Namespaces:
    policies = [policy("default", ttl_s=60.0), *more]
    return Namespaces(policies, Memory(BUDGET), new_store=Store, strict=strict)


def test_configured_names_have_their_policy() -> None:
    """A configured namespace is there from the start with its own policy and its own store."""
    spaces = namespaces(policy("users", ttl_s=5.0))
    users, default = spaces.get("users"), spaces.get("default")
    assert users is not None
    assert default is not None
    assert (users.policy.ttl_s, default.policy.ttl_s) == (5.0, 60.0)
    assert users.store is not default.store
    assert [space.policy.name for space in spaces] == ["default", "users"]


def test_empty_name_is_the_default() -> None:
    """No name means the default namespace."""
    spaces = namespaces()
    assert spaces.get("") is spaces.get("default")


def test_unknown_name_gets_the_defaults_policy() -> None:
    """A name that nobody configured is made at first use with the default's policy, and is the same afterwards."""
    spaces = namespaces()
    made = spaces.get("sessions")
    assert made is not None
    assert (made.policy.name, made.policy.ttl_s) == ("sessions", 60.0)
    assert spaces.get("sessions") is made


def test_strict_refuses_unknown_names() -> None:
    """With `strict` only configured names are known."""
    spaces = namespaces(policy("users"), strict=True)
    assert spaces.get("users") is not None
    assert spaces.get("sessions") is None


@pytest.mark.parametrize("name", ["a b", "x" * 1_000, "käse", "a\n", "a{b}"])
def test_names_that_are_none_are_refused(name: str) -> None:
    """What is not a namespace's name makes no namespace, and takes no place of one."""
    spaces = namespaces()
    assert spaces.get(name) is None
    assert len(list(spaces)) == 1


def test_strangers_cannot_make_names_without_end() -> None:
    """A thousand names may be made by use; those that were made go on working."""
    spaces = namespaces()
    made = [spaces.get(f"n{number}") for number in range(MAX_IMPLICIT)]
    assert all(made)
    assert spaces.get("one-more") is None
    assert spaces.get("n0") is made[0]


def test_value_may_not_take_the_whole_budget() -> None:
    """Whatever its policy says, a value may take at most a quarter of the memory budget."""
    spaces = namespaces(policy("big", max_value_bytes=1 << 30))
    big, default = spaces.get("big"), spaces.get("default")
    assert big is not None
    assert default is not None
    assert big.policy.max_value_bytes == BUDGET // 4
    assert default.policy.max_value_bytes == 1_000


def test_iteration_survives_a_new_name() -> None:
    """Duties that go over all namespaces are not disturbed by one that is made meanwhile."""
    spaces = namespaces()
    seen = []
    for space in spaces:
        spaces.get("made-meanwhile")
        seen.append(space.policy.name)
    assert seen == ["default"]
