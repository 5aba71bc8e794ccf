"""Policies of namespaces."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from cachenode.core.policy import NamespacePolicy
from cachenode_api.errors import InvalidNamespace

POLICY = NamespacePolicy("products", ttl_s=math.inf, max_value_bytes=1, l2=True, share=0.5)


@pytest.mark.parametrize("field", ["ttl_s", "max_value_bytes", "share"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_numbers_must_be_above_zero(field: str, value: float) -> None:
    """Zero, negative and undefined numbers are refused; NaN would compare false to every limit."""
    with pytest.raises(ValueError, match=f"{field}: must be above 0"):
        NamespacePolicy(**{**asdict(POLICY), field: value})


@pytest.mark.parametrize("name", ["Products", "-", "a b"])
def test_names_follow_the_contract(name: str) -> None:
    """A policy's name is a namespace that clients can ask for."""
    with pytest.raises(InvalidNamespace):
        replace(POLICY, name=name)


def test_a_policy_has_a_name() -> None:
    """An empty name, which means "default" on the wire, is no policy's name."""
    with pytest.raises(ValueError, match="needs a name"):
        replace(POLICY, name="")


def test_a_policy_does_not_change() -> None:
    """Policies are shared by everything that handles a namespace, so nobody can change one."""
    with pytest.raises(FrozenInstanceError):
        POLICY.ttl_s = 1.0  # type: ignore[misc]
