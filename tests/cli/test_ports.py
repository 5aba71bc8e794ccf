"""Ports for local clusters."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cachenode.cli import ports


def test_ports_are_distinct_free_and_out_of_the_way_of_outgoing_connections() -> None:
    """What is returned can be listened on, and stays free of connections."""
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert all(10_000 <= port < ports._first_ephemeral() for port in found)
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_port_that_somebody_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy port is not returned, and none twice."""
    [taken, free, last] = ports.free_ports(3)
    monkeypatch.setattr(ports, "_candidates", lambda: iter([taken, free, free, last, last]))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        assert ports.free_ports(2) == [free, last]


@pytest.mark.parametrize("text", ["", "many\n"])
def test_without_a_readable_range_linux_s_own_is_assumed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on Linux there is no such file."""
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "range")
    assert ports._first_ephemeral() == 32_768
    (tmp_path / "range").write_text(text)
    assert ports._first_ephemeral() == 32_768


def test_where_there_is_no_room_below_the_kernel_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may give nearly all ports to outgoing connections."""
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "range")
    (tmp_path / "range").write_text("1024 65535\n")
    assert all(port >= 1024 for port in ports.free_ports(3))


def test_no_port_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told."""
    monkeypatch.setattr(ports, "_candidates", lambda: iter([]))
    with pytest.raises(OSError, match="no 2 free ports"):
        ports.free_ports(2)
