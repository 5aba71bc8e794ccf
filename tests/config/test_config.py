"""The node's configuration: precedence, every problem at once, no secrets in sight."""

from __future__ import annotations

import math
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from cachenode.config import FLAGS, NodeConfig, describe, fields_help, fields_table, load_config
from cachenode.core.policy import NamespacePolicy
from cachenode.errors import ConfigError


def load(
    toml: str | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> NodeConfig:
    file = None
    if toml is not None:
        assert folder is not None
        file = folder / "node.toml"
        file.write_text(toml, encoding="utf-8")
    return load_config(flags=flags or {}, environ=environ or {}, file=file)


def problems(
    toml: str | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(toml, flags=flags, environ=environ, folder=folder)
    return caught.value.problems


def test_nothing_configured_gives_a_lone_node_on_loopback() -> None:
    """Without any source the node runs alone on loopback, without L2, and has the default namespace."""
    config = load()
    assert config.node.listen == "127.0.0.1:7401"
    assert config.node.http_listen == "127.0.0.1:7402"
    assert config.node.id
    assert config.cluster.discovery == "none"
    assert config.memory.max_bytes == 256 * 1024 * 1024
    assert (config.l2_url(), config.registry_url()) == (None, None)
    (policy,) = config.policies()
    assert policy == NamespacePolicy("default", ttl_s=3600.0, max_value_bytes=1 << 20, l2=True, share=1.0)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source wins over the ones after it, field by field."""
    toml = "[cluster]\nname = 'file'\nlease_s = 9\n[node]\nid = 'file'\nweight = 3\n"
    environ = {"CACHENODE_CLUSTER__NAME": "env", "CACHENODE_NODE__ID": "env"}
    config = load(toml, environ=environ, flags={"node.id": "flag", "node.weight": None}, folder=tmp_path)
    assert (config.node.id, config.cluster.name, config.node.weight) == ("flag", "env", 3)
    assert (config.cluster.lease_s, config.cluster.heartbeat_s) == (9.0, 0.5)


def test_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    """CACHENODE_CONFIG names the file, and an explicit file beats it."""
    named, given = tmp_path / "named.toml", tmp_path / "given.toml"
    named.write_text("[node]\nid = 'named'\n", encoding="utf-8")
    given.write_text("[node]\nid = 'given'\n", encoding="utf-8")
    environ = {"CACHENODE_CONFIG": str(named)}
    assert load_config(flags={}, environ=environ, file=None).node.id == "named"
    assert load_config(flags={}, environ=environ, file=given).node.id == "given"


def test_short_variables_set_their_fields() -> None:
    """CACHENODE_L2_URL and CACHENODE_MEMORY stand for l2.url and memory.max_bytes."""
    config = load(environ={"CACHENODE_L2_URL": "redis://localhost/0", "CACHENODE_MEMORY": "1GiB"})
    assert config.l2_url() == "redis://localhost/0"
    assert config.registry_url() == "redis://localhost/0"
    assert config.memory.max_bytes == 1 << 30


def test_short_and_regular_variable_may_not_differ() -> None:
    """Two variables for one field with two values are a problem; with one value they are not."""
    environ = {"CACHENODE_MEMORY": "1GiB", "CACHENODE_MEMORY__MAX_BYTES": "2GiB"}
    assert problems(environ=environ) == (
        "memory.max_bytes: CACHENODE_MEMORY and CACHENODE_MEMORY__MAX_BYTES differ (environment); keep one of them",
    )
    assert load(environ=dict.fromkeys(environ, "1GiB")).memory.max_bytes == 1 << 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2097152", 2 << 20), ("2MiB", 2 << 20), ("2 mib", 2 << 20), ("2Mi", 2 << 20), ("2MB", 2_000_000), ("1GB", 10**9)],
)
def test_sizes_have_units(text: str, expected: int) -> None:
    """Sizes may be written with binary and decimal units, in any case."""
    assert load(environ={"CACHENODE_MEMORY": text}).memory.max_bytes == expected


@pytest.mark.parametrize("text", ["", "MiB", "1.5GiB", "-1", "1PiB", "10 parsecs", "1M"])
def test_sizes_without_a_clear_meaning_are_refused(text: str) -> None:
    """A size that nobody can be sure about is a problem."""
    (problem,) = problems(environ={"CACHENODE_MEMORY": text})
    assert problem == (
        "memory.max_bytes: must be a number of bytes or a size such as 64KiB, 256MiB or 1GiB"
        " (environment CACHENODE_MEMORY)"
    )


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Wrong values, unknown names and broken rules come in one error, a line each, with their sources."""
    toml = """
        node = 3
        strict_namespace = true
        [cluster]
        discovery = "statc"
        heartbeat_s = true
        [limits]
        max_value_bytes = "8MiB"
        [namespaces.products]
        ttl = 3
        share = nan
    """
    found = problems(
        toml,
        environ={"CACHENODE_NODE__WEIGTH": "3", "CACHENODE_NODE__REFLECTION": "perhaps"},
        flags={"node.listen": "0.0.0.0:7401"},
        folder=tmp_path,
    )
    file = f"file {tmp_path / 'node.toml'}"
    assert sorted(found) == sorted(
        [
            f"node: must be a table, [node] ({file})",
            f"strict_namespace: there is no such setting ({file}); did you mean strict_namespaces?",
            f"cluster.discovery: must be 'none', 'static', 'dns', 'redis' or 'kubernetes' ({file} [cluster])",
            f"cluster.heartbeat_s: must be a number ({file} [cluster])",
            f"namespaces.products.ttl: there is no such setting ({file} [namespaces.products]); did you mean ttl_s?",
            f"namespaces.products.share: must be above 0 ({file} [namespaces.products])",
            "CACHENODE_NODE__WEIGTH: there is no such setting (environment); did you mean CACHENODE_NODE__WEIGHT?",
            "node.reflection: must be true or false (environment CACHENODE_NODE__REFLECTION)",
            (
                "node.listen: would let other machines in without TLS; set tls.cert_file and tls.key_file, listen on"
                " 127.0.0.1, or say that the network can be trusted: node.insecure = true, flag --insecure"
                " (flag --listen)"
            ),
            (
                "limits.max_value_bytes: must be less than limits.max_frame_bytes, since a frame holds the value,"
                f" its key and more ({file} [limits])"
            ),
        ]
    )


def test_rules_about_a_bad_field_stay_silent() -> None:
    """A rule that looks at a field with a bad value says nothing, since it would judge the default."""
    environ = {"CACHENODE_CLUSTER__LEASE_S": "1", "CACHENODE_CLUSTER__HEARTBEAT_S": "often"}
    assert problems(environ=environ) == (
        "cluster.heartbeat_s: must be a number (environment CACHENODE_CLUSTER__HEARTBEAT_S)",
    )


def test_kubernetes_service_links_are_nobodys_configuration() -> None:
    """Variables that Kubernetes sets for Services called cachenode or cachenode-something are passed over."""
    environ = {
        "CACHENODE_PORT": "tcp://10.0.0.1:7401",
        "CACHENODE_PORT_7401_TCP": "tcp://10.0.0.1:7401",
        "CACHENODE_PORT_7401_TCP_ADDR": "10.0.0.1",
        "CACHENODE_PORT_7401_TCP_PORT": "7401",
        "CACHENODE_PORT_7401_TCP_PROTO": "tcp",
        "CACHENODE_SERVICE_HOST": "10.0.0.1",
        "CACHENODE_SERVICE_PORT": "7401",
        "CACHENODE_SERVICE_PORT_GRPC": "7401",
        "CACHENODE_HEADLESS_PORT": "tcp://10.0.0.2:7401",
        "CACHENODE_HEADLESS_SERVICE_HOST": "10.0.0.2",
    }
    assert load(environ=environ) == load()


def test_a_port_variable_that_is_no_service_link_is_a_problem() -> None:
    """CACHENODE_PORT=7401 is somebody's attempt to set the port, and is not passed over."""
    (problem,) = problems(environ={"CACHENODE_PORT": "7401"})
    assert problem.startswith("CACHENODE_PORT: there is no such setting (environment)")


def test_variables_of_others_can_be_ignored() -> None:
    """Names that the caller reads itself are not unknown; other people's prefixes never are."""
    environ = {"CACHENODE_ADDRESS": "127.0.0.1:1", "HOME": "/", "CACHENODES": "3"}
    assert load_config(flags={}, environ=environ, file=None, ignore=["CACHENODE_ADDRESS"]) == load()
    assert len(problems(environ=environ)) == 1


def test_an_unknown_flag_path_is_a_mistake_of_the_program() -> None:
    """A flag for a field that does not exist is not the user's problem."""
    with pytest.raises(ValueError, match=r"no setting node\.lissen"):
        load(flags={"node.lissen": "x"})


def test_every_flag_belongs_to_a_field() -> None:
    """The table of flags names existing fields, and no flag twice."""
    assert set(FLAGS) <= {item.path for item in fields_help()}
    assert len(set(FLAGS.values())) == len(FLAGS)


def test_namespaces_come_from_tables_and_variables(tmp_path: Path) -> None:
    """Namespaces keep their order, inherit the limits' value size, and may never expire."""
    toml = (
        '[limits]\nmax_value_bytes = "2MiB"\n[namespaces.products]\nttl_s = "never"\nl2 = false\n[namespaces."a.b"]\n'
    )
    config = load(toml, environ={"CACHENODE_NAMESPACES__PRODUCTS__SHARE": "2.5"}, folder=tmp_path)
    by_name = {policy.name: policy for policy in config.policies()}
    assert list(by_name) == ["default", "products", "a.b"]
    products = by_name["products"]
    assert (products.ttl_s, products.l2, products.share, products.max_value_bytes) == (math.inf, False, 2.5, 2 << 20)
    assert by_name["a.b"].ttl_s == 3600.0


def test_a_namespace_may_take_smaller_values_than_the_node() -> None:
    """A namespace's own value limit counts for it, up to and including the node's."""
    config = load(flags={"namespaces.small.max_value_bytes": "1KiB", "namespaces.full.max_value_bytes": "1MiB"})
    assert {policy.name: policy.max_value_bytes for policy in config.policies()} == {
        "default": 1 << 20,
        "small": 1 << 10,
        "full": 1 << 20,
    }


def test_a_life_of_none_is_never() -> None:
    """Whoever builds the tree in Python may say None for a life without end."""
    config = NodeConfig.model_validate({"namespaces": {"a": {"ttl_s": None}}})
    assert config.policies()[1].ttl_s == math.inf


def test_the_registry_may_be_another_redis() -> None:
    """Membership is kept where l2.registry_url says, with or without an L2."""
    flags = {"l2.registry_url": "redis://registry", "cluster.discovery": "redis"}
    config = load(flags=flags)
    assert (config.registry_url(), config.l2_url()) == ("redis://registry", None)
    assert load(flags={**flags, "l2.url": "redis://values"}).registry_url() == "redis://registry"


@pytest.mark.parametrize(
    ("host", "expected"), [("node_0.local", "node-0.local"), ("-", "node"), ("", "node"), ("n" * 200, "n" * 128)]
)
def test_the_machines_name_becomes_an_id(monkeypatch: pytest.MonkeyPatch, host: str, expected: str) -> None:
    """Without an id the node takes the machine's name, whatever that looks like."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert load().node.id == expected


def test_two_free_ports_are_not_the_same_address() -> None:
    """Port 0 for both listeners means two free ports."""
    config = load(flags={"node.listen": "127.0.0.1:0", "node.http_listen": "127.0.0.1:0"})
    assert config.node.listen == config.node.http_listen


def test_a_node_may_advertise_another_address() -> None:
    """The advertised address is any that others can connect to; port 0 stands for the bound one."""
    for address in ("10.0.0.7:0", "node-0.cachenode:7401"):
        assert load(flags={"node.advertise": address}).node.advertise == address


def test_a_namespace_with_a_bad_name_is_named(tmp_path: Path) -> None:
    """A name outside the allowed form is a problem, from a file and from a variable."""
    found = problems("[namespaces.Bad]\nttl = 1\n", environ={"CACHENODE_NAMESPACES___X__TTL_S": "1"}, folder=tmp_path)
    rule = "namespace: must be 1 to 64 of a-z 0-9 _ . - and begin with a letter or digit"
    assert problems(flags={"namespaces.-.l2": True}) == (f"namespaces.-: {rule} (flag --namespaces.-.l2)",)
    assert found == (
        f"namespaces.Bad: {rule} (file {tmp_path / 'node.toml'} [namespaces])",
        f"namespaces._x: {rule} (environment CACHENODE_NAMESPACES___X__TTL_S)",
    )


@pytest.mark.parametrize("value", [0, -1, "nan", float("nan"), True, "soon"])
def test_a_life_must_be_above_zero(value: object) -> None:
    """Zero, negative, undefined and unreadable lives are refused; NaN would never expire."""
    assert problems(flags={"namespaces.default.ttl_s": value})[0].startswith("namespaces.default.ttl_s: must be ")


@pytest.mark.parametrize(
    "address",
    ["7401", ":7401", "localhost", "::1:7401", "[::1]", "[nope]:1", "a b:1", "h:65536", "h:-1", "h:٣", "http://h:1"],
)
def test_bad_addresses_are_refused(address: str) -> None:
    """An address is host:port, IPv6 in brackets, with a port that exists."""
    (problem,) = problems(flags={"node.listen": address})
    assert problem.startswith("node.listen: must ")
    assert problem.endswith("(flag --listen)")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:1", "[::1]:7401", "127.9.9.9:7401"])
def test_loopback_needs_no_leave(address: str) -> None:
    """Loopback in all its forms may be listened on without node.insecure; port 0 means a free one."""
    assert load(flags={"node.listen": address}).node.listen == address


@pytest.mark.parametrize("address", ["0.0.0.0:7401", "[::]:7401", "10.1.2.3:7401", "node-0.cachenode:7401"])
@pytest.mark.parametrize("name", ["listen", "http_listen"])
def test_reachable_addresses_need_insecure(name: str, address: str) -> None:
    """What other machines may reach needs TLS or node.insecure."""
    other = {"node.listen": "127.0.0.1:0"} if name == "http_listen" else {}
    flags = {**other, f"node.{name}": address}
    (problem,) = problems(flags=flags)
    assert problem.startswith(f"node.{name}: would let other machines in")
    assert getattr(load(flags={**flags, "node.insecure": True}).node, name) == address


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"cluster.discovery": "static"}, "cluster.seeds"),
        ({"cluster.discovery": "dns"}, "cluster.dns_name"),
        ({"cluster.discovery": "redis"}, "l2.registry_url"),
        ({"cluster.seeds": "a:1,b:2"}, "cluster.discovery"),
        ({"cluster.dns_name": "nodes:7401"}, "cluster.discovery"),
        ({"cluster.lease_s": 1.4}, "cluster.lease_s"),
        ({"node.http_listen": "127.0.0.1:7401"}, "node.http_listen"),
        ({"node.advertise": "0.0.0.0:7401"}, "node.advertise"),
        ({"limits.max_value_bytes": "4MiB"}, "limits.max_value_bytes"),
        ({"namespaces.big.max_value_bytes": "2MiB"}, "namespaces.big.max_value_bytes"),
        ({"memory.max_bytes": "1023KiB"}, "memory.max_bytes"),
        ({"memory.policy": "random"}, "memory.policy"),
        ({"memory.process_bytes": "1GiB", "memory.max_bytes": "512MiB"}, "memory.max_bytes"),
        ({"memory.process_bytes": "127MiB"}, "memory.process_bytes"),
        ({"node.id": "a b"}, "node.id"),
        ({"limits.max_batch_keys": 1.5}, "limits.max_batch_keys"),
    ],
)
def test_broken_rules_name_the_field_to_change(flags: Mapping[str, object], field: str) -> None:
    """Each rule that is broken alone gives one problem, about the field that has to change."""
    (problem,) = problems(flags=flags)
    assert problem.startswith(f"{field}: must ")


@pytest.mark.parametrize(("process", "entries"), [("128MiB", 21), ("384MiB", 213), ("1GiB", 682), ("4GiB", 2730)])
def test_entries_get_what_the_process_does_not_need(process: str, entries: int) -> None:
    """A limit of the process leaves a third of what entries take, and 100 MiB, to the process itself."""
    config = load(environ={"CACHENODE_MEMORY__PROCESS_BYTES": process})
    assert config.memory.budget() >> 20 == entries
    assert 4 * config.memory.budget() // 3 + (100 << 20) <= config.memory.process_bytes
    assert load(flags={"memory.max_bytes": "7MiB"}).memory.budget() == 7 << 20


def test_a_list_is_one_setting() -> None:
    """Several bad elements of a list make one problem, about the list."""
    (problem,) = problems(flags={"cluster.seeds": ["a:1", "b", "c"], "cluster.discovery": "static"})
    assert problem == "cluster.seeds: must be host:port, for example 127.0.0.1:7401 (flag --seed)"


def test_discovery_can_be_turned_off_over_a_file(tmp_path: Path) -> None:
    """A flag may make one node run alone although the file lists its peers."""
    toml = "[cluster]\ndiscovery = 'static'\nseeds = ['a:1', 'b:2']\n"
    assert load(toml, folder=tmp_path).cluster.seeds == ("a:1", "b:2")
    assert load(toml, flags={"cluster.discovery": "none"}, folder=tmp_path).cluster.discovery == "none"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@cache:6379/0",
        "redis://hunter2@cache",
        "redis://:hun@hunter2@cache:6379",
        "redis+sentinel://admin:hunter2@cache:26379,other:26379/mymaster/1",
        "rediss+cluster://:hunter2@cache:7000,other",
    ],
)
def test_passwords_are_starred_out(url: str) -> None:
    """A configuration as text shows where Redis is but no password, in whatever place of the URL it stands."""
    text = describe(load(environ={"CACHENODE_L2_URL": url}))
    assert "hunter2" not in text
    assert "***" in text
    assert "@cache" in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@cache:1",
        "hunter2",
        "redis://:hunter2@",
        "http://hunter2@cache",
        "redis://:hunter2@cache:99999",
        "redis://cache:0",
        "redis://cache/zero",
        "unix://",
        "rediss://admin:hunter2@cache:6379/0?ssl_ca_certs=hunter2",
        "unix:///run/valkey.sock?password=hunter2",
        "redis+sentinel://:hunter2@cache:26379",
        "redis+sentinel://:hunter2@cache:26379,other:x/mymaster",
        "redis+cluster://:hunter2@cache:7000/3",
        "redis+ring://:hunter2@cache",
    ],
)
def test_problems_never_repeat_a_url(url: str) -> None:
    """A URL that is refused is not shown, and neither is any part of it."""
    (problem,) = problems(environ={"CACHENODE_L2_URL": url})
    assert "hunter2" not in problem
    assert problem.startswith("l2.url: must be none, redis://")


def test_description_can_be_loaded_again(tmp_path: Path) -> None:
    """What describe prints is a TOML file that gives the same configuration."""
    flags = {
        "namespaces.products.ttl_s": "never",
        "namespaces.a.max_value_bytes": 1000,
        "namespaces.default.ttl_s": 1.5,
        "cluster.seeds": ["a:1", "[::1]:2"],
        "cluster.discovery": "static",
        "memory.max_bytes": 3_000_001,
        "node.http_listen": "",
    }
    config = load('[namespaces."x.y"]\nshare = 3\n', flags=flags, folder=tmp_path)
    text = describe(config)
    table = tomllib.loads(text)
    assert (table["memory"]["max_bytes"], table["namespaces"]["products"]["ttl_s"]) == ("3000001", "never")
    assert load(text, folder=tmp_path) == config


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"[node", "is not valid TOML: "), (b"\xff", "is not UTF-8 text"), (None, "cannot be read: No such file")],
)
def test_files_that_cannot_be_read_are_problems(tmp_path: Path, content: bytes | None, text: str) -> None:
    """A missing, damaged or binary file is reported like any other problem, beside the others."""
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(flags={"node.weight": 0}, environ={}, file=file)
    about_file, about_flag = caught.value.problems
    assert about_file.startswith(f"{file}: {text}")
    assert about_flag == "node.weight: must be 1 or more (flag --node.weight)"


def test_a_configuration_cannot_be_changed() -> None:
    """The tree is frozen all the way down."""
    config = load()
    with pytest.raises(ValidationError):
        config.node.weight = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.namespaces["x"] = config.namespaces["default"]  # type: ignore[index]


def test_every_field_has_help() -> None:
    """Every field is in the table, with a sentence and its environment variable."""
    items = fields_help()
    assert all(item.text and item.variables[0].startswith("CACHENODE_") for item in items)
    by_path = {item.path: item for item in items}
    assert by_path["memory.max_bytes"].default == '"256MiB"'
    assert by_path["memory.max_bytes"].variables == ("CACHENODE_MEMORY__MAX_BYTES", "CACHENODE_MEMORY")
    assert by_path["namespaces.<name>.ttl_s"].default == "3600.0"
    assert by_path["node.id"].default == ""
    assert len(fields_table().splitlines()) == len(items) + 2


ORIGIN = """
[origins.users]
loader = "shop:load"
options = { url = "postgresql://u:secret@db/shop", size = 5 }
batch_keys = 50
timeout_s = 2
[namespaces.users]
origin = "users"
negative_ttl_s = 30
"""


def test_origins_come_from_tables(tmp_path: Path) -> None:
    """A namespace names its origin; what the loader is made with is never shown."""
    config = load(ORIGIN, environ={"CACHENODE_ORIGINS__USERS__CONCURRENCY": "4"}, folder=tmp_path)
    origin = config.origins["users"]
    assert (origin.loader, dict(origin.options)["size"], origin.batch_keys) == ("shop:load", 5, 50)
    limits = origin.limits()
    assert (limits.concurrency, limits.timeout_s, limits.attempts, limits.window_s) == (4, 2.0, 3, 0.0)
    policy = {policy.name: policy for policy in config.policies()}["users"]
    assert (policy.origin, policy.negative_ttl_s) == ("users", 30.0)
    shown = describe(config)
    assert "u:secret" not in shown
    assert tomllib.loads(shown)["origins"]["users"]["options"] == {"url": "***", "size": "***"}


def test_origins_that_are_not_there(tmp_path: Path) -> None:
    """A misspelt name, a table without a loader, a setting that does not exist: each is told."""
    toml = '[origins.users]\nload = "x:y"\n[namespaces.a]\norigin = "user"\n[namespaces.b]\norigin = "users"\n'
    file = f"file {tmp_path / 'node.toml'}"
    assert problems(toml, folder=tmp_path) == (
        f"origins.users.load: there is no such setting ({file} [origins.users]); did you mean loader?",
        "origins.users.loader: must say what loads a value, or sink what writes one: module:name, or what is installed",
        (
            "namespaces.a.origin: must be the name of an origin, that is of a table [origins.<name>]; "
            "did you mean users? "
            f"({file} [namespaces.a])"
        ),
    )


def test_writes_need_a_sink(tmp_path: Path) -> None:
    """Writes that go through to an origin need one that can be written."""
    through = 'write = "through"\n'
    toml = f'[origins.o]\nloader = "x:y"\n[namespaces.a]\norigin = "o"\n{through}[namespaces.b]\n{through}'
    text = "must be around, or origin the name of one with a sink to write through"
    found = problems(toml, folder=tmp_path)
    assert [each.partition(" (")[0] for each in found] == [f"namespaces.{name}.write: {text}" for name in "ab"]
    good = load(toml.replace("loader", "sink").partition("[namespaces.b]")[0], folder=tmp_path)
    assert {policy.name: policy.write for policy in good.policies()} == {"default": "around", "a": "through"}


def test_adaptive_lives(tmp_path: Path) -> None:
    """Steps are a list or one text; the policy has them, and what leaves somebody out or crosses is refused."""
    toml = '[namespaces.a]\nadaptive_ttl = true\nadaptive_steps = [">5: 1h", "10m"]\nadaptive_min_s = 30\n'
    (policy,) = [each for each in load(toml, folder=tmp_path).policies() if each.name == "a"]
    assert (policy.adaptive_ttl, policy.adaptive_steps, policy.adaptive_min_s) == (True, (">5: 1h", "10m"), 30)
    by_text = load(environ={"CACHENODE_NAMESPACES__A__ADAPTIVE_STEPS": ">5: 1h, 10m"})
    assert by_text.namespaces["a"].adaptive_steps == (">5: 1h", "10m")
    field = "namespaces.a.adaptive_steps"
    for steps, rule in ((">5: 1h", "must end with a TTL alone"), ("x", "must be steps such as"), ("", "must end with")):
        assert problems(flags={field: steps})[0].startswith(f"{field}: {rule}")
    crossed = problems(flags={"namespaces.a.adaptive_min_s": 9, "namespaces.a.adaptive_max_s": 8})
    assert crossed[0].startswith("namespaces.a.adaptive_min_s: must be at most adaptive_max_s")


EVENTS = """
[[event]]
name = "user.deleted"
invalidates = ["user:{userId}", "user:{userId}:*"]
tags = ["user-{userId}"]
namespace = "users"
mode = "expire"
[[event]]
name = "feed"
invalidates = ["feed:*"]
[events]
min_prefix = 5
"""


def test_rules_of_events(tmp_path: Path) -> None:
    """Entries are read in order, and shown so that they can be read again."""
    config = load(EVENTS, folder=tmp_path)
    first, second = config.event
    assert (first.name, first.mode, first.namespace, first.tags) == (
        "user.deleted",
        "expire",
        "users",
        ("user-{userId}",),
    )
    assert (second.invalidates, second.mode, config.events.min_prefix) == (("feed:*",), "remove", 5)
    assert load(describe(config), folder=tmp_path).event == config.event


def test_all_problems_of_events_at_once(tmp_path: Path) -> None:
    """Each entry's problems are told with its number."""
    toml = """
    [[event]]
    name = "a b"
    invalidates = ["{"]
    [[event]]
    name = "c"
    """
    first, second, third = problems(toml, folder=tmp_path)
    assert first.startswith("event: number 1: name: must be 1 to 128")
    assert second.startswith("event: number 1: invalidates: number 1: after {")
    assert third.startswith("event: number 2: invalidates: must name at least one")
    wrong = '[[event]]\nname = 7\nkeys = ["a"]\n[[event]]\nmode = "forget"\n'
    found = sorted(problem.partition(" (file")[0] for problem in problems(wrong, folder=tmp_path))
    assert found == [
        "event: number 1: keys: there is no such setting",
        "event: number 1: name: must be text",
        "event: number 2: mode: must be 'remove' or 'expire'",
    ]
    (problem,) = problems("event = 7", folder=tmp_path)
    assert problem.startswith("event: must be a list")
    many = "\n".join(f'[[event]]\nname = "e{at}"\ntags = ["t"]' for at in range(1_001))
    assert problems(many, folder=tmp_path)[0].startswith("event: 1,001 rules exceed the limit of 1,000")


def test_webhook_needs_the_http_port() -> None:
    """A secret for a port that is off is a mistake."""
    (problem,) = problems(flags={"events.webhook_secret_file": "secret", "node.http_listen": ""})
    assert problem.startswith("events.webhook_secret_file: needs the HTTP port")


@pytest.mark.parametrize("name", ["stream", "channel"])
def test_feeds_of_events_need_a_redis(name: str) -> None:
    """Their own, that of the registry, or that of L2."""
    (problem,) = problems(flags={f"events.{name}": "x"})
    assert problem.startswith(f"events.{name}: needs a Redis")
    for field in ("events.url", "l2.url", "l2.registry_url"):
        config = load(flags={f"events.{name}": "x", field: "redis://r:1/0"})
        assert config.events_url() == "redis://r:1/0"


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("url = 'rediss://c'\ncert_file = '/c.pem'", "l2.key_file: must be set too"),
        ("url = 'rediss://c'\nkey_file = '/k.pem'", "l2.cert_file: must be set too"),
        ("url = 'redis://c'\nca_file = '/ca.pem'", "l2.ca_file: says nothing without TLS"),
        ("url = 'redis://c'\nusername = 'node'", "l2.password_file: must be set too"),
        ("password_file = '/p'", "l2.password_file: says nothing without a Redis"),
        (
            "url = 'redis://c'\nsentinel_password_file = '/p'",
            "l2.sentinel_password_file: says nothing without sentinels",
        ),
    ],
)
def test_access_to_redis_must_fit_its_url(tmp_path: Path, toml: str, problem: str) -> None:
    """Files and users that would not be used, or lack their other half, are problems that name the setting."""
    (found,) = problems(f"[l2]\n{toml}\n", folder=tmp_path)
    assert found.startswith(problem)


def test_access_to_redis_of_another_url_counts(tmp_path: Path) -> None:
    """Certificates are of use if any of the servers speaks TLS."""
    toml = "[l2]\nurl = 'redis://c'\nqueue_url = 'rediss://q'\nca_file = '/ca.pem'\n"
    assert load(toml, folder=tmp_path).l2.ca_file == "/ca.pem"
