from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenode.cli.errors import CliError
from cachenode.cli.keys import _content, _described
from cachenode.cli.main import app
from cachenode_client import Lookup

NOBODY = ["--address", "127.0.0.1:1", "--timeout", "0.2"]


@pytest.mark.parametrize(
    "command",
    [["get", "k"], ["set", "k", "v"], ["delete", "k"], ["invalidate", "k"], ["watch"], ["explain", "k"]],
    ids=lambda part: part[0],
)
def test_nobody_there_is_exit_code_4(command: list[str]) -> None:
    """A cluster that cannot be reached has an exit code of its own, and the text says where it was tried."""
    result = CliRunner().invoke(app, [*command, *NOBODY])
    assert result.exit_code == 4
    assert "127.0.0.1:1" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["get"],
        ["get", ""],
        ["get", "k" * 2_000],
        ["get", "k", "--timeout", "0"],
        ["get", "k", "--namespace", "NOT VALID"],
        ["get", "k", "-o", "yaml"],
        ["set", "k"],
        ["set", "k", "v", "--file", "-"],
        ["set", "k", "{", "--json"],
        ["set", "k", "v", "--ttl", "soon"],
        ["set", "k", "v", "--tag", ""],
        ["invalidate"],
        ["invalidate", ""],
        ["invalidate", "--prefix", ""],
        ["invalidate", "--pattern", "[a"],
        ["invalidate", "--tag", ""],
        ["invalidate", "--all", "k"],
        ["invalidate", "--all", "--tag", "t"],
        ["invalidate", "k", "--ack", "some"],
        ["watch", "--namespace", "NOT VALID"],
        ["explain", ""],
        ["explain", "k", "--namespace", "NOT VALID"],
        ["get", "k", "--address", "redis://user:secret@host"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    """What cannot work is refused before anything is sent, and a password in a wrong place is not repeated."""
    result = CliRunner().invoke(app, [arguments[0], *NOBODY, *arguments[1:]])
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_content_is_text_json_or_a_file(tmp_path: Path) -> None:
    """A value is text, what JSON stands for, or the bytes of a file."""
    file = tmp_path / "value"
    file.write_bytes(b"\x00[1]")
    assert _content("7", as_json=False, file=None) == "7"
    assert _content("7", as_json=True, file=None) == 7
    assert _content(None, as_json=False, file=str(file)) == b"\x00[1]"
    file.write_text("[1]")
    assert _content(None, as_json=True, file=str(file)) == [1]


def test_bytes_that_are_not_text_are_not_json(tmp_path: Path) -> None:
    """A binary file with --json is wrong usage, not a crash."""
    file = tmp_path / "value"
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CliError, match="not valid JSON"):
        _content(None, as_json=True, file=str(file))


def test_missing_file_is_named() -> None:
    """A file that is not there is a failure that names it."""
    result = CliRunner().invoke(app, ["set", "k", "--file", "no/such/file", *NOBODY])
    assert result.exit_code == 1
    assert "no/such/file: No such file" in result.output


def test_json_says_what_is_known() -> None:
    """The JSON of a key that was found holds value and meta data; of one that was not, that it was not."""
    found = Lookup(found=True, value=1, version=9, ttl_s=1.23456, layer="l2")
    document = _described("k", "default", found)
    assert document["ttl_s"] == 1.235
    assert (document["value"], document["type"], document["layer"]) == (1, "int", "l2")
    assert json.loads(json.dumps(_described("k", "default", Lookup(found=False)))) == {
        "key": "k",
        "namespace": "default",
        "found": False,
    }
