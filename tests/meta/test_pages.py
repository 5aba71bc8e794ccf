"""What the pages name exists: settings, commands and their options, metrics, methods of the clients, other pages.

A page that names what is gone, or what is not there yet, fails here, so that pages cannot rot.
"""

from __future__ import annotations

import ast
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from cachenode.adapters.metrics import NodeCollector
from cachenode.cli.docs import pages
from cachenode.cli.main import app
from cachenode.config import load_config
from cachenode.config.sources import field_paths
from cachenode.core.stats import NodeStats
from cachenode_client import CacheClient
from cachenode_client.blocking import CacheClient as Blocking

TOP = Path(__file__).parents[2]
FOLDER = TOP / "cachenode/docs"
READMES = ("README.md", "client/README.md", "client/examples/README.md", "deploy/README.md", "deploy/RUNBOOK.md")
PAGES = pages()
AWAITED: set[str] = set()
"""Pages that others link to already, and that are being written."""
every_page = pytest.mark.parametrize("name", sorted(PAGES))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEREDOC = re.compile(r"^\$ cat > (\S+)(?: <<'(\w+)')?\n(.*?)(?=^\2$|^\$ |\Z)", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"\bcachenode (?:--\w+ )?([a-z][a-z-]*)(?![\w/])((?: +[^|;&>)`\n]+)?)")
_METRIC = re.compile(r"\b(?:cache|cachenode)_(?!client\b|api\b)[a-z0-9_]+\b(?![.(=])")
_SHORT_METRIC = re.compile(r"_[a-z][a-z0-9_]*\Z")
_SETTING = re.compile(r"(?!.*\.(?:crt|json|key|py|toml)\Z)[a-z0-9_]+(?:\.[a-z0-9_<>]+)+\Z")
_OPTION = re.compile(r"--?[a-z]")
_METHOD = re.compile(r"\bcache\.([a-z_]+)\(")


def blocks(text: str, kind: str) -> Iterator[str]:
    """Yield what stands in fenced blocks of a language, and in files that console blocks write."""
    for language, content in _BLOCK.findall(text):
        if language == kind:
            yield content
        if language == "console":
            yield from (inner for file, _, inner in _HEREDOC.findall(content) if _language(file) == kind)


def _language(file: str) -> str:
    return {".py": "python", ".toml": "toml"}.get(Path(file).suffix, "")


def spans(text: str) -> list[str]:
    """Return what stands between backticks in the prose."""
    return _SPAN.findall(_BLOCK.sub("", text))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of this project that a page calls or names, with what follows them."""
    called = [_HEREDOC.sub("", block) for block in blocks(text, "console")]
    lines = [line for block in called for line in block.splitlines() if line.startswith("$ ")]
    for line in lines + spans(text):
        yield from _COMMAND.findall(line)


def zeros(kind: Any) -> Any:
    """Return a record of counters with one of everything that has a name in it: so a collector shows all its families.

    Families of what has no name, such as durations, are shown without samples, too.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(kind, localns={"Mapping": Mapping})
    for field in fields(kind):
        hint = hints[field.name]
        inner = typing.get_args(hint)
        if typing.get_origin(hint) is tuple and is_dataclass(inner[0]):
            named = any(each.name == "name" for each in fields(inner[0]))
            values[field.name] = (zeros(inner[0]),) if named else ()
        elif typing.get_origin(hint) is Mapping:
            values[field.name] = {}
        elif is_dataclass(hint):
            values[field.name] = zeros(hint)
        elif isinstance(hint, types.UnionType):
            values[field.name] = None
        else:
            values[field.name] = hint()
    return kind(**values)


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """The names under which Prometheus finds what nodes export, and those of the labels."""
    families = list(NodeCollector(lambda: zeros(NodeStats)).collect())
    endings = {"counter": ["_total"], "histogram": ["", "_bucket", "_count", "_sum"]}
    labels = {label for each in families for sample in each.samples for label in sample.labels}
    labels.add("cachenode_certificate_expiry_timestamp_seconds")  # only where there is a certificate
    return labels | {each.name + ending for each in families for ending in endings.get(each.type, [""])}


def unknown_links(text: str, folder: Path = FOLDER) -> set[str]:
    """Return links that lead to nothing."""
    targets = {target.partition("#")[0] for target in _LINK.findall(text) if "://" not in target}
    return {target for target in targets if target and not (folder / target).exists()}


def unknown_settings(text: str) -> set[str]:
    """Return settings that prose names and no node has."""
    known = {".".join(path).replace("*", "<name>") for path in field_paths()}
    sections = {path[0] for path in field_paths()}
    named = {span for span in spans(text) if _SETTING.match(span)}
    return {span for span in named if span.partition(".")[0] in sections} - known


def unknown_commands(text: str) -> set[str]:
    """Return commands that there are not, and options that a command does not have."""
    tree = typer.main.get_command(app)
    assert isinstance(tree, TyperGroup)
    unknown = set()
    for name, rest in commands(text):
        words = rest.split()
        found = tree.commands.get(name)
        if isinstance(found, TyperGroup) and words and not _OPTION.match(words[0]):
            name, found = f"{name} {words[0]}", found.commands.get(words.pop(0))  # noqa: PLW2901 - the whole name
        if found is None:
            unknown.add(name)
            continue
        known = {option for parameter in found.params for option in parameter.opts}
        unknown |= {f"{name} {word}" for word in words if _OPTION.match(word) and word not in known}
    return unknown


