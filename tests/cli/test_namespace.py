"""``cachenode namespace``, against a real node."""

from __future__ import annotations

import asyncio
import json

from cachenode.server import Server
from tests.cli.conftest import Invoke


async def test_settings_are_changed_and_shown(server: Server, invoke: Invoke) -> None:
    """set, get and list show the values, where they come from, and what cannot be changed."""

    async def run(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(invoke, "namespace", *arguments, "-a", server.address)
        return result.exit_code, result.output

    code, text = await run("set", "users", "ttl_s=10m", "stale_s=30s")
    assert code == 0
    assert "Version 1, followed by 1 of 1 nodes." in text
    assert "It is not kept" in text
    assert server.node.namespaces.get("users").policy.ttl_s == 600.0
    code, text = await run("get", "users")
    assert any(line.split()[:3] == ["ttl_s", "600.0", "live"] for line in text.splitlines())
    assert "no: while some nodes used L2" in text
    code, text = await run("get", "users", "-o", "json")
    document = json.loads(text.splitlines()[-1])
    assert (document["version"], document["configured"]) == (1, False)
    assert document["settings"]["stale_s"] == {"value": "30.0", "source": "live", "live": True}
    assert document["settings"]["max_value_bytes"]["value"] is None
    assert document["nodes"] == {"node-0": 1}
    code, text = await run("list")
    assert "ttl_s=600.0, stale_s=30.0" in " ".join(text.split()), text
    code, text = await run("set", "users", "--reset", "stale_s", "-o", "json")
    document = json.loads(text.splitlines()[-1])
    assert (document["settings"]["stale_s"]["source"], document["settings"]["ttl_s"]["source"]) == ("default", "live")
    assert (document["nodes"], document["kept"]) == ({"node-0": "follows"}, False)
    code, text = await run("set", "users", "--reset-all")
    assert server.node.namespaces.get("users").policy.ttl_s == 3_600.0
    code, text = await run("list", "-o", "json")
    assert [each["name"] for each in json.loads(text.splitlines()[-1])["namespaces"]] == ["default", "users"]
    assert server.stats().namespaces[1].policy_version == 3


async def test_what_is_wrong_is_told(server: Server, invoke: Invoke) -> None:
    """Every problem at once; nothing is changed; the exit code is that of wrong usage."""

    async def run(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(invoke, "namespace", *arguments, "-a", server.address)
        return result.exit_code, result.output

    code, text = await run("set", "users", "tll_s=3", "l2=false", "stale_s=-1", "ttl_s=5")
    assert code == 2
    assert "the change has 3 problems" in text
    assert "tll_s: there is no such setting; did you mean ttl_s?" in text
    assert "l2: cannot change live" in text
    assert "Nothing was changed" in text
    assert server.node.namespaces.get("users").policy.ttl_s == 3_600.0
    assert (await run("set", "users"))[0] == 2
    assert (await run("set", "users", "ttl_s"))[0] == 2
    code, text = await run("get", "no spaces")
    assert (code, "none of this name" in text) == (2, True)


def test_nobody_answers(invoke: Invoke) -> None:
    """The code is that of an unreachable cluster."""
    assert invoke("namespace", "list", "-a", "127.0.0.1:1").exit_code == 4
