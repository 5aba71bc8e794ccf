"""The Helm chart: it makes the objects of the overlays, lints clean, and refuses values that make none."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import DEPLOY, NAMES, Rendered, chart, chart_values, kustomized, tool

_CHARTS_OWN = re.compile(r"(app\.kubernetes\.io/(instance|managed-by|version)|helm\.sh/chart|checksum/\w+)$")
_HASHED = re.compile(r"(cachenode-(?:config|l2|dashboards))-[a-z0-9]{10}$")
GOOD = {"insecure": True, "valkey": {"enabled": True}}
EVERYTHING = {
    "image": {"digest": "sha256:" + 64 * "0", "pullSecrets": ["registry"]},
    "l2": {"url": "rediss://redis.example:6379/0"},
    "tls": {"enabled": True, "verifyClients": False},
    "leases": {"enabled": True},
    "monitoring": {"podMonitor": True, "alerts": True, "dashboards": True, "runbookUrl": "https://wiki.example/cache"},
    "env": [{"name": "CACHENODE_LOG__LEVEL", "value": "debug"}],
    "volumes": [{"name": "extra", "emptyDir": {}}],
    "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "shop"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "cache", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "high",
}
"""Every value that is nothing by default."""


def objects(rendered: Mapping[str, str]) -> Rendered:
    documents = "\n---\n".join(text for name, text in rendered.items() if name.endswith(".yaml"))
    return [each for each in yaml.safe_load_all(documents) if each]


def alike(value: Any) -> Any:
    """Return an object without what a chart must have of its own, names without their hash, named things in order."""
    if isinstance(value, dict):
        kept = {key: alike(each) for key, each in value.items() if not _CHARTS_OWN.match(key)}
        return {key: each for key, each in kept.items() if each != {}}
    if isinstance(value, list):
        parts = [alike(each) for each in value]
        named = all(isinstance(each, dict) and "name" in each for each in parts)
        return sorted(parts, key=lambda part: str(part["name"])) if named else parts
    return _HASHED.sub(r"\1", value) if isinstance(value, str) else value


def by_name(found: Rendered) -> dict[str, Any]:
    return {f"{each['kind']} {each['metadata']['name']}": each for each in map(alike, found)}


@pytest.mark.parametrize("name", NAMES)
def test_chart_makes_the_overlays_objects(name: str) -> None:
    """Who installs the chart runs what who applies the overlay runs."""
    made = by_name(objects(chart(chart_values(name))["objects"]))
    wanted = by_name(list(yaml.safe_load_all(kustomized(name))))
    assert made == wanted


@pytest.mark.parametrize("values", [*map(chart_values, NAMES), EVERYTHING], ids=[*NAMES, "everything"])
def test_linter_has_nothing_to_say(values: Mapping[str, Any]) -> None:
    """Helm's own linter, strict, for the oldest release."""
    assert chart(values)["findings"] == []


@pytest.mark.parametrize("release", ["1.32", "1.37"])
def test_every_value_makes_valid_objects(release: str, tmp_path: Path) -> None:
    """With everything set that can be set, the objects fit their schemas."""
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(objects(chart(EVERYTHING)["objects"])))
    command = [tool("kubernetes-validate"), "--strict", "-k", release, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_value_arrives() -> None:
    """What is nothing by default is in the objects once it is said."""
    text = "\n".join(chart(EVERYTHING)["objects"].values())
    for word in (
        "@sha256:0",
        "registry",
        "LOG__LEVEL",
        "/extra",
        "team: shop",
        "disk: ssd",
        "Exists",
        "podAntiAffinity",
    ):
        assert word in text, word
    assert "priorityClassName: high" in text
    assert "https://wiki.example/cache#cachenodedown" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GOOD | {"replicas": "three"}, "at '/replicas': got string, want integer"),
        (GOOD | {"replicas": 0}, "at '/replicas': minimum: got 0, want 1"),
        (GOOD | {"memory": "lots"}, "at '/memory': 'lots' does not match pattern"),
        (GOOD | {"replica": 3}, "additional properties 'replica' not allowed"),
        (GOOD | {"tls": {"enable": True}}, "at '/tls': additional properties 'enable' not allowed"),
        (GOOD | {"l2": {"url": "http://redis"}}, "at '/l2/url'"),
        (GOOD | {"terminationGracePeriodSeconds": 5}, "minimum: got 5, want 25"),
        (GOOD | {"networkPolicy": {"clientLabels": {"cachenode/client": True}}}, "got boolean, want string"),
        ({}, "set tls.enabled=true (with a Secret tls.secretName), or insecure=true"),
        (GOOD | {"tls": {"enabled": True}}, "tls.enabled and insecure exclude each other"),
        ({"insecure": True}, "Say where L2 is in one way"),
        (GOOD | {"l2": {"url": "redis://redis:6379"}}, "Say where L2 is in one way"),
    ],
)
def test_bad_values_are_refused(values: Mapping[str, Any], message: str) -> None:
    """Before anything is applied, in words that name the value."""
    answer = chart(values)
    assert message in answer.get("error", "")


def test_change_of_configuration_rolls_the_pods() -> None:
    """The pods bear sums of what they read at their start, so that they change with it."""

    def sums(values: Mapping[str, Any]) -> dict[str, str]:
        [pods] = [each for each in objects(chart(values)["objects"]) if each["kind"] == "StatefulSet"]
        return dict(pods["spec"]["template"]["metadata"]["annotations"])

    first, config, secret = (
        sums(GOOD),
        sums(GOOD | {"config": "[log]\nlevel = 'debug'\n"}),
        sums({"insecure": True, "l2": {"url": "redis://other:6379/0"}}),
    )
    assert first["checksum/config"] != config["checksum/config"]
    assert first["checksum/l2"] == config["checksum/l2"] != secret["checksum/l2"]


def test_leases_are_those_of_the_component(tmp_path: Path) -> None:
    """Nodes that meet in the API server's leases get the same rights from the chart as from the overlay's component."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    overlay = tmp_path / "deploy/overlays/dev/kustomization.yaml"
    overlay.write_text(overlay.read_text() + "components:\n  - ../../components/leases\n")
    wanted = by_name(list(yaml.safe_load_all(kustomized(str(overlay.parent)))))
    assert by_name(objects(chart(chart_values("dev") | {"leases": {"enabled": True}})["objects"])) == wanted


def test_notes_say_what_to_do_next() -> None:
    """Where clients begin, and what is not protected."""
    plain = chart(GOOD)["objects"]["cachenode/templates/NOTES.txt"]
    assert "dns:///cachenode:7401" in plain
    assert "whoever reaches the pods may read and write" in plain
    assert "whoever reaches" not in chart(chart_values("prod"))["objects"]["cachenode/templates/NOTES.txt"]
