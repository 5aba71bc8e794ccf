"""TLS of a node: what its listeners show, and how it meets its peers.

Files are looked at for each handshake and read anew when they have changed, so a certificate that is renewed in place
is used from the next connection on, without a restart. While new files cannot be read, as in the middle of their
renewal, the former ones stay in use.

Peers are known by their certificates, as clients are: with `verify_clients` only who has one of the same authority gets
a connection at all.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from cachenode.errors import ConfigError

__all__ = ["NodeTls", "TlsFiles"]

_log = structlog.get_logger(__name__)

_LONGEST_CHAIN = 5
_OTHER_NAME = "grpc.ssl_target_name_override"
_Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificates are, in PEM form.

    Attributes:
        cert_file: The node's own, and those of authorities between it and the root.
        key_file: Its private key.
        ca_file: The authorities whose certificates of others are believed; empty for those that gRPC comes with.
        peer_ca_file: Those whose certificates of peers are believed; empty for the same ones.
        server_name: The name that the peers' certificates bear; empty for what they are dialled by.
    """

    cert_file: str
    key_file: str
    ca_file: str = ""
    server_name: str = ""
    peer_ca_file: str = ""

    @property
    def for_peers(self) -> str:
        """The authorities that peers are known by."""
        return self.peer_ca_file or self.ca_file


class NodeTls:
    """What a node needs of TLS.

    Args:
        files: Where the certificates are.
        verify_clients: Whether whoever connects must show a certificate of one of the authorities.

    Raises:
        ConfigError: A file cannot be read, or does not hold what it should. It carries the problem of each.
    """

    def __init__(self, files: TlsFiles, *, verify_clients: bool) -> None:
        self.files = files
        self._verify_clients = verify_clients
        self._lock = threading.Lock()  # gRPC asks in a thread of its own
        self._stamp = self._looked_at()
        self._expires_at = _expiry(files.cert_file)
        self._context = self._new_context()

    def expires_at(self) -> float:
        """Return when the node's certificate ends, in seconds since 1970."""
        return self._expires_at

    # What listeners show.

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of the gRPC listener, which follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._renewed,  # type: ignore[arg-type]  # None says that nothing has changed
            require_client_authentication=self._verify_clients,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (Path(self.files.key_file).read_bytes(), Path(self.files.cert_file).read_bytes())
        files = [file for file in (self.files.ca_file, self.files.peer_ca_file) if file]
        authorities = b"\n".join(Path(file).read_bytes() for file in files) or None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files hold if they have changed, else None. Called by gRPC for each handshake."""
        return self._configuration() if self._changed() else None

    def ssl_context(self) -> ssl.SSLContext:
        """Return the context of the HTTP listener, which follows the files."""
        return self._context

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.files.cert_file, self.files.key_file)
        context.sni_callback = self._greeted
        return context

    def _greeted(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        self._changed()
        connection.context = self._context

    def _changed(self) -> bool:
        """Return True, once for all, if the files are others than before and can be used."""
        with self._lock:
            try:
                stamp = self._looked_at()
                if stamp == self._stamp:
                    return False
                self._context, self._expires_at = self._new_context(), _expiry(self.files.cert_file)
            except (ConfigError, OSError) as error:
                _log.warning("certificate_not_renewed", error_type=type(error).__name__)
                return False
            self._stamp = stamp
            _log.info("certificate_renewed")
            return True

    # How peers are met.

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials for a connection to a peer, from what the files hold now.

        Raises:
            OSError: One cannot be read.
        """
        files = self.files
        return grpc.ssl_channel_credentials(
            root_certificates=Path(files.for_peers).read_bytes() if files.for_peers else None,
            private_key=Path(files.key_file).read_bytes(),
            certificate_chain=Path(files.cert_file).read_bytes(),
        )

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return the options for a connection to a peer."""
        return [(_OTHER_NAME, self.files.server_name)] if self.files.server_name else []

    def is_peers(self, chain: Sequence[bytes]) -> bool:
        """Return True if a certificate, which TLS has taken, was issued by an authority for peers.

        Args:
            chain: The certificate in PEM form, and those after it that the other side has shown.
        """
        if not self.files.peer_ca_file:
            return True
        found = [one for pem in chain for one in x509.load_pem_x509_certificates(pem)]
        roots = x509.load_pem_x509_certificates(Path(self.files.peer_ca_file).read_bytes())
        current = found[0] if found else None
        for _ in range(_LONGEST_CHAIN):
            if current is None:
                return False
            if any(_issued(current, root) for root in roots):
                return True
            current = next((one for one in found if _is_authority(one) and _issued(current, one)), None)
        return False

    def _looked_at(self) -> _Stamp:
        """Return what changes when the files do, after a look into each.

        Raises:
            ConfigError: Files that cannot be used.
        """
        problems, stamp = [], []
        for name in ("cert_file", "key_file", "ca_file", "peer_ca_file"):
            file = getattr(self.files, name)
            if not file:
                continue
            try:
                status = Path(file).stat()
                stamp.append((status.st_mtime_ns, status.st_size))
                _check(name, Path(file).read_bytes())
            except OSError as error:
                problems.append(f"tls.{name}: cannot be read ({error.strerror})")
            except ValueError:
                problems.append(f"tls.{name}: does not hold {_HOLDS[name]} in PEM form")
        if not problems:
            problems = _pair_problems(self.files)
        if problems:
            raise ConfigError(problems)
        return tuple(stamp)


_HOLDS = {"cert_file": "a certificate", "key_file": "a private key without a passphrase", "ca_file": "certificates"}
_HOLDS["peer_ca_file"] = _HOLDS["ca_file"]


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _check(name: str, content: bytes) -> None:
    """Raise ValueError if a file does not hold what it should."""
    if name == "key_file":
        if b"PRIVATE KEY-----" not in content or b"ENCRYPTED" in content:
            raise ValueError
    elif not x509.load_pem_x509_certificates(content):
        raise ValueError


def _pair_problems(files: TlsFiles) -> list[str]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert_file, files.key_file)
    except (ssl.SSLError, OSError):
        return ["tls.key_file: is not the key of tls.cert_file's first certificate"]
    return []


def _expiry(cert_file: str) -> float:
    first = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())[0]
    return first.not_valid_after_utc.timestamp()
