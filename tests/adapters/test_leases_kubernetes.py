"""Leases through the official client, against an API server's rules. What the registry does with them: its contract."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from kubernetes.aio.config import incluster_config

from cachenode.adapters import leases_kubernetes
from cachenode.adapters.leases import Lease, LeaseChanged
from cachenode.adapters.leases_kubernetes import KubernetesLeases
from cachenode.cli.certs import make_certificates
from cachenode.errors import RegistryError
from tests.support.eventually import eventually
from tests.support.lease_api import TOKEN, LeaseApi, lease_api

ONE = Lease("one", "n0/1", 4.5, {"member": '["n0"]'})


def edit(api: LeaseApi, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change the kubeconfig, and return it."""
    path = Path(api.kubeconfig)
    config: dict[str, Any] = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return config


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[LeaseApi]:
    async with lease_api(tmp_path) as running:
        yield running


@pytest.fixture
async def leases(api: LeaseApi) -> AsyncIterator[KubernetesLeases]:
    made = KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=5.0)
    yield made
    await made.close()


async def test_what_people_see(api: LeaseApi, leases: KubernetesLeases) -> None:
    """A lease says who holds it, for how long, and of which cluster; its time has the fraction that is asked for."""
    await leases.create(ONE)
    lease = api.leases["one"]
    assert lease["spec"] | {"renewTime": ""} == {"holderIdentity": "n0/1", "leaseDurationSeconds": 5, "renewTime": ""}
    assert lease["metadata"]["labels"] == {
        "cachenode.io/cluster": "tests",
        "app.kubernetes.io/managed-by": "cachenode",
    }
    assert lease["metadata"]["annotations"] == {"cachenode.io/member": '["n0"]'}


async def test_write_by_compare_and_swap(leases: KubernetesLeases) -> None:
    """Each write gives another version; one with an older version changes nothing."""
    first = await leases.create(ONE)
    second = await leases.replace(first)
    assert len({ONE.version, first.version, second.version}) == 3
    for call in (leases.create(ONE), leases.replace(first), leases.delete(first)):
        with pytest.raises(LeaseChanged):
            await call
    assert [lease.version for lease in await leases.list()] == [second.version]
    await leases.delete(second)
    for call in (leases.replace(second), leases.delete(second)):
        with pytest.raises(LeaseChanged):
            await call
    assert await leases.list() == []


async def test_clusters_stay_apart(api: LeaseApi, leases: KubernetesLeases) -> None:
    """One namespace may have several; also such as have names that are no label of Kubernetes."""
    await leases.create(ONE)
    for number, name in enumerate(["Tests", "tests.", "x" * 64, "y" * 63 + "-"]):
        other = KubernetesLeases(name, kubeconfig=api.kubeconfig, timeout_s=5.0)
        assert await other.list() == []
        await other.create(Lease(f"other-{number}", "n0/1", 4.0, {}))
        assert len(await other.list()) == 1
        await other.close()
    assert [lease.name for lease in await leases.list()] == ["one"]


async def test_refusal_says_which_rights_are_missing(api: LeaseApi, leases: KubernetesLeases) -> None:
    """The most frequent mistake in an installation is told with its remedy."""
    api.status = 403
    with pytest.raises(RegistryError, match=r"HTTP 403.*list.*'caches'"):
        await leases.list()


async def test_wrong_token_is_a_refusal(api: LeaseApi) -> None:
    """And the token is not shown."""
    edit(api, lambda config: config["users"][0]["user"].update(token="a-canary"))
    leases = KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=5.0)
    with pytest.raises(RegistryError, match="HTTP 401") as caught:
        await leases.list()
    assert "canary" not in str(caught.value)
    await leases.close()


@pytest.mark.parametrize("status", [500, 429, 503])
async def test_server_that_cannot_serve(api: LeaseApi, leases: KubernetesLeases, status: int) -> None:
    """Its status is told; the next call tries again."""
    api.status = status
    with pytest.raises(RegistryError, match=f"HTTP {status}"):
        await leases.list()
    api.status = 0
    assert await leases.list() == []


