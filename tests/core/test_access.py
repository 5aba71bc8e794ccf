from __future__ import annotations

import pytest

from cachenode.core.access import Grant, Grants, Role, check_pattern, hash_of, name_fits


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


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("db.example.org", ["db.example.org", "DB.Example.org"], ["xdb.example.org", "db.example.org.", "db"]),
        ("*.example.org", ["a.example.org"], ["example.org", "a.b.example.org", ".example.org", "aexample.org"]),
        ("10.0.0.7", ["10.0.0.7"], ["10.0.0.70", "spiffe://10.0.0.7"]),
        ("spiffe://x/ns/*/sa/web", ["spiffe://x/ns/a/sa/web"], ["spiffe://x/ns//sa/web", "spiffe://x/ns/a/b/sa/web"]),
        ("spiffe://x/*", ["spiffe://x/a"], ["spiffe://x/", "spiffe://x", "spiffe://y/a", "SPIFFE://x/a", "x/a"]),
    ],
)
def test_names_of_certificates(pattern: str, names: list[str], others: list[str]) -> None:
    """A star is one whole label, or one whole segment; everything else is compared as it is."""
    assert not check_pattern(pattern)
    assert [name for name in names if not name_fits(pattern, name)] == []
    assert [name for name in others if name_fits(pattern, name)] == []


@pytest.mark.parametrize(
    "pattern", ["", "*", "*.org", "a*.example.org", "a.*.org", "spiffe://*/a", "*://x", "a b", "x\n"]
)
def test_patterns_that_are_too_wide(pattern: str) -> None:
    """Nothing lets everybody in by a slip."""
    assert check_pattern(pattern)
