"""The file of tokens and certificates, and the token that a node shows to its peers; read again when they have changed.

::

    [[token]]
    name = "shop"                 # for logs
    sha256 = "9f86d08…"           # of the token, as `cachenode token` writes it
    role = "write"                # read, write, admin or peer
    namespaces = ["users"]        # the only ones; without it all
    keys_per_s = 2000             # what its bearers may ask a node for; without it limits.client_keys_per_s

    [[certificate]]
    name = "billing"
    san = "spiffe://example.org/billing/*"   # or a DNS name; * is one label, or one segment of the path
    role = "read"

A certificate counts where a call shows no token, and `tls.verify_clients` says that one is asked for.
While a changed file cannot be used, what was read before stays in force.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from cachenode.core.access import Grant, Grants, Role, check_pattern
from cachenode.errors import ConfigError
from cachenode_api.errors import InvalidNamespace
from cachenode_api.keys import check_namespace

__all__ = ["TokenFile", "read_secret"]

_log = structlog.get_logger(__name__)

_LOOK_S = 1.0
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_FIELDS = {"name", "role", "namespaces", "keys_per_s"}
_MOST_PER_S = 1_000_000_000
_KINDS = {"token": "sha256", "certificate": "san"}
"""The tables, and what each is known by."""


class TokenFile:
    """Tokens, as their file has them.

    Args:
        path: Of the file.

    Raises:
        ConfigError: It cannot be read, or is not valid. It carries every problem; none repeats a hash.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._stamp = self._looked_at()
        self._grants = _read(self._path)
        self._next_look = time.monotonic() + _LOOK_S

    def grants(self) -> Grants:
        """Return the grants in force. Looks at the file once a second at most."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_S
            self._follow()
        return self._grants

    def _follow(self) -> None:
        try:
            stamp = self._looked_at()
            if stamp == self._stamp:
                return
            self._grants = _read(self._path)
        except ConfigError as error:
            _log.warning("tokens_not_renewed", problems=len(error.problems))
            return
        self._stamp = stamp
        _log.info("tokens_renewed", entries=len(self._grants))

    def _looked_at(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigError([f"auth.tokens_file: cannot be read ({error.strerror})"]) from None
        return status.st_mtime_ns, status.st_size


def read_secret(setting: str, path: str) -> str:
    """Return the secret that a file holds, without the white space around it.

    Raises:
        ConfigError: The file cannot be read, or holds nothing.
    """
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError([f"{setting}: cannot be read"]) from None
    if not secret:
        raise ConfigError([f"{setting}: holds nothing"])
    return secret


def _read(path: Path) -> Grants:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"auth.tokens_file: is no TOML file that can be read ({type(error).__name__})"]) from None
    problems = [f"auth.tokens_file: there is no such table: {name}" for name in document if name not in _KINDS]
    grants: dict[str, list[tuple[str, Grant]]] = {}
    for kind, field in _KINDS.items():
        entries = document.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError([f"auth.tokens_file: {kind} must be tables: [[{kind}]]"])
        grants[kind] = []
        for number, entry in enumerate(entries, start=1):
            found = _problems(entry, field)
            problems += [f"auth.tokens_file: {kind} {number}: {problem}" for problem in found]
            if not found:
                role = Role[entry["role"].upper()]
                names, rate = frozenset(entry.get("namespaces", ())), float(entry.get("keys_per_s", 0))
                grant = Grant(entry["name"], role, names, rate)
                grants[kind].append((entry[field], grant))
    if problems:
        raise ConfigError(problems)
    return Grants(grants["token"], grants["certificate"])


def _problems(entry: Mapping[str, Any], known_by: str) -> list[str]:
    problems = [f"{field}: there is no such field" for field in sorted(entry.keys() - _FIELDS - {known_by})]
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        problems.append("name: must be a text")
    if known_by == "san":
        san = entry.get("san")
        if text := check_pattern(san) if isinstance(san, str) else "must be a text":
            problems.append(f"san: {text}")
    elif not isinstance(entry.get("sha256"), str) or not _HASH.match(entry["sha256"]):
        problems.append("sha256: must be 64 hexadecimal digits in lower case")
    role = entry.get("role")
    if not isinstance(role, str) or role.upper() not in Role.__members__:
        problems.append(f"role: must be one of {', '.join(each.name.lower() for each in Role)}")
    rate = entry.get("keys_per_s", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= _MOST_PER_S:
        problems.append(f"keys_per_s: must be a number, 0 to {_MOST_PER_S:,}")
    namespaces = entry.get("namespaces", [])
    if not isinstance(namespaces, list) or not all(isinstance(name, str) for name in namespaces):
        return [*problems, "namespaces: must be a list of names"]
    for name in namespaces:
        try:
            check_namespace(name)
        except InvalidNamespace:
            problems.append("namespaces: holds what is no namespace's name")
    return problems
