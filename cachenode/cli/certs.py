"""``certs``: an authority and certificates for a cluster on one machine or in one network, to try TLS with."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cachenode.cli.errors import CliError, ExitCode, reports
from cachenode.cli.options import Format, Output
from cachenode.cli.output import console, print_json

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    _Signed = tuple[x509.Certificate, EllipticCurvePrivateKey]

__all__ = ["certs", "make_certificates"]

_HOSTS = ("localhost", "127.0.0.1", "::1")
_BEFORE = dt.timedelta(minutes=5)
"""Certificates begin a little earlier: clocks differ."""


@reports
def certs(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the files go.")] = Path("certs"),
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="NAME", help="Name or address of the nodes; may be repeated. Default: this machine."
        ),
    ] = None,
    client_name: Annotated[
        list[str] | None,
        typer.Option(
            "--client-name",
            metavar="NAME",
            help="DNS name or URI (spiffe://…) that the client is known by; may be repeated. Default: none.",
        ),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=825, help="Life of the certificates.")] = 90,
    output: Output = Format.TABLE,
) -> None:
    """Make an authority, a certificate for nodes and one for clients: all that a cluster needs to talk TLS.

    For development and for networks of your own; in production let your own authority sign. With an authority in
    DIR already, only the two certificates are made anew, and running nodes take them up without a restart.
    """
    hosts = host or _HOSTS
    renewed = (directory / "ca.pem").exists()
    make_certificates(directory, hosts, days, client_name or ())
    files = {name: str(directory / f"{name}.pem") for name in ("ca", "node", "client")}
    keys = {f"{name}_key": str(directory / f"{name}-key.pem") for name in ("node", "client")}
    if output is Format.JSON:
        print_json({**files, **keys, "hosts": hosts, "days": days, "renewed": renewed})
        return
    screen = console()
    screen.print(f"{'Made anew' if renewed else 'Made'} for {', '.join(hosts)}, good for {days} days, in {directory}/.")
    screen.print("\nA node:", markup=False)
    screen.print(
        f"  CACHENODE_TLS__CERT_FILE={files['node']} CACHENODE_TLS__KEY_FILE={keys['node_key']} \\", soft_wrap=True
    )
    screen.print(
        f"  CACHENODE_TLS__CA_FILE={files['ca']} CACHENODE_TLS__VERIFY_CLIENTS=true cachenode serve", soft_wrap=True
    )
    screen.print("A command:", markup=False)
    certificate = f"--tls-cert {files['client']} --tls-key {keys['client_key']}"
    screen.print(f"  cachenode --tls-ca {files['ca']} {certificate} view", soft_wrap=True)


def make_certificates(
    directory: Path, hosts: Sequence[str] = _HOSTS, days: int = 90, client_names: Sequence[str] = ()
) -> None:
    """Make what is missing of an authority, and a certificate for nodes and one for clients in any case.

    Raises:
        CliError: A host is no name or address, or the directory holds an authority that cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    authority = _read(directory) if (directory / "ca.pem").exists() else _make_authority(directory)
    _issue(directory, "node", authority, hosts, days)
    _issue(directory, "client", authority, client_names, days)


def _make_authority(directory: Path) -> _Signed:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = f"cachenode development authority {secrets.token_hex(4)}"  # two of one name would be taken for one
    certificate = _certificate(name, key, None, [], 3_650)
    _write(directory, "ca", certificate, key)
    return certificate, key


def _read(directory: Path) -> _Signed:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        key = load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
    except (OSError, ValueError, TypeError):
        text = "--dir: holds a ca.pem without a ca-key.pem that can be used"
        raise CliError(text, hint="Name an empty directory.", code=ExitCode.USAGE) from None
    if not isinstance(key, EllipticCurvePrivateKey):
        text = "--dir: holds an authority that was not made by this command"
        raise CliError(text, hint="Name an empty directory.", code=ExitCode.USAGE)
    return certificate, key


def _issue(directory: Path, name: str, authority: _Signed, hosts: Sequence[str], days: int) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    _write(directory, name, _certificate(f"cachenode {name}", key, authority, hosts, days), key)


def _certificate(
    name: str, key: EllipticCurvePrivateKey, authority: _Signed | None, hosts: Sequence[str], days: int
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority[0].subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=authority is None, path_length=0 if authority is None else None), critical=True
        )
    )
    # What follows Python asks for from 3.13 on (RFC 5280, 4.2.1.1 to 4.2.1.3), or else refuses the authority.
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = authority[1].public_key() if authority else key.public_key()
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
    builder = builder.add_extension(own, critical=False).add_extension(signer, critical=False)
    builder = builder.add_extension(_usage(authority=authority is None), critical=True)
    if authority is not None:
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # a node is its peers' client, too
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
    return builder.sign(authority[1] if authority else key, hashes.SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.UniformResourceIdentifier(host) if "://" in host else x509.DNSName(host)
    except ValueError:
        text = "--host: must be a DNS name (international ones in their xn-- form), an IP address or a URI"
        raise CliError(text, code=ExitCode.USAGE) from None


def _write(directory: Path, name: str, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
    """Write both files, each as a whole: a node that looks meanwhile finds the old one or the new one."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content in ((f"{name}-key.pem", private), (f"{name}.pem", certificate.public_bytes(Encoding.PEM))):
        new = directory / f".{file}.new"
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(directory / file)
