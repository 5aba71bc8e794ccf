"""A node's certificates: what is wrong with them, and how those that are renewed come into use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenode.adapters.tls import NodeTls, TlsFiles
from cachenode.cli.main import app
from cachenode.errors import ConfigError


def make(folder: Path, *arguments: str) -> TlsFiles:
    """Make an authority and certificates; return a node's files."""
    result = CliRunner().invoke(app, ["certs", "--dir", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return TlsFiles(str(folder / "node.pem"), str(folder / "node-key.pem"), str(folder / "ca.pem"))


def problems_of(files: TlsFiles) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        NodeTls(files, verify_clients=True)
    return list(caught.value.problems)


def test_expiry(tmp_path: Path) -> None:
    """The end of the node's own certificate is known."""
    short, long = (NodeTls(make(tmp_path / days, "--days", days), verify_clients=False) for days in ("1", "31"))
    assert long.expires_at() - short.expires_at() == pytest.approx(30 * 86_400, abs=60)


def test_every_problem_is_told(tmp_path: Path) -> None:
    """Files that are absent or hold something else are named by their setting; no content is repeated."""
    files = make(tmp_path)
    (tmp_path / "noise").write_text("a secret")
    wrong = TlsFiles(str(tmp_path / "noise"), str(tmp_path / "noise"), str(tmp_path / "absent"))
    assert problems_of(wrong) == [
        "tls.cert_file: does not hold a certificate in PEM form",
        "tls.key_file: does not hold a private key without a passphrase in PEM form",
        "tls.ca_file: cannot be read (No such file or directory)",
    ]
    other = TlsFiles(files.cert_file, str(tmp_path / "client-key.pem"), files.ca_file)
    assert problems_of(other) == ["tls.key_file: is not the key of tls.cert_file's first certificate"]


def test_renewed_files_are_taken_up_once(tmp_path: Path) -> None:
    """After a renewal the next handshake gets the new certificate; those after it are told that nothing has changed."""
    tls = NodeTls(make(tmp_path, "--days", "1"), verify_clients=True)
    before = tls.expires_at()
    assert tls._renewed() is None
    make(tmp_path, "--days", "2")
    assert tls._renewed() is not None
    assert tls._renewed() is None
    assert tls.expires_at() - before == pytest.approx(86_400, abs=60)


def test_half_renewed_files_leave_the_former_ones_in_use(tmp_path: Path) -> None:
    """In the middle of a renewal, when key and certificate do not fit, nothing changes; at its end it does."""
    files = make(tmp_path)
    tls = NodeTls(files, verify_clients=True)
    context, before = tls.ssl_context(), tls.expires_at()
    new = make(tmp_path / "new", "--days", "3")
    Path(new.cert_file).replace(files.cert_file)
    assert tls._renewed() is None
    assert (tls.ssl_context(), tls.expires_at()) == (context, before)
    Path(new.key_file).replace(files.key_file)
    assert tls._renewed() is not None
    assert tls.ssl_context() is not context


def test_private_keys_are_for_their_owner(tmp_path: Path) -> None:
    """Nobody else can read the keys that the command makes; what it is asked for again keeps its authority."""
    files = make(tmp_path)
    authority = Path(files.ca_file).read_bytes()
    for name in ("ca-key.pem", "node-key.pem", "client-key.pem"):
        assert os.stat(tmp_path / name).st_mode & 0o077 == 0  # noqa: PTH116 - the mode as it is
    make(tmp_path)
    assert Path(files.ca_file).read_bytes() == authority


def test_names_that_are_none(tmp_path: Path) -> None:
    """What cannot stand in a certificate is refused as wrong usage, and so is an authority without its key."""
    result = CliRunner().invoke(app, ["certs", "--dir", str(tmp_path), "--host", "bücher.example"])
    assert result.exit_code == 2
    assert "--host: must be a DNS name" in result.output
    make(tmp_path / "c")
    (tmp_path / "c/ca-key.pem").unlink()
    result = CliRunner().invoke(app, ["certs", "--dir", str(tmp_path / "c")])
    assert result.exit_code == 2
    assert "Name an empty directory." in result.output


def test_authorities_of_peers(tmp_path: Path) -> None:
    """Only what an authority for peers has issued is a peer's; without one of their own any that TLS takes is."""
    clients, peers = make(tmp_path / "clients"), make(tmp_path / "peers")
    files = TlsFiles(peers.cert_file, peers.key_file, clients.ca_file, "", peers.ca_file)
    tls = NodeTls(files, verify_clients=True)
    node, client = Path(peers.cert_file).read_bytes(), Path(clients.cert_file).read_bytes()
    assert tls.is_peers([node])
    assert not tls.is_peers([client])
    assert not tls.is_peers([client, node, Path(peers.ca_file).read_bytes()]), "what is shown beside it says nothing"
    assert not tls.is_peers([])
    assert NodeTls(clients, verify_clients=True).is_peers([client])
    assert problems_of(TlsFiles(peers.cert_file, peers.key_file, clients.ca_file, "", "absent"))
