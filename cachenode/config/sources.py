"""Where configuration values come from: flags, environment variables and a TOML file, merged, each with its source.

Sources only find out which field a text is meant for. Whether the value is any good is for the model, so that one bad
value does not hide the next. Nothing here repeats a value: it may be a password.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from cachenode.config.model import NodeConfig
from cachenode.config.namespaces import NamespaceConfig
from cachenode.config.origins import OriginConfig
from cachenode_api.errors import InvalidNamespace
from cachenode_api.keys import check_namespace

__all__ = [
    "FILE_VARIABLE",
    "FLAGS",
    "NAMED",
    "SHORT_VARIABLES",
    "FieldPath",
    "Merged",
    "did_you_mean",
    "dotted",
    "field_paths",
    "variable",
]

FieldPath = tuple[str, ...]
NAMED: Mapping[str, type[BaseModel]] = MappingProxyType({"namespaces": NamespaceConfig, "origins": OriginConfig})
"""The sections that are tables by name, and what each table holds."""

PREFIX = "CACHENODE_"
FILE_VARIABLE = "CACHENODE_CONFIG"

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "node.id": "--node-id",
        "node.listen": "--listen",
        "node.advertise": "--advertise",
        "node.http_listen": "--http-listen",
        "node.insecure": "--insecure",
        "node.reflection": "--reflection",
        "cluster.name": "--cluster-name",
        "cluster.discovery": "--discovery",
        "cluster.seeds": "--seed",
        "cluster.dns_name": "--dns-name",
        "memory.max_bytes": "--memory",
        "memory.policy": "--policy",
        "l2.url": "--l2-url",
        "log.level": "--log-level",
        "log.format": "--log-format",
    }
)
"""The flag of each field that has one."""

SHORT_VARIABLES: Mapping[str, FieldPath] = MappingProxyType(
    {"CACHENODE_L2_URL": ("l2", "url"), "CACHENODE_MEMORY": ("memory", "max_bytes")}
)
"""Environment variables besides the regular ones, for what is set most often."""

# Kubernetes gives every container such variables for every Service of its namespace, so one called cachenode sets
# CACHENODE_PORT=tcp://10.0.0.1:7401. They are nobody's configuration.
_SERVICE_LINK = re.compile(
    r"CACHENODE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


@cache
def field_paths() -> tuple[FieldPath, ...]:
    """Return the path of every field; "*" stands for the name of a namespace or origin."""
    paths: list[FieldPath] = []
    for name, info in NodeConfig.model_fields.items():
        if name in NAMED:
            paths += [(name, "*", inner) for inner in NAMED[name].model_fields]
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            paths += [(name, inner) for inner in info.annotation.model_fields]
        else:
            paths.append((name,))
    return tuple(paths)


def _general(path: FieldPath) -> FieldPath:
    return (path[0], "*", *path[2:]) if len(path) > 1 and path[0] in NAMED else path


def dotted(path: FieldPath) -> str:
    """Return a path as people write it: node.listen."""
    return ".".join(path)


def variable(path: FieldPath) -> str:
    """Return the environment variable of a path: CACHENODE_NODE__LISTEN."""
    return PREFIX + "__".join(part.upper() for part in path)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a sentence about an unknown name."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass(slots=True)
class Merged:
    """Values of several sources, later ones over earlier ones.

    Attributes:
        tree: The values, as nested dictionaries.
        origins: Where the value of each path comes from, for people.
        problems: What could not be told apart or read.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[FieldPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, path: FieldPath, value: object, origin: str) -> None:
        """Set the value of a known path; a table with a bad name becomes a problem."""
        if path[0] in NAMED and not self._add_named(path[0], path[1], origin):
            return
        here = self.tree
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here[path[-1]] = value
        self.origins[path] = origin

    def drop(self, path: FieldPath) -> None:
        """Take the value of a path out again, so that its default applies."""
        here = self.tree
        for part in path[:-1]:
            here = here[part]
        del here[path[-1]]

    def add_file(self, path: Path) -> None:
        """Take the values of a TOML file."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror or type(error).__name__}")
        except UnicodeDecodeError:
            self.problems.append(f"{path}: is not UTF-8 text")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{path}: is not valid TOML: {error}")
        else:
            self._add_table(table, (), f"file {path}")

    def _add_table(self, table: Mapping[str, object], prefix: FieldPath, file: str) -> None:
        here = f"{file} [{dotted(prefix)}]" if prefix else file
        depth = len(prefix)
        inside = [path for path in field_paths() if path[:depth] == _general(prefix)]
        known = {path[depth]: len(path) == depth + 1 for path in inside}
        for key, value in table.items():
            path = (*prefix, key)
            is_value = known.get("*" if "*" in known else key)
            if is_value is None:
                hint = did_you_mean(key, known)
                self.problems.append(f"{dotted(path)}: there is no such setting ({here}){hint}")
            elif is_value:
                self.put(path, value, here)
            elif isinstance(value, dict):
                if not depth or self._add_named(prefix[0], key, here):
                    self._add_table(value, path, file)
            else:
                self.problems.append(f"{dotted(path)}: must be a table, [{dotted(path)}] ({here})")

    def _add_named(self, section: str, name: str, origin: str) -> bool:
        try:
            check_namespace(name or "-")
        except InvalidNamespace as error:
            self.problems.append(f"{section}.{name}: {error} ({origin})")
            return False
        self.tree.setdefault(section, {}).setdefault(name, {})  # a table may be empty
        return True

    def add_environment(self, environ: Mapping[str, str], *, ignore: Collection[str]) -> None:
        """Take the values of the variables that begin with CACHENODE_.

        Args:
            environ: The environment.
            ignore: Variables that others read.
        """
        paths = {variable(path): path for path in field_paths() if "*" not in path}
        for name in sorted(environ):
            if (
                not name.startswith(PREFIX)
                or name == FILE_VARIABLE
                or name in ignore
                or _is_service_link(name, environ[name])
            ):
                continue
            path = SHORT_VARIABLES.get(name) or paths.get(name) or _named_path(name)
            if path is None:
                hint = did_you_mean(name, [*paths, *SHORT_VARIABLES, FILE_VARIABLE, *ignore])
                self.problems.append(f"{name}: there is no such setting (environment){hint}")
            elif name in SHORT_VARIABLES and environ.get(variable(path), environ[name]) != environ[name]:
                self.problems.append(
                    f"{dotted(path)}: {name} and {variable(path)} differ (environment); keep one of them"
                )
            else:
                self.put(path, environ[name], f"environment {name}")

    def add_flags(self, flags: Mapping[str, object]) -> None:
        """Take the values of flags, by dotted path; None means that the flag was not given.

        Raises:
            ValueError: There is no such path, which is a mistake in the program.
        """
        for name, value in flags.items():
            path = tuple(name.split("."))
            if _general(path) not in field_paths():
                raise ValueError(f"flags: there is no setting {name}")
            if value is not None:
                self.put(path, value, f"flag {FLAGS.get(name, f'--{name}')}")


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.match(name) or (name.endswith("_PORT") and _SERVICE_URL.match(value)))


def _named_path(name: str) -> FieldPath | None:
    parts = tuple(name.removeprefix(PREFIX).lower().split("__"))
    return parts if len(parts) == 3 and parts[1] and _general(parts) in field_paths() else None
