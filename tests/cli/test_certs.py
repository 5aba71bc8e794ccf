"""What ``cachenode certs`` makes, as others look at it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cachenode.cli.certs import make_certificates


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)]
    for end in ends * 3:  # the last is nobody's turn any more
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.mark.parametrize("times", [1, 2])
def test_strict_clients_and_servers_accept_them(tmp_path: Path, times: int) -> None:
    """Both sides verify as Python does from 3.13 on, also where the authority was there before."""
    for _ in range(times):
        make_certificates(tmp_path, ["127.0.0.1"])
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    for context, name in ((client, "client"), (server, "node")):
        context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}-key.pem")
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    server.verify_mode = ssl.CERT_REQUIRED
    _shake_hands(client, server, "127.0.0.1")
