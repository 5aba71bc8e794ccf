from __future__ import annotations

import errno
import os

import pytest
import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.errors import CacheNodeError, ConfigError
from cachenode_client import (
    CacheError,
    CacheTimeout,
    CacheUnavailable,
    DecodeError,
    InvalidKey,
    NodeError,
)


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return exit code and standard error of a command that raises."""

    @reports
    def command(address: str = "") -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command(address="cache:7401")
    output = capsys.readouterr()
    assert output.out == ""
    return ended.value.exit_code, output.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CliError("wrong", hint="do this", code=ExitCode.NOT_FOUND), 3),
        (CacheNodeError("broken"), 1),
        (ConfigError(["a", "b"]), 2),
        (InvalidKey(), 2),
        (CacheUnavailable(reason="no_node"), 4),
        (CacheUnavailable(), 4),
        (CacheTimeout(), 4),
        (DecodeError(), 1),
        (NodeError(), 1),
        (CacheError(), 1),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "value.txt"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, BaseException) else str(part),
)
def test_errors_have_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of failure has its exit code, and none shows a traceback."""
    found, text = outcome(error, capsys)
    assert found == code
    assert "Traceback" not in text


def test_every_problem_of_a_configuration_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """All problems are listed, one a line."""
    text = outcome(ConfigError(["node.id: bad", "l2.url: bad"]), capsys)[1]
    assert "  - node.id: bad\n  - l2.url: bad\n" in text


def test_unreachable_cluster_names_the_address_and_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Who reaches nothing learns where it was tried and what to do."""
    text = outcome(CacheUnavailable(reason="no_node"), capsys)[1]
    assert "no node answers at cache:7401" in text
    assert "--address" in text


@pytest.mark.parametrize(
    ("why", "hint"),
    [
        ("TLS: the node closed the connection at once, as one does that expects TLS", "--tls-ca"),
        ("TLS: the node does not accept this client's certificate, or misses one", "--tls-cert"),
        ("what listens there talks HTTP, as a node's other port does; gRPC is at node.listen", "`node.listen`"),
        ("the node does not know the client's token", "--token-file"),
        ("UNAVAILABLE", "cachenode serve"),
    ],
)
def test_node_that_cannot_be_talked_to(why: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What to do depends on what is wrong: to start another node helps nobody whose node is there."""
    error = CacheUnavailable(f"No node can be reached. The session with a node ended: {why}. Check …", reason="no_node")
    text = outcome(error, capsys)[1]
    assert hint in text
    assert (f": {why}\n" in text) is (why != "UNAVAILABLE")


def test_unexpected_error_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in the program is named as such."""
    assert "--debug" in outcome(ZeroDivisionError("division by zero"), capsys)[1]


def test_broken_pipe_is_left_alone() -> None:
    """`cachenode stats | head` is no failure to report."""

    @reports
    def command() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        command()
