"""Leases through the official client, against an API server's rules. What the registry does with them: its contract."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.config import incluster_config

from cachenode.adapters import leases_kubernetes
from cachenode.adapters.leases import Lease, LeaseChanged
from cachenode.adapters.leases_kubernetes import KubernetesLeases
from cachenode.cli.certs import make_certificates
from cachenode.errors import RegistryError
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
