from __future__ import annotations

import json
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from cachenode.cli.main import app
from cachenode.config import fields_help


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["config", *arguments], env=environ)
    return result.exit_code, result.output


def test_valid_configuration() -> None:
    """A configuration without problems is called valid."""
    assert run("check") == (0, "The configuration is valid.\n")
    assert json.loads(run("check", "-o", "json")[1]) == {"valid": True, "problems": []}


def test_problems_are_listed(tmp_path: Path) -> None:
    """Problems end with code 2, as text and as JSON."""
    file = tmp_path / "node.toml"
    file.write_text('[node]\nlisten = "x"\nwight = 2\n')
    code, text = run("check", "--config", str(file))
    assert code == 2
    assert "the configuration has 2 problems" in text
    code, text = run("check", "--config", str(file), "-o", "json")
    assert code == 2
    document = json.loads(text)
    assert document["valid"] is False
    assert len(document["problems"]) == 2


def test_printed_configuration_can_be_read_again(tmp_path: Path) -> None:
    """What print writes is a configuration file with the same meaning."""
    code, text = run("print", CACHENODE_MEMORY="1GiB")
    assert code == 0
    assert tomllib.loads(text)["memory"]["max_bytes"] == "1GiB"
    file = tmp_path / "node.toml"
    file.write_text(text)
    assert run("print", "--config", str(file)) == (0, text)
    assert json.loads(run("print", "-o", "json", CACHENODE_MEMORY="1GiB")[1]) == tomllib.loads(text)


def test_printed_configuration_hides_passwords() -> None:
    """A password in a URL is starred out."""
    code, text = run("print", CACHENODE_L2_URL="redis://user:hunter2@cache:6379/0")
    assert code == 0
    assert "hunter2" not in text
    assert "cache:6379" in text


def test_every_setting_is_listed() -> None:
    """fields shows each setting with its default, as a table and as JSON."""
    code, text = run("fields")
    assert code == 0
    assert all(item.path in text for item in fields_help())
    rows = json.loads(run("fields", "-o", "json")[1])["fields"]
    listen = next(row for row in rows if row["setting"] == "node.listen")
    assert listen["default"] == '"127.0.0.1:7401"'
    assert listen["variables"] == ["CACHENODE_NODE__LISTEN"]


def test_loaders_and_sinks_are_imported(tmp_path: Path) -> None:
    """What nodes could not make is told at once, all of it."""
    file = tmp_path / "node.toml"
    file.write_text(
        '[origins.a]\nloader = "no_such_module:load"\nsink = "nothing"\n'
        '[origins.b]\nsink = "sql"\n[origins.c]\nloader = "tests.support.loaders:load"\n'
    )
    code, text = run("check", "--config", str(file), "-o", "json")
    assert code == 2
    assert [problem.partition(":")[0] for problem in json.loads(text)["problems"]] == [
        "origins.a.loader",
        "origins.a.sink",
        "origins.b.sink",
    ]
    file.write_text('[origins.c]\nloader = "tests.support.loaders:load"\n')
    assert run("check", "--config", str(file))[0] == 0
