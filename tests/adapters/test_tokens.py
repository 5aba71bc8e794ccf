"""The file of tokens: what is wrong with it, and how changes come into force."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cachenode.adapters.tokens import TokenFile, read_secret
from cachenode.core.access import Role, hash_of
from cachenode.errors import ConfigError

GOOD = f'[[token]]\nname = "shop"\nsha256 = "{hash_of("s")}"\nrole = "write"\nnamespaces = ["users"]\n'


def test_file_is_read(tmp_path: Path) -> None:
    """Each table is a grant; an empty file lets nobody in."""
    file = tmp_path / "tokens.toml"
    file.write_text(GOOD)
    grant = TokenFile(str(file)).grants().of("s")
    assert grant is not None
    assert (grant.name, grant.role, grant.namespaces) == ("shop", Role.WRITE, frozenset({"users"}))
    assert grant.keys_per_s == 0
    file.write_text(GOOD + "keys_per_s = 7.5\n")
    limited = TokenFile(str(file)).grants().of("s")
    assert limited is not None
    assert limited.keys_per_s == 7.5
    file.write_text("")
    assert len(TokenFile(str(file)).grants()) == 0


def test_every_problem_is_told(tmp_path: Path) -> None:
    """Tables are named by their number, and no hash is repeated."""
    file = tmp_path / "tokens.toml"
    file.write_text(
        GOOD
        + '[[token]]\nsha256 = "ABC"\nrole = "king"\nnamespaces = ["no such!"]\nnmae = 1\nkeys_per_s = -1\n[other]\n'
    )
    with pytest.raises(ConfigError) as caught:
        TokenFile(str(file))
    assert list(caught.value.problems) == [
        "auth.tokens_file: there is no such table: other",
        "auth.tokens_file: token 2: nmae: there is no such field",
        "auth.tokens_file: token 2: name: must be a text",
        "auth.tokens_file: token 2: sha256: must be 64 hexadecimal digits in lower case",
        "auth.tokens_file: token 2: role: must be one of read, write, admin, peer",
        "auth.tokens_file: token 2: keys_per_s: must be a number, 0 to 1,000,000,000",
        "auth.tokens_file: token 2: namespaces: holds what is no namespace's name",
    ]
    for content in ("token = 1", "[[token", "\x00"):
        file.write_text(content)
        with pytest.raises(ConfigError):
            TokenFile(str(file))


def test_changes_come_into_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second after a change it holds; a file that cannot be used changes nothing."""
    now = [100.0]
    monkeypatch.setattr("cachenode.adapters.tokens.time.monotonic", lambda: now[0])
    file = tmp_path / "tokens.toml"
    file.write_text(GOOD)
    tokens = TokenFile(str(file))
    file.write_text(GOOD.replace(hash_of("s"), hash_of("new")))
    os.utime(file, ns=(1, 1))
    assert tokens.grants().of("new") is None, "it looks once a second"
    now[0] += 1
    assert tokens.grants().of("new") is not None
    assert tokens.grants().of("s") is None
    file.write_text("[[token")
    now[0] += 1
    assert tokens.grants().of("new") is not None
    file.unlink()
    now[0] += 1
    assert tokens.grants().of("new") is not None


def test_secret_of_a_file(tmp_path: Path) -> None:
    """White space around it is none of it; an empty file is a problem that names the setting."""
    file = tmp_path / "token"
    file.write_text(" s\n")
    assert read_secret("auth.peer_token_file", str(file)) == "s"
    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"auth\.peer_token_file: holds nothing"):
        read_secret("auth.peer_token_file", str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret("auth.peer_token_file", str(tmp_path / "absent"))


def test_certificates_are_read(tmp_path: Path) -> None:
    """Their tables stand beside those of tokens, in the order in which they are tried."""
    file = tmp_path / "tokens.toml"
    table = '[[certificate]]\nname = "{}"\nsan = "{}"\nrole = "read"\n'
    file.write_text(GOOD + table.format("one", "a.example.org") + table.format("all", "*.example.org"))
    grants = TokenFile(str(file)).grants()
    assert (len(grants), grants.certificates) == (3, 2)
    assert [grants.of_names([name]).name for name in ("a.example.org", "b.example.org")] == ["one", "all"]
    assert grants.of_names(["example.org"]) is None
    file.write_text(table.format("x", "*") + '[[certificate]]\nname = "y"\nrole = "read"\nsha256 = "0"\n')
    with pytest.raises(ConfigError) as caught:
        TokenFile(str(file))
    assert len(caught.value.problems) == 3
    assert "certificate 1: san: " in caught.value.problems[0]
