from __future__ import annotations

import pytest

from cachenode.core.access import Grant, Grants, Role, hash_of


def test_tokens_are_found_by_their_hash() -> None:
    """A token gives its own grant, and anything else none."""
    shop = Grant("shop", Role.WRITE)
    grants = Grants([(hash_of("secret"), shop)])
    assert grants.of("secret") is shop
    assert grants.of("secret ") is None
    assert grants.of(hash_of("secret")) is None, "who has read the file has no token"
    assert "secret" not in repr(grants)


@pytest.mark.parametrize("role", list(Role))
def test_roles_include_those_before_them(role: Role) -> None:
    """Each role allows what it is named for and what lies below, and nothing above."""
    grant = Grant("x", role)
    assert [grant.allows(each, "n") for each in Role] == [each <= role for each in Role]


def test_grants_for_some_namespaces() -> None:
    """Others are closed, and so is what concerns all of them at once."""
    grant = Grant("x", Role.ADMIN, frozenset({"users"}))
    assert grant.allows(Role.WRITE, "users")
    assert not grant.allows(Role.READ, "carts")
    assert not grant.allows(Role.READ, None)
