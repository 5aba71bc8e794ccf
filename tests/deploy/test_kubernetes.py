"""The manifests: they render, are valid for old and new releases of Kubernetes, and say what a cache needs.

Everything is checked offline: kubectl's own kustomize renders, the schemas come with kubernetes-validate.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachenode.config import load_config
from cachenode.config.values import parse_size

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = ["dev", "prod"]
RELEASES = ["1.32", "1.37"]
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def tool(name: str) -> str:
    """Return the path of a tool that comes in a wheel."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found is not None, f"{name} is not installed; run make setup"
    return found


@cache
def rendered(overlay: str) -> str:
    command = [tool("kubectl"), "kustomize", str(DEPLOY / "overlays" / overlay)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def objects(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered(overlay)))


def one(overlay: str, kind: str) -> dict[str, Any]:
    [found] = [each for each in objects(overlay) if each["kind"] == kind]
    return found


def container(overlay: str) -> dict[str, Any]:
    [found] = one(overlay, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@every_overlay
@pytest.mark.parametrize("release", RELEASES)
def test_manifests_are_valid(overlay: str, release: str, tmp_path: Path) -> None:
    """Each object fits the schema of its release, with no field that it does not know."""
    file = tmp_path / "all.yaml"
    file.write_text(rendered(overlay))
    command = [tool("kubernetes-validate"), "--strict", "-k", release, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_wrong_field_is_noticed(tmp_path: Path) -> None:
    """The check can fail: a field with a slip in its name is none."""
    file = tmp_path / "all.yaml"
    file.write_text(rendered("dev").replace("minReadySeconds", "minReadySecond"))
    command = [tool("kubernetes-validate"), "--strict", "-k", RELEASES[-1], str(file)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


@every_overlay
def test_pods_run_with_no_more_rights_than_they_need(overlay: str) -> None:
    """No root, no rights of the kernel's, a root file system that cannot be written, no token of the API server."""
    for each in objects(overlay):
        if each["kind"] not in {"StatefulSet", "Deployment"}:
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for box in pod["containers"]:
            assert box["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "cpu" not in box["resources"]["limits"], "a throttled node misses its heartbeats"
            assert box["resources"]["limits"]["memory"] == box["resources"]["requests"]["memory"]


@every_overlay
def test_memory_of_entries_leaves_room_for_the_process(overlay: str) -> None:
    """Entries get at most two thirds of the container's memory: a third more, and 100 MiB, is the process itself."""
    box = container(overlay)
    entries = parse_size(next(each["value"] for each in box["env"] if each["name"] == "CACHENODE_MEMORY"))
    limit = parse_size(box["resources"]["limits"]["memory"] + "B")
    assert isinstance(entries, int)
    assert isinstance(limit, int)
    assert entries <= 2 * limit / 3
    assert 4 * entries / 3 + 100 * 2**20 <= limit


@every_overlay
def test_pods_settings_are_a_configuration(overlay: str, tmp_path: Path) -> None:
    """What the pod's environment and file say is what a node takes, off loopback included."""
    config_map = one(overlay, "ConfigMap")
    (tmp_path / "node.toml").write_text(config_map["data"]["node.toml"])
    environ = {each["name"]: each.get("value", "") for each in container(overlay)["env"]}
    environ |= {
        "CACHENODE_CONFIG": str(tmp_path / "node.toml"),
        "CACHENODE_NODE__ID": "cachenode-0",
        "CACHENODE_NODE__ADVERTISE": "cachenode-0.cachenode-nodes.shop.svc:7401",
        "CACHENODE_L2_URL": "redis://valkey:6379/0",
    }
    del environ["POD_NAMESPACE"]
    config = load_config(flags={}, environ=environ, file=None)
    assert config.cluster.discovery == "redis"
    assert bool(config.tls.cert_file) is (overlay == "prod")
    assert config.node.insecure is (overlay == "dev")
    assert config.tls.verify_clients is (overlay == "prod")


@every_overlay
def test_a_stopping_node_has_time_to_leave(overlay: str) -> None:
    """The kubelet waits longer than a node takes at most to leave, with what comes before."""
    pod = one(overlay, "StatefulSet")["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + 20


@every_overlay
def test_probes_say_what_they_mean(overlay: str) -> None:
    """A node that is stuck is restarted; one that has not joined is only not sent any clients."""
    box = container(overlay)
    assert box["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert box["readinessProbe"]["httpGet"]["path"] == box["startupProbe"]["httpGet"]["path"] == "/readyz"
    probes = [box[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")]
    schemes = {probe.get("scheme", "HTTP") for probe in probes}
    assert schemes == {"HTTPS" if overlay == "prod" else "HTTP"}


@every_overlay
def test_nodes_are_named_by_their_pods(overlay: str) -> None:
    """Each pod has a name of its own from before it is ready, under the Service that its address names."""
    services = {each["metadata"]["name"]: each["spec"] for each in objects(overlay) if each["kind"] == "Service"}
    name = one(overlay, "StatefulSet")["spec"]["serviceName"]
    assert services[name]["clusterIP"] == "None"
    assert services[name]["publishNotReadyAddresses"] is True
    advertised = next(each for each in container(overlay)["env"] if each["name"] == "CACHENODE_NODE__ADVERTISE")
    assert f".{name}." in advertised["value"]


def test_dockerfile_is_well_made() -> None:
    """hadolint has nothing to say."""
    ended = subprocess.run(
        [tool("hadolint"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout


def test_compose_nodes_are_configured() -> None:
    """The environment of each node is what a node takes."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    nodes = {name: each["environment"] for name, each in services.items() if "environment" in each}
    assert sorted(nodes) == ["node-0", "node-1", "node-2"]
    for name, environ in nodes.items():
        config = load_config(flags={}, environ=environ, file=None)
        assert (config.node.id, config.node.advertise) == (name, f"{name}:7401")
