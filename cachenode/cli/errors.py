"""What people see when a command fails: one line, what to do next, and an exit code that scripts can rely on."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn, ParamSpec

import typer

if TYPE_CHECKING:
    from cachenode.errors import ConfigError

__all__ = ["CliError", "ExitCode", "not_found", "reports", "set_debug", "unreachable"]

P = ParamSpec("P")


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command.

    Args:
        text: What is wrong.
        hint: What to do next; may be empty.
        code: The exit code.
    """

    def __init__(self, text: str, *, hint: str = "", code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(text)
        self.hint = hint
        self.code = code


_NOT_THERE = (
    "Start one with `cachenode serve` or `cachenode cluster`, or name another with --address or CACHENODE_ADDRESS."
)
_HINTS = (
    ("as one does that expects TLS", "Name its authority before the command: `cachenode --tls-ca ca.pem …`."),
    ("not signed by an authority", "Name the authority that has signed it: `cachenode --tls-ca ca.pem …`."),
    ("for another name", "Say which name its certificate bears: `cachenode --tls-name NAME …`."),
    ("this client's certificate", "Show one: `cachenode --tls-ca ca.pem --tls-cert client.pem --tls-key key.pem …`."),
    ("does not talk TLS", "Leave --tls-ca and the other TLS options out, and their CACHENODE_TLS_… variables unset."),
    ("talks HTTP", "`node.listen`, which a node logs as its `address` when it starts, is the one to name."),
    ("client's token", "Name the file of a token that the nodes have in theirs: `cachenode --token-file FILE …`."),
    ("asks for a token", "Name the file of yours before the command: `cachenode --token-file FILE …`."),
    ("cannot be looked up", "Is the name in --address or CACHENODE_ADDRESS right, and is this machine's DNS?"),
)
"""What to do about a node that is there and cannot be talked to, by what is said about it."""
_WHY = re.compile(r"session with a node ended: (.*?)\. Check")


class _Settings:
    debug = False


def set_debug(*, on: bool) -> None:
    """Let errors through as they are, with their tracebacks."""
    _Settings.debug = on


def unreachable(address: str, why: str = "") -> CliError:
    """Return the error for a cluster that does not answer."""
    text = f"no node answers at {address}" + (f": {why}" if why else "")
    hint = next((hint for sign, hint in _HINTS if sign in why), _NOT_THERE)
    return CliError(text, hint=hint, code=ExitCode.UNREACHABLE)


def not_found() -> CliError:
    """Return the error for an absent key. Keys stay out of errors, which end up in logs."""
    return CliError("there is no such key", code=ExitCode.NOT_FOUND)


def reports(function: Callable[P, None]) -> Callable[P, None]:
    """Make a function a command: what it raises becomes a line on standard error and an exit code."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:
            if _Settings.debug:
                raise
            _end(_explained(error, str(kwargs.get("address", ""))))

    command.__doc__ = _unwrapped(inspect.getdoc(function) or "")
    return command


def _unwrapped(text: str) -> str:
    """Return a docstring with one line a paragraph; help would keep the line breaks of the source otherwise."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _end(error: CliError) -> NoReturn:
    print(f"cachenode: {error}", file=sys.stderr)  # noqa: T201 - the command line's own output
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(error.code)


def _explained(error: Exception, address: str) -> CliError:
    """Return what any exception means to the person at the terminal."""
    from cachenode.errors import CacheNodeError, ConfigError

    if isinstance(error, CliError):
        return error
    if isinstance(error, ConfigError):
        return _of_config(error)
    if isinstance(error, CacheNodeError):
        return CliError(str(error))
    if isinstance(error, OSError) and error.strerror and not isinstance(error, TimeoutError):
        place = f"{error.filename}: " if error.filename else ""
        return CliError(f"{place}{error.strerror}")
    return _of_client(error, address) or CliError(
        f"unexpected {type(error).__name__}: {error}",
        hint="This is a mistake in cachenode. `cachenode --debug …` shows where it happened; please report it.",
    )


def _of_config(error: ConfigError) -> CliError:
    count = len(error.problems)
    heading = "the configuration has a problem" if count == 1 else f"the configuration has {count} problems"
    lines = "".join(f"\n  - {problem}" for problem in error.problems)
    hint = "`cachenode config fields` lists every setting."
    return CliError(f"{heading}:{lines}", hint=hint, code=ExitCode.USAGE)


def _of_client(error: Exception, address: str) -> CliError | None:
    from cachenode_client import CacheError, CacheTimeout, CacheUnavailable, InvalidArgument

    if isinstance(error, InvalidArgument):
        hint = (
            "--tls-ca, --tls-cert and --tls-key, before the command, name the files."
            if str(error)[:4] == "tls:"
            else ""
        )
        return CliError(str(error), hint=hint, code=ExitCode.USAGE)
    if isinstance(error, CacheTimeout):
        text = "no answer in time; a write may or may not have happened"
        return CliError(text, hint="--timeout gives the cluster longer.", code=ExitCode.UNREACHABLE)
    if isinstance(error, CacheUnavailable):
        if error.reason == "no_node":
            why = _WHY.search(str(error))
            return unreachable(address, why[1] if why and not why[1].isupper() else "")
        return CliError(_lower_first(str(error)), hint="Try again in a moment.", code=ExitCode.UNREACHABLE)
    if isinstance(error, CacheError):
        return CliError(_lower_first(str(error)))
    return None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
