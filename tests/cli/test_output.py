from __future__ import annotations

import io
import json

import pytest

from cachenode.cli.output import bar, console, percent, print_json, seconds, size, write_value


class Screen(io.TextIOWrapper):
    """Standard output as a terminal or a pipe."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def written(self) -> bytes:
        self.flush()
        content = self.buffer
        assert isinstance(content, io.BytesIO)
        return content.getvalue()


def written(value: object, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> bytes:
    screen = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stdout", screen)
    write_value(value)
    return screen.written()


def test_bytes_go_to_a_pipe_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file written from a value is the value, without a line end after it."""
    data = bytes(range(256))
    assert written(data, monkeypatch, terminal=False) == data


def test_bytes_are_dumped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets a dump, cut where it would flood the screen."""
    lines = written(b"\x1b[2Jhello" + bytes(2_000), monkeypatch, terminal=True).decode().splitlines()
    assert lines[0] == "2,009 bytes"
    assert lines[1].startswith("00000000  1b 5b 32 4a 68 65 6c 6c 6f 00")
    assert lines[1].endswith("  .[2Jhello.......")
    assert lines[-1].startswith("… and 985 bytes more")
    assert len(lines) == 66


def test_text_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is not quoted."""
    assert written("Zürich\t1", monkeypatch, terminal=False) == "Zürich\t1\n".encode()


@pytest.mark.parametrize("value", ["\x1b]0;title\x07", ["\x9b2J\x7f"]], ids=["text", "json"])
def test_a_value_cannot_control_the_terminal(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters are shown on a terminal, not obeyed."""
    shown = written(value, monkeypatch, terminal=True).decode()
    assert not {"\x1b", "\x07", "\x9b", "\x7f"} & set(shown)
    assert "\\x" in shown or "\\u" in shown


def test_other_values_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, lists and objects are written as JSON, on one line in a pipe."""
    assert written({"a": [1, None, True]}, monkeypatch, terminal=False) == b'{"a": [1, null, true]}\n'
    assert written({"a": 1}, monkeypatch, terminal=True) == b'{\n  "a": 1\n}\n'


def test_json_can_hold_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes within JSON are base64 under their own name."""
    print_json({"value": b"\x00\xff", "items": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"value": {"base64": "AP8="}, "items": [1, 2]}


def test_bars_are_in_proportion() -> None:
    """The largest share fills the width; others are drawn to an eighth of a character."""
    assert bar(0.5, 0.5, 4) == "████"
    assert bar(0.25, 0.5, 4) == "██"
    assert bar(0.3125, 0.5, 4) == "██▌"
    assert bar(0.3125, 0.5, 4, ascii_only=True) == "###"
    assert bar(0.0, 0.0, 4) == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3,072.0 GiB")],
)
def test_sizes_have_units(number: int, text: str) -> None:
    """Bytes are shown in the unit that fits."""
    assert size(number) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.2s"), (59.9, "59.9s"), (61, "1m 1s"), (7_260, "2h 1m"), (90_000, "1d 1h")]
)
def test_durations_show_two_units(value: float, text: str) -> None:
    """Durations are shown in their two largest units."""
    assert seconds(value) == text


def test_ratio_of_nothing_is_a_dash() -> None:
    """A hit ratio without reads is not 0 %."""
    assert percent(0, 0) == "-"
    assert percent(1, 3) == "33.3%"


def test_rows_stay_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is no width to fold lines at."""
    console().print("x" * 150)
    assert capsys.readouterr().out == "x" * 150 + "\n"