async def test_server_that_is_away(tmp_path: Path) -> None:
    """It cannot be reached: told by the kind of error, and with the next call it may be back."""
    async with lease_api(tmp_path) as api:
        leases = KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=5.0)
        assert await leases.list() == []
    with pytest.raises(RegistryError, match="cannot be reached"):
        await leases.list()
    await leases.close()
    await leases.close()


async def told(watch: AsyncGenerator[Lease | None, None]) -> str | None:
    """Return what a watch says next: who holds the lease, None if there is none."""
    async with asyncio.timeout(10.0):
        lease = await anext(watch)
    return lease.holder if lease is not None else None


async def begun(api: LeaseApi, watch: AsyncGenerator[Lease | None, None]) -> asyncio.Task[str | None]:
    """Let a watch wait for what comes next, and return once the server has it."""
    waiting = asyncio.create_task(told(watch))
    await eventually(lambda: api.watches)
    return waiting


async def test_watch_misses_nothing_after_its_list(api: LeaseApi, leases: KubernetesLeases) -> None:
    """What is written between the list and the watch is told, once, and so is what comes later."""
    first = await leases.create(ONE)
    written: list[Lease] = []

    async def write() -> None:
        api.before_watch = None
        written.append(await leases.replace(replace(first, holder="meanwhile")))

    api.before_watch = write
    async with aclosing(leases.watch("one")) as watch:
        assert [await told(watch), await told(watch)] == ["n0/1", "meanwhile"]
        waiting = await begun(api, watch)
        await leases.delete(written[0])
        assert await waiting is None


async def test_watch_goes_on_from_a_bookmark(api: LeaseApi, leases: KubernetesLeases) -> None:
    """The server forgets the version of the list, and ends the watch: a bookmark has told of a later one."""
    first = await leases.create(ONE)
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) == "n0/1"
        waiting = await begun(api, watch)
        await leases.create(replace(ONE, name="another"))
        api.bookmark()
        api.forget_changes()
        lists = api.requests.count(("GET", ""))
        api.end_watches()
        await eventually(lambda: api.requests.count(("GET", "")) == lists + 1)
        await eventually(lambda: api.watches)
        await leases.replace(replace(first, holder="later"))
        assert await waiting == "later"
        assert api.requests.count(("GET", "")) == lists + 1, "a watch, and no list"


@pytest.mark.parametrize("forgotten", [True, False])
async def test_forgotten_version_is_listed_anew(api: LeaseApi, leases: KubernetesLeases, forgotten: bool) -> None:
    """A watch that cannot go on ends, and so does one that told nothing: who asks again gets what there is."""
    first = await leases.create(ONE)
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) == "n0/1"
        waiting = await begun(api, watch)
        second = await leases.replace(replace(first, holder="second"))
        assert await waiting == "second"
        waiting = await begun(api, watch)

        async def forget() -> None:
            await leases.replace(replace(second, holder="third"))
            api.forget_changes()

        api.before_watch = forget if forgotten else None
        api.end_watches()
        if not forgotten:
            await eventually(lambda: api.requests.count(("GET", "")) == 3)
            await eventually(lambda: api.watches)
            api.end_watches()
        with pytest.raises(StopAsyncIteration):
            await waiting
    api.before_watch = None
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) == ("third" if forgotten else "second")


async def test_watch_that_is_cut_off(api: LeaseApi, leases: KubernetesLeases) -> None:
    """A lost connection is told as one."""
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) is None
        waiting = await begun(api, watch)
        api.cut_watches()
        with pytest.raises(RegistryError, match="cannot be reached"):
            await waiting


