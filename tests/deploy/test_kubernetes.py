"""The manifests: they render, are valid for old and new releases of Kubernetes, and say what a cache needs.

Everything is checked offline: kubectl's own kustomize renders, the schemas come with kubernetes-validate.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachenode.cli.options import CLIENT_VARIABLES, parse_duration
from cachenode.config import load_config
from tests.deploy.rendering import CHART, DEPLOY, NAMES, kustomized, tool

RELEASES = ["1.32", "1.37"]
every_overlay = pytest.mark.parametrize("overlay", NAMES)


def objects(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kustomized(overlay)))


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
    file.write_text(kustomized(overlay))
    command = [tool("kubernetes-validate"), "--strict", "-k", release, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_wrong_field_is_noticed(tmp_path: Path) -> None:
    """The check can fail: a field with a slip in its name is none."""
    file = tmp_path / "all.yaml"
    file.write_text(kustomized("dev").replace("minReadySeconds", "minReadySecond"))
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
def test_pods_settings_are_a_configuration(overlay: str, tmp_path: Path) -> None:
    """What the pod's environment and file say is what a node takes, off loopback included."""
    [config_map] = [each for each in objects(overlay) if "node.toml" in each.get("data", {})]
    limit = container(overlay)["resources"]["limits"]["memory"]
    (tmp_path / "node.toml").write_text(config_map["data"]["node.toml"])
    environ = {each["name"]: each.get("value", "") for each in container(overlay)["env"]}
    environ |= {
        "CACHENODE_CONFIG": str(tmp_path / "node.toml"),
        "CACHENODE_NODE__ID": "cachenode-0",
        "CACHENODE_NODE__ADVERTISE": "cachenode-0.cachenode-nodes.shop.svc:7401",
        "CACHENODE_L2_URL": "redis://valkey:6379/0",
        "CACHENODE_MEMORY__PROCESS_BYTES": limit + "B",
    }
    del environ["POD_NAMESPACE"]
    config = load_config(flags={}, environ=environ, file=None, ignore=CLIENT_VARIABLES)
    assert config.cluster.discovery == "redis"
    assert config.memory.budget() >= 200 << 20
    assert bool(config.tls.cert_file) is (overlay == "prod")
    assert config.node.insecure is (overlay == "dev")
    assert config.tls.verify_clients is (overlay == "prod")


@every_overlay
def test_entries_fit_the_pods_memory(overlay: str) -> None:
    """What entries may take follows from the container's limit, and from nothing else that somebody would forget."""
    environ = {each["name"]: each for each in container(overlay)["env"]}
    assert environ["CACHENODE_MEMORY__PROCESS_BYTES"]["valueFrom"] == {
        "resourceFieldRef": {"resource": "limits.memory"}
    }
    assert "CACHENODE_MEMORY" not in environ


@every_overlay
def test_pods_are_spread(overlay: str) -> None:
    """No zone and no machine has all nodes while others have room; a lack of either keeps no pod from starting."""
    spread = one(overlay, "StatefulSet")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    labels = one(overlay, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for each in spread:
        assert each["labelSelector"]["matchLabels"].items() <= labels.items()
        assert (each["maxSkew"], each["whenUnsatisfiable"]) == (1, "ScheduleAnyway")


def test_change_of_configuration_rolls_the_pods(tmp_path: Path) -> None:
    """The ConfigMap is named by its content, and the pods name it: a change makes other pods."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("helm"))

    def configuration() -> str:
        command = [tool("kubectl"), "kustomize", str(tmp_path / "deploy/overlays/dev")]
        objects = list(yaml.safe_load_all(subprocess.check_output(command, text=True, timeout=60)))
        [pods] = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "StatefulSet"]
        [name] = [each["configMap"]["name"] for each in pods["volumes"] if "configMap" in each]
        assert name in {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
        return str(name)

    before = configuration()
    with (tmp_path / "deploy/base/node.toml").open("a") as file:
        file.write("\nstale_s = 60\n")
    assert configuration() != before


def test_chart_and_overlays_have_one_configuration() -> None:
    """The nodes' settings are written down twice, alike."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["config"] == (DEPLOY / "base/node.toml").read_text()


@every_overlay
def test_a_stopping_node_has_time_to_leave(overlay: str) -> None:
    """The kubelet waits longer than a node takes at most to leave, with what comes before."""
    pod = one(overlay, "StatefulSet")["spec"]["template"]["spec"]
    name, command, flag, flush = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (name, command, flag) == ("cachenode", "drain", "--flush")
    assert pod["terminationGracePeriodSeconds"] >= parse_duration(flush) + 20


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


def test_what_the_image_copies_is_sent_to_the_builder() -> None:
    """.dockerignore lets in what the Dockerfile copies, and no more: the builder sees nothing else of the tree."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    let_in = {line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert names == let_in
    assert all((DEPLOY.parent / name).exists() for name in names)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def test_compose_nodes_are_configured() -> None:
    """The environment of each node is what a node takes."""
    nodes = {name: each["environment"] for name, each in compose()["services"].items() if name.startswith("node-")}
    assert sorted(nodes) == ["node-0", "node-1", "node-2"]
    for name, environ in nodes.items():
        config = load_config(flags={}, environ=environ, file=None)
        assert (config.node.id, config.node.advertise) == (name, f"{name}:7401")


@pytest.fixture
def with_leases(tmp_path: Path) -> str:
    """Each overlay's objects with membership in the API server's leases."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    overlay = tmp_path / "deploy" / "overlays" / "prod" / "kustomization.yaml"
    overlay.write_text(overlay.read_text() + "components:\n  - ../../components/leases\n")
    return kustomized(str(overlay.parent))


@pytest.mark.parametrize("release", RELEASES)
def test_leases_in_the_api_server(with_leases: str, release: str, tmp_path: Path) -> None:
    """The component lets nodes meet in leases: the account has the rights that the node asks for, and no others."""
    file = tmp_path / "all.yaml"
    file.write_text(with_leases)
    command = [tool("kubernetes-validate"), "--strict", "-k", release, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = {each["kind"]: each for each in yaml.safe_load_all(with_leases)}
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is found["ServiceAccount"]["automountServiceAccountToken"] is True
    environ = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert environ["CACHENODE_CLUSTER__DISCOVERY"] == "kubernetes"
    assert environ["CACHENODE_NODE__LISTEN"], "the rest of the environment is kept"
    assert found["Role"]["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "list", "watch", "create", "update", "delete"],
        }
    ]
    assert found["RoleBinding"]["subjects"][0]["name"] == found["ServiceAccount"]["metadata"]["name"]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]


def test_compose_watches_the_nodes() -> None:
    """Prometheus scrapes each node and has the rules; Grafana has the dashboards and asks that Prometheus."""
    services, configs = compose()["services"], compose()["configs"]
    contents = {name: yaml.safe_load(each["content"]) for name, each in configs.items()}
    [job] = contents["prometheus"]["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"node-{n}:7402" for n in range(3)]}]
    assert contents["grafana-source"]["datasources"][0]["url"] == "http://prometheus:9090"
    mounts = dict(
        each.removesuffix(":ro").split(":") for name in ("prometheus", "grafana") for each in services[name]["volumes"]
    )
    inside = {place: DEPLOY / outside for outside, place in mounts.items()}
    [rules] = contents["prometheus"]["rule_files"]
    assert inside[rules].is_file()
    [provider] = contents["grafana-dashboards"]["providers"]
    assert list(inside[provider["options"]["path"]].glob("*.json"))
    for service in services.values():
        assert {each["source"] for each in service.get("configs", [])} <= set(configs)
