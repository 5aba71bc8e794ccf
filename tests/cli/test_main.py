from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenode.cli.main import app

TOP = Path(__file__).parents[2]
COMMANDS = [
    ["serve"],
    ["cluster"],
    ["demo"],
    ["get"],
    ["set"],
    ["delete"],
    ["invalidate"],
    ["watch"],
    ["explain"],
    ["view"],
    ["stats"],
    ["events"],
    ["events", "publish"],
    ["events", "list"],
    ["events", "test"],
    ["hotkeys"],
    ["bigkeys"],
    ["config"],
    ["config", "check"],
    ["config", "print"],
    ["config", "fields"],
]
SHOWS = ["get", "set", "delete", "invalidate", "watch", "explain", "view", "stats", "hotkeys", "bigkeys"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "TERM": "dumb"})
    return result.exit_code, result.output


def test_help_lists_commands_and_exit_codes() -> None:
    """The first thing people read names every command, gives examples, and says what the exit codes mean."""
    code, text = run("--help")
    assert code == 0
    assert all(name[0] in text for name in COMMANDS)
    assert "$ cachenode set user:7 Ada --ttl 5m" in text
    assert all(f"{number}  " in text.partition("Exit codes")[2] for number in range(5))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_teaches_by_example(command: list[str]) -> None:
    """The help of every command ends with an example of it."""
    code, text = run(*command, "--help")
    assert code == 0
    assert f"$ cachenode {' '.join(command)}" in text.replace("CACHENODE_MEMORY=2GiB ", "").partition("Examples")[2]


@pytest.mark.parametrize(
    "command", [*([name] for name in SHOWS), ["config", "check"], ["config", "print"]], ids=" ".join
)
def test_each_result_can_be_json(command: list[str]) -> None:
    """Every command that shows something takes -o json."""
    assert "--output" in run(*command, "--help")[1]


def test_unknown_command_is_wrong_usage() -> None:
    """A misspelt command ends with code 2."""
    assert run("gett")[0] == 2


def test_version_is_shown() -> None:
    """--version names the release."""
    from cachenode import __version__

    assert run("--version") == (0, f"cachenode {__version__}\n")


def test_help_loads_only_the_command_line() -> None:
    """What commands need is imported when they run, so that help and completion stay quick."""
    code = "import sys, json, cachenode.cli.main; print(json.dumps(sorted(sys.modules)))"
    paths = [str(TOP), str(TOP / "client")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded.isdisjoint({"aiohttp", "cachenode_client", "grpc", "prometheus_client", "redis", "structlog"})


def test_debug_lets_errors_through() -> None:
    """With --debug an error arrives with its traceback; without, as one line."""
    result = CliRunner().invoke(app, ["--debug", "set", "k"])
    assert type(result.exception).__name__ == "CliError"
    result = CliRunner().invoke(app, ["set", "k"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