async def test_watch_that_falls_silent(
    api: LeaseApi, leases: KubernetesLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the end comes that was asked for: the connection leads nowhere any more."""
    monkeypatch.setattr(leases_kubernetes, "_SILENT_S", -leases_kubernetes._WATCH_S + 0.2)
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) is None
        with pytest.raises(RegistryError, match="cannot be reached"):
            await told(watch)


async def test_watch_that_is_refused(api: LeaseApi, leases: KubernetesLeases) -> None:
    """A role of an older release lacks the verb: the refusal names it."""

    async def refuse() -> None:
        raise web.HTTPForbidden

    api.before_watch = refuse
    async with aclosing(leases.watch("one")) as watch:
        assert await told(watch) is None
        with pytest.raises(RegistryError, match=r"HTTP 403.*watch"):
            await told(watch)


@pytest.mark.parametrize("kubeconfig", ["", "missing"])
async def test_no_credentials(tmp_path: Path, kubeconfig: str) -> None:
    """Outside of a pod, without a file: the error says where they were looked for."""
    path = str(tmp_path / kubeconfig) if kubeconfig else ""
    leases = KubernetesLeases("tests", kubeconfig=path)
    with pytest.raises(RegistryError, match=r"cluster\.kubeconfig" if path else "service account"):
        await leases.list()


async def test_namespace_that_does_not_exist(api: LeaseApi) -> None:
    """It is told, rather than taken for a lease that somebody else has written."""
    leases = KubernetesLeases("tests", namespace="elsewhere", kubeconfig=api.kubeconfig, timeout_s=5.0)
    with pytest.raises(RegistryError, match="HTTP 404"):
        await leases.list()
    with pytest.raises(RegistryError, match="HTTP 404"):
        await leases.create(ONE)
    await leases.close()


async def test_pod_finds_its_server_namespace_and_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a service account are enough; a token that is renewed there is read again."""
    make_certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "node.pem", tmp_path / "node-key.pem")
    token = tmp_path / "token"
    token.write_text("an old one")
    (tmp_path / "namespace").write_text("caches\n")
    async with lease_api(tmp_path, tls) as api:
        port = edit(api, lambda config: None)["clusters"][0]["cluster"]["server"].rpartition(":")[2]
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.pem"))
        monkeypatch.setattr(leases_kubernetes, "_ACCOUNT", tmp_path)
        leases = KubernetesLeases("tests", timeout_s=5.0)
        with pytest.raises(RegistryError, match="HTTP 401"):
            await leases.list()
        token.write_text(TOKEN)
        await leases.close()
        assert await leases.list() == []
        await leases.close()


def _signed(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate with no more in it than many clusters' have: no usage, no key identifiers."""
    signer, owner = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (issuer, name))
    now, addresses = datetime.now(UTC), [x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(signer, owner, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(by, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


@pytest.fixture
def old_authority(tmp_path: Path) -> ssl.SSLContext:
    """A server's certificate; old.pem is its authority's."""
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (tmp_path / "old.pem").write_bytes(_signed("kubernetes", "kubernetes", authority, authority))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "api.pem").write_bytes(_signed("kube-apiserver", "kubernetes", key, authority) + private)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "api.pem")
    return tls


def _over_tls(api: LeaseApi, authority: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        cluster = config["clusters"][0]["cluster"]
        cluster["server"] = cluster["server"].replace("http:", "https:")
        cluster["certificate-authority"] = str(authority)

    edit(api, change)


async def test_authority_of_an_old_cluster(
    tmp_path: Path, old_authority: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python is strict from 3.13 on; the nodes are not, since they cannot choose what the cluster's authority is."""

    def strict(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        context = of_python(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    of_python = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", strict)
    async with lease_api(tmp_path, old_authority) as api:
        _over_tls(api, tmp_path / "old.pem")
        leases = KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=5.0)
        assert await leases.list() == []
        await leases.close()


async def test_authority_of_somebody_else(tmp_path: Path, old_authority: ssl.SSLContext) -> None:
    """It is said that the certificate is at fault, and by which authority."""
    make_certificates(tmp_path)
    async with lease_api(tmp_path, old_authority) as api:
        _over_tls(api, tmp_path / "ca.pem")
        leases = KubernetesLeases("tests", kubeconfig=api.kubeconfig, timeout_s=5.0)
        with pytest.raises(RegistryError, match=r"certificate is not good by the authority of cluster\.kubeconfig"):
            await leases.list()
        await leases.close()
