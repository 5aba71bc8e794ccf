"""Node processes that meet in Kubernetes' leases, at an API server's endpoint that this process serves."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from cachenode_client import CacheClient, CacheError
from tests.integration.load import until
from tests.integration.test_discovery import views
from tests.support.lease_api import lease_api
from tests.support.static_nodes import static_nodes

EVERYBODY = ("node-0", "node-1", "node-2")


async def test_nodes_meet_in_leases(tmp_path: Path) -> None:
    """Three nodes end in one view, lose a dead one within 6 s, take it back, and one that leaves is out at once.

    When the API server was away for longer than a lease all goes on in the same view: nobody was given up.
    """
    async with lease_api(tmp_path) as api:
        settings = {"CLUSTER__DISCOVERY": "kubernetes", "CLUSTER__KUBECONFIG": api.kubeconfig}
        async with static_nodes(tmp_path, 3, **settings) as (children, addresses):

            async def members(names: tuple[str, ...], of: list[str]) -> bool:
                found = await views(of)
                return len(set(found)) == 1 and found[0][1] == names

            await until(lambda: members(EVERYBODY, addresses), 10, "one view of all")
            holders = {lease["spec"]["holderIdentity"].partition("/")[0] for lease in api.leases.values()}
            assert holders >= set(EVERYBODY)
            await until(lambda: api.watches == 3, 10, "all hear of changes")
            async with CacheClient(addresses[0]) as client:
                names = {f"k{n}": n for n in range(300)}
                await client.set_many(names)
                assert await client.get_many(names) == names

            children[0].send(signal.SIGKILL)
            await until(lambda: members(EVERYBODY[1:], addresses[1:]), 6.5, "the dead member leaves the view")
            await children[0].stop(1)
            flags = ["--http-listen", "", "--id", "node-0", "--listen", addresses[0]]
            await children[0].start(flags, timeout_s=20)
            await until(lambda: members(EVERYBODY, addresses), 10, "the member is back")

            before = await views(addresses[:1])
            api.status = 503
            asked = api.renewals
            await until(lambda: api.renewals > asked + 15, 15, "renewals for longer than a lease")
            api.status = 0
            async with CacheClient(addresses[0], timeout_s=10) as client:

                async def serves() -> bool:
                    with contextlib.suppress(CacheError):
                        await client.set("again", 1)
                        return bool(await client.get("again") == 1)
                    return False

                await until(serves, 20, "it serves again")
            assert await views(addresses[:1]) == before

            await children[2].stop(8)
            await until(lambda: members(EVERYBODY[:2], addresses[:2]), 3, "who leaves is out at once")
            assert not any(lease["spec"]["holderIdentity"].startswith("node-2/") for lease in api.leases.values())