def unknown_metrics(text: str, metrics: set[str]) -> set[str]:
    """Return metrics that no node exports. One whose beginning is left out has that of the one before it."""
    unknown = {found for found in _METRIC.findall(text) if found not in metrics}
    before: list[str] = []
    for span in spans(text):
        if span in metrics:
            before = span.split("_")
        elif _SHORT_METRIC.match(span) and not any(
            "_".join(before[:end]) + span in metrics for end in range(len(before))
        ):
            unknown.add(span)
    return unknown


def named_metrics(text: str, metrics: set[str]) -> set[str]:
    """Return the metrics that a text names, also those whose beginning it leaves out."""
    named = {found for found in _METRIC.findall(text) if found in metrics}
    before: list[str] = []
    for span in spans(text):
        if span in metrics:
            before = span.split("_")
        elif _SHORT_METRIC.match(span):
            named |= {"_".join(before[:end]) + span for end in range(len(before))} & metrics
    return named


def family_of(metric: str, metrics: set[str]) -> str:
    """Return what the samples of a histogram belong to, and any other metric as it is."""
    family = re.sub(r"_(?:bucket|count|sum)\Z", "", metric)
    return family if family in metrics else metric


def unknown_methods(text: str) -> set[str]:
    """Return what is called of a client that not both clients have."""
    methods = set(_METHOD.findall(text))
    return {method for method in methods if not (hasattr(CacheClient, method) and hasattr(Blocking, method))}


@pytest.mark.parametrize("name", READMES)
def test_links_of_readmes(name: str) -> None:
    """What the READMEs link to is there."""
    readme = TOP / name
    assert unknown_links(readme.read_text(encoding="utf-8"), readme.parent) == set()


@pytest.mark.parametrize("name", READMES)
def test_readmes_name_what_exists(name: str) -> None:
    """Settings, commands and their options, and methods: also those of the pages on deploying, and of the runbook."""
    text = (TOP / name).read_text(encoding="utf-8")
    assert unknown_settings(text) == set()
    assert unknown_commands(text) == set()
    assert unknown_methods(text) == set()


@pytest.mark.parametrize("name", [name for name in READMES if name.startswith("deploy/")])
def test_runbook_asks_for_metrics_that_there_are(name: str, metrics: set[str]) -> None:
    """Who follows it at night finds what it names."""
    assert unknown_metrics((TOP / name).read_text(encoding="utf-8"), metrics) == set()


@pytest.mark.parametrize("name", READMES)
def test_readme_names_what_exists(name: str, metrics: set[str]) -> None:
    """Settings, commands, metrics and methods are there, as in pages."""
    text = (TOP / name).read_text(encoding="utf-8")
    assert unknown_settings(text) == set()
    assert unknown_commands(text) == set()
    assert unknown_metrics(text, metrics) == set()
    assert unknown_methods(text) == set()


def test_every_command_is_in_the_readme() -> None:
    """Who looks for a command finds what it does in the table."""
    tree = typer.main.get_command(app)
    assert isinstance(tree, TyperGroup)
    table = "".join(line for line in (TOP / "README.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `")
    assert [name for name in tree.commands if f"`{name}`" not in table] == []


def test_every_metric_is_explained(metrics: set[str]) -> None:
    """No node exports what no page and no README names."""
    texts = [page.text for page in PAGES.values()] + [(TOP / name).read_text(encoding="utf-8") for name in READMES]
    named = set().union(*(named_metrics(text, metrics) for text in texts))
    families = {family_of(metric, metrics) for metric in metrics if metric.startswith(("cache_", "cachenode_"))}
    assert families - {family_of(metric, metrics) for metric in named} == set()


@every_page
def test_pages_link_to_pages(name: str) -> None:
    """Pages are shipped without the rest of the tree, so no link leads out of them."""
    assert [target for target in _LINK.findall(PAGES[name].text) if target.startswith("..")] == []


@every_page
def test_page_names_what_exists(name: str, metrics: set[str]) -> None:
    """Links, settings, commands, metrics and methods are there."""
    text = PAGES[name].text
    assert unknown_links(text) == set()
    assert unknown_settings(text) == set()
    assert unknown_commands(text) == set()
    assert unknown_metrics(text, metrics) == set()
    assert unknown_methods(text) == set()


@every_page
def test_examples_of_a_page_are_valid(name: str, tmp_path: Path) -> None:
    """Each TOML block is a configuration that a node takes, and Python can be parsed."""
    for block in blocks(PAGES[name].text, "toml"):
        (tmp_path / "node.toml").write_text(block)
        load_config(flags={}, environ={}, file=tmp_path / "node.toml")
    for block in blocks(PAGES[name].text, "python"):
        ast.parse("async def page():\n" + indent(block, "    "))


def test_what_does_not_exist_is_noticed(metrics: set[str]) -> None:
    """The checks can fail."""
    text = """
    See [gone](gone.md) and [read-through](read-through.md#try-it); `memory.bytes`, `memory.max_bytes`,
    `origins.<name>.speed`; `cachenode fly`, `cachenode get --fast k`, `cachenode config print`, `cachenode config fly`;
    `cachenode_origin_calls_total`, `_keys_total`, `_lies_total`, `cache_lies`;
    await cache.get("k"); await cache.fly("k").
    """
    assert unknown_links(text) == {"gone.md"}
    assert unknown_settings(text) == {"memory.bytes", "origins.<name>.speed"}
    assert unknown_commands(text) == {"fly", "get --fast", "config fly"}
    assert unknown_metrics(text, metrics) == {"_lies_total", "cache_lies"}
    assert unknown_methods(text) == {"fly"}
