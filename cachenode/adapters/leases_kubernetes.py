"""Leases in Kubernetes (coordination.k8s.io/v1), through the official client.

``kubectl get leases -l cachenode.io/cluster`` shows who is a member. An object's `resourceVersion` and `uid` are the
version: an update that names an older one, and a deletion whose precondition does, is a conflict (409). The uid is
needed, since the server makes a lease that is gone anew when it is updated (``AllowCreateOnUpdate``), whatever
resourceVersion the update names: a renewal would bring back a member that was given up
(``test_write_by_compare_and_swap``). Lists ask for no resourceVersion, which makes them quorum reads.

The service account needs get, list, watch, create, update and delete on leases in its namespace; see ``deploy/``.

**Watching** is the API's "list, then watch": a list says what there is and as of which resourceVersion, and a watch
from there on tells each change. It selects the one lease by name, so renewals of members cost it nothing. What goes
wrong, each with its test in ``tests/adapters/test_leases_kubernetes.py``:

1. A change between the list and the watch is told by the watch (``test_watch_misses_nothing_after_its_list``).
2. The server ends a watch after a while. It goes on from the newest version it has told, also by a bookmark, which
   comes when nothing changes for so long that the version of the list is forgotten
   (``test_watch_goes_on_from_a_bookmark``). One that told nothing is begun anew with a list.
3. The version is forgotten all the same (410): what happened since is not known, so list anew
   (``test_forgotten_version_is_listed_anew``).
4. The connection is lost (``test_watch_that_is_cut_off``), or nothing comes over it, not even the end that the server
   was asked for (``test_watch_that_falls_silent``): an error, and whoever asked begins anew when it likes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from math import ceil
from pathlib import Path
from typing import Any

import aiohttp

from cachenode.adapters.leases import Lease, LeaseChanged
from cachenode.errors import ConfigError, RegistryError

try:
    from kubernetes.aio import client as k8s
    from kubernetes.aio import config as k8s_config
except ImportError as missing:
    raise ConfigError(
        ["cluster.discovery: kubernetes needs the Kubernetes client: pip install 'cachenode[kubernetes]'"]
    ) from missing

__all__ = ["KubernetesLeases"]

_CLUSTER_LABEL = "cachenode.io/cluster"
_ANNOTATION = "cachenode.io/"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXISTS = (409,)
_CONFLICTS = (404, 409)  # gone, or written since
_UNAUTHORIZED, _FORBIDDEN, _GONE = 401, 403, 410
_WATCH_S = 120
"""How long a watch may last; the server sends a bookmark about once a minute."""
_SILENT_S = 30.0
"""By how much a watch may outlast that before its connection counts as lost."""
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9_.-]+")


class KubernetesLeases:
    """`Leases` in one namespace of a Kubernetes cluster.

    Connects at its first use, and reads the credentials then: a service account's token is read again as it is renewed.

    Args:
        cluster: Name of the cluster of cache nodes; becomes a label.
        namespace: Kubernetes' namespace; "": that of the pod, or the kubeconfig's.
        kubeconfig: File that says how to reach the API server; "": the pod's service account.
        timeout_s: Time limit of a request.
    """

    def __init__(self, cluster: str, *, namespace: str = "", kubeconfig: str = "", timeout_s: float = 1.0) -> None:
        self._label = _label(cluster)
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._timeout_s = timeout_s
        self._client: k8s.ApiClient | None = None
        self._api: k8s.CoordinationV1Api | None = None

    async def list(self) -> list[Lease]:
        """Return all of the cluster, as of one moment.

        Raises:
            RegistryError: The API server cannot be reached or refuses.
        """
        async with self._request(changed=()) as api:
            found = await api.list_namespaced_lease(
                self._namespace, label_selector=f"{_CLUSTER_LABEL}={self._label}", _request_timeout=self._timeout_s
            )
        return [_read(item) for item in found.items]

    async def create(self, lease: Lease) -> Lease:
        """Make it and return it with its version.

        Raises:
            LeaseChanged: There is one of this name.
            RegistryError: The API server cannot be reached or refuses.
        """
        async with self._request(changed=_EXISTS) as api:
            body = self._body(lease)
            return _read(
                await api.create_namespaced_lease(self._namespace, body, _request_timeout=self._timeout_s),
            )

    async def replace(self, lease: Lease) -> Lease:
        """Write it over the one of its version, and return it with its new version.

        Raises:
            LeaseChanged: That one was written or deleted since.
            RegistryError: The API server cannot be reached or refuses.
        """
        async with self._request(changed=_CONFLICTS) as api:
            body = self._body(lease)
            return _read(
                await api.replace_namespaced_lease(lease.name, self._namespace, body, _request_timeout=self._timeout_s),
            )

    async def delete(self, lease: Lease) -> None:
        """Delete the one of its version.

        Raises:
            LeaseChanged: That one was written or deleted since.
            RegistryError: The API server cannot be reached or refuses.
        """
        async with self._request(changed=_CONFLICTS) as api:
            version, _, uid = lease.version.partition("/")
            options = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(resource_version=version, uid=uid))
            await api.delete_namespaced_lease(
                lease.name, self._namespace, body=options, _request_timeout=self._timeout_s
            )

    async def watch(self, name: str) -> AsyncGenerator[Lease | None, None]:
        """Yield the lease of a name as it is, and whenever it has changed; None where there is none.

        Ends when the server has forgotten what came after the last word of it.

        Raises:
            RegistryError: The API server cannot be reached or refuses, or the connection was lost.
        """
        selected = {"field_selector": f"metadata.name={name}"}
        async with self._request(changed=()) as api:
            found = await api.list_namespaced_lease(self._namespace, **selected, _request_timeout=self._timeout_s)
        yield _read(found.items[0]) if found.items else None
        version, heard = found.metadata.resource_version, True
        while heard:
            heard = False
            async with self._request(changed=()) as api, self._watching(api, selected, version) as response:
                async for line in response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        if event["object"].get("code") == _GONE:
                            return
                        raise RegistryError(self._refusal(event["object"].get("code", 0)))
                    version, heard = event["object"]["metadata"]["resourceVersion"], True
                    if event["type"] != "BOOKMARK":
                        yield _read_json(event["object"]) if event["type"] != "DELETED" else None

    @contextlib.asynccontextmanager
    async def _watching(
        self, api: k8s.CoordinationV1Api, selected: Mapping[str, str], version: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        limits = aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=_WATCH_S + _SILENT_S)
        response = await api.list_namespaced_lease(
            self._namespace,
            **selected,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=_WATCH_S,
            _preload_content=False,
            _request_timeout=limits,
        )
        try:
            if response.status != HTTPStatus.OK:
                raise k8s.ApiException(status=response.status)
            yield response
        finally:
            response.close()

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        if self._client is not None:
            await self._client.close()
            self._client = self._api = None

    @contextlib.asynccontextmanager
    async def _request(self, *, changed: tuple[int, ...]) -> AsyncIterator[k8s.CoordinationV1Api]:
        api = self._api or await self._connect()
        try:
            yield api
        except k8s.ApiException as error:
            if error.status in changed:
                raise LeaseChanged from None
            raise RegistryError(self._refusal(error.status)) from None
        except aiohttp.ClientConnectorCertificateError:  # a ValueError too, as others of these are
            where = "cluster.kubeconfig" if self._kubeconfig else "the pod's service account"
            raise RegistryError(f"the Kubernetes API's certificate is not good by the authority of {where}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RegistryError(f"the Kubernetes API cannot be reached: {type(error).__name__}") from None
        except (KeyError, TypeError, ValueError) as error:  # a line that was cut off, or somebody else's
            raise RegistryError(f"the Kubernetes API says what it should not: {type(error).__name__}") from None

    def _refusal(self, status: int) -> str:
        if status == _UNAUTHORIZED:
            return f"the Kubernetes API does not accept the credentials (HTTP {status})"
        if status == _FORBIDDEN:
            return (
                f"the Kubernetes API refuses (HTTP {status}): give the service account get, list, watch, create, "
                f"update and delete on leases of coordination.k8s.io in the namespace {self._namespace!r}"
            )
        return f"the Kubernetes API cannot serve (HTTP {status})"

    async def _connect(self) -> k8s.CoordinationV1Api:
        settings = k8s.Configuration()
        try:
            if self._kubeconfig:
                await k8s_config.load_kube_config(config_file=self._kubeconfig, client_configuration=settings)
                found = _context_namespace(self._kubeconfig)
            else:
                k8s_config.load_incluster_config(client_configuration=settings)
                found = (_ACCOUNT / "namespace").read_text().strip()
        except (k8s_config.ConfigException, OSError, ValueError) as error:
            where = "cluster.kubeconfig" if self._kubeconfig else "the pod's service account"
            raise RegistryError(f"the Kubernetes API cannot be found by {where}: {type(error).__name__}") from None
        self._namespace = self._namespace or found
        # From Python 3.13 on authorities without a key usage or a key identifier are refused, which many clusters have
        # (microk8s, older ones of EKS and GKE). The chain and the name are verified all the same.
        settings.disable_strict_ssl_verification = True
        self._client = k8s.ApiClient(settings)
        self._api = k8s.CoordinationV1Api(self._client)
        return self._api

    def _body(self, lease: Lease) -> k8s.V1Lease:
        version, _, uid = lease.version.partition("/")
        now = datetime.now(UTC)  # for people: nobody decides by it
        return k8s.V1Lease(
            metadata=k8s.V1ObjectMeta(
                name=lease.name,
                resource_version=version or None,
                uid=uid or None,  # a PUT of a lease that is gone would make it anew, but for this precondition
                labels={_CLUSTER_LABEL: self._label, "app.kubernetes.io/managed-by": "cachenode"},
                annotations={_ANNOTATION + name: text for name, text in lease.content.items()},
            ),
            spec=k8s.V1LeaseSpec(
                holder_identity=lease.holder,
                lease_duration_seconds=max(1, ceil(lease.duration_s)),
                renew_time=now.replace(microsecond=now.microsecond or 1),  # the server asks for a fraction
            ),
        )


def _read(item: k8s.V1Lease) -> Lease:
    meta, spec = item.metadata or k8s.V1ObjectMeta(), item.spec or k8s.V1LeaseSpec()
    duration_s, annotations = spec.lease_duration_seconds or 0, meta.annotations or {}
    return _lease(
        meta.name or "", spec.holder_identity or "", duration_s, annotations, f"{meta.resource_version}/{meta.uid}"
    )


def _read_json(item: Mapping[str, Any]) -> Lease:
    meta, spec = item["metadata"], item.get("spec", {})
    holder, duration_s = spec.get("holderIdentity", ""), spec.get("leaseDurationSeconds", 0)
    return _lease(
        meta["name"], holder, duration_s, meta.get("annotations", {}), f"{meta['resourceVersion']}/{meta['uid']}"
    )


def _lease(name: str, holder: str, duration_s: float, annotations: Mapping[str, str], version: str) -> Lease:
    content = {
        each.removeprefix(_ANNOTATION): text for each, text in annotations.items() if each.startswith(_ANNOTATION)
    }
    return Lease(name, holder, float(duration_s), content, version)


def _context_namespace(kubeconfig: str) -> str:
    _, active = k8s_config.list_kube_config_contexts(config_file=kubeconfig)
    return str(active["context"].get("namespace") or "default")


def _label(cluster: str) -> str:
    """Return the label's value: what Kubernetes allows (63 characters), and unique."""
    digest = hashlib.blake2b(cluster.encode(), digest_size=4).hexdigest()
    word = _NOT_IN_LABELS.sub("-", cluster)
    return word if word == cluster and word[-1].isalnum() and len(word) <= 63 else f"{word[:50].strip('-_.')}-{digest}"
