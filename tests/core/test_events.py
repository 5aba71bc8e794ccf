"""Event rules: what comes of patterns and fields, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.events import MAX_FIELDS, EventRule, EventRules, Template, check_event_name, parse_event
from cachenode.errors import EventRefused
from cachenode_api.reasons import Reason
from cachenode_api.selectors import Selector


def rules(*invalidates: str, tags: tuple[str, ...] = (), min_prefix: int = 3, **more: Any) -> EventRules:
    rule, problems = EventRule.parse("e", invalidates, tags, **more)
    assert rule is not None, problems
    return EventRules([rule], min_prefix=min_prefix)


def shown(filled: bytes | Selector) -> str:
    if isinstance(filled, bytes):
        return f"key {filled.decode()}"
    return f"{filled.kind.name.lower()} {filled.text.decode()}"


def plan(template: str, fields: dict[str, Any], **more: Any) -> str:
    found = rules(template, **more).plan("e", json.dumps(fields).encode())
    assert found is not None
    (one,) = found
    (text,) = [shown(key) for key in one.keys] + [shown(selector) for selector in one.selectors]
    return text


@pytest.mark.parametrize(
    ("template", "fields", "expected"),
    [
        ("user:{userId}", {"userId": 7}, "key user:7"),
        ("user:{userId}:*", {"userId": 7}, "prefix user:7:"),
        ("feed:*", {}, "prefix feed:"),
        ("feed", {}, "key feed"),
        ("user:{userId}", {}, "prefix user:"),
        ("user:{userId}", {"userId": None}, "prefix user:"),
        ("user:{userId}:posts", {}, "glob user:*:posts"),
        ("user:{userId}:*", {}, "glob user:*:*"),
        ("u:{a.b}", {"a": {"b": "x"}}, "key u:x"),
        ("usr:{a.b}", {"a": 5}, "prefix usr:"),
        ("k:{v}", {"v": 0}, "key k:0"),
        ("k:{v}", {"v": False}, "key k:false"),
        ("k:{v}", {"v": ""}, "key k:"),
        ("k:{v}", {"v": 7.0}, "key k:7"),
        ("k:{v}", {"v": 7.5}, "key k:7.5"),
        ("k:{v}", {"v": "ü"}, "key k:ü"),
        ("*:{v}", {"v": 1}, "glob *:1"),
        ("k[ab]?:{v}", {"v": 1}, "glob k[ab]?:1"),
        (r"k\*\{{v}\}", {"v": 1}, "key k*{1}"),
        (r"k\*:{v}:*x", {"v": 1}, r"glob k\*:1:*x"),
        ("*", {}, "glob *"),
    ],
)
def test_what_comes_of_a_pattern(template: str, fields: dict[str, Any], expected: str) -> None:
    """One key is a key, what only a prefix is needed for is a prefix, and a missing field is a star."""
    assert plan(template, fields) == expected


@given(st.text(max_size=20).filter(lambda text: text.isprintable()), st.text(max_size=20))
def test_values_cannot_widen(value: str, other: str) -> None:
    """Whatever a field holds, what is covered begins with it, letter by letter."""
    found = rules("user:{v}:*x*").plan("e", json.dumps({"v": value}).encode())
    assert found is not None
    (selector,) = found[0].selectors
    assert selector.covers(f"user:{value}:ax".encode(), ())
    strange = f"user:{other}:ax".encode(errors="replace")
    assert selector.covers(strange, ()) == strange.startswith(f"user:{value}:".encode())


@pytest.mark.parametrize("value", ["*", "[a-z]", "?", "\\", "a\\*", "{userId}", "]"])
def test_special_characters_are_themselves(value: str) -> None:
    """A key with such a value is a key; in a pattern it is escaped."""
    assert plan("user:{v}", {"v": value}) == f"key user:{value}"
    found = rules("user:{v}:*:x").plan("e", json.dumps({"v": value}).encode())
    assert found is not None
    (selector,) = found[0].selectors
    assert selector.covers(f"user:{value}:b:x".encode(), ())
    assert not selector.covers(b"user:7:b:x", ())


@pytest.mark.parametrize(
    ("template", "min_prefix", "refused"),
    [
        ("{a}", 1, True),
        ("{a}:profile", 1, True),
        ("u:{a}", 3, True),
        ("us:{a}", 3, False),
        ("ü:{a}", 3, False),
        ("u:{b}:{a}", 4, True),
        ("u:{b}:{a}", 3, False),
        ("*:{a}", 1, True),
        ("feed*", 50, False),
    ],
)
def test_what_would_be_too_broad_is_refused(template: str, min_prefix: int, refused: bool) -> None:
    """What was widened must begin with enough given bytes; what was configured to be wide may be."""
    if not refused:
        plan(template, {"b": "x"}, min_prefix=min_prefix)
        return
    with pytest.raises(EventRefused, match="min_prefix") as error:
        plan(template, {"b": ""}, min_prefix=min_prefix)
    assert error.value.reason is Reason.EVENT_TOO_BROAD


def test_tags_need_their_fields() -> None:
    """A tag cannot be widened; its stars are stars."""
    found = rules(tags=("user-{u}", "all*[{u}]")).plan("e", b'{"u": 7}')
    assert found is not None
    assert [shown(each) for each in found[0].selectors] == ["tag user-7", "tag all*[7]"]
    with pytest.raises(EventRefused) as error:
        rules(tags=("user-{u}",)).plan("e", b"{}")
    assert error.value.reason is Reason.EVENT_TOO_BROAD
    with pytest.raises(EventRefused, match="129 bytes"):
        rules(tags=("{u}",)).plan("e", json.dumps({"u": "x" * 129}).encode())


def test_rules_of_one_name_come_together() -> None:
    """Each place and mode once, with everything that all rules say, each thing once."""
    made = [
        EventRule.parse("e", ("a:{i}", "a:{i}", "b:{i}")),
        EventRule.parse("e", ("a:{i}", "c:*"), ("t",)),
        EventRule.parse("e", ("d:{i}",), namespace="n", expire=True),
        EventRule.parse("other", ("x",)),
    ]
    every = EventRules([rule for rule, _ in made if rule is not None])
    found = every.plan("e", b'{"i": 1}')
    assert found is not None
    first, second = found
    assert (first.namespace, first.expire, first.keys) == ("default", False, (b"a:1", b"b:1"))
    assert [shown(each) for each in first.selectors] == ["prefix c:", "tag t"]
    assert (second.namespace, second.expire, second.keys, second.selectors) == ("n", True, (b"d:1",), ())
    assert every.plan("unknown", b"") is None
    assert [rule.name for rule in every] == ["e", "e", "e", "other"]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"[1]", "not a list"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b'{"i": NaN}', "JSON"),
        (b'{"i": 1e400}', "out of range"),
        (b'{"i": [1]}', "field i"),
        (b'{"i": {"j": 1}}', "field i"),
        (b'{"i": "\\ud800"}', "UTF-8"),
        (b"[" * 60_000, "JSON"),
        (b'{"i": "' + b"x" * 1_100 + b'"}', "1,102 bytes"),
        (b" " * 70_000, "70,000 bytes exceed the limit"),
        (json.dumps({str(at): 1 for at in range(MAX_FIELDS + 1)}).encode(), "257 fields"),
    ],
)
def test_bad_payloads_are_refused(payload: bytes, text: str) -> None:
    """What cannot be used is told without being repeated."""
    with pytest.raises(EventRefused, match=text) as error:
        rules("k:{i}").plan("e", payload)
    assert error.value.reason is Reason.INVALID_REQUEST
    assert "xxx" not in str(error.value)


def test_glob_that_becomes_too_long_is_refused() -> None:
    """A pattern's limit is smaller than a key's."""
    with pytest.raises(EventRefused, match="glob"):
        rules("k:{i}:*x").plan("e", json.dumps({"i": "y" * 300}).encode())


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "a" * 129, "ä", "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    """Names are short and plain: they are shown and logged."""
    with pytest.raises(EventRefused, match="name"):
        check_event_name(name)


def test_all_problems_of_a_rule_at_once() -> None:
    """Whoever configures corrects everything in one go."""
    texts = ("{", "a}", "a\\", "[a", "", "[b-a]", "x" * 300 + "*", "*a*" * 9, "{a b}")
    rule, problems = EventRule.parse("a b", texts, ("{",), namespace="no/name")
    assert rule is None
    assert [problem.split(":")[0] for problem in problems] == ["name", "namespace", *["invalidates"] * 9, "tags"]
    assert EventRule.parse("e")[1] == ["invalidates: must name at least one pattern (or tags at least one tag)"]
    assert EventRule.parse("e", ["a"] * 33)[1] == ["invalidates: more than 32 patterns and tags"]
    assert repr(Template("a:{b}")) == "<Template 'a:{b}'>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"event": "e"}', ("e", b"{}", "")),
        (b'{"event": "e", "fields": {"a": 1}, "id": "x"}', ("e", b'{"a": 1}', "x")),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 60_000, None),
        (b'{"event": "e", "more": 1}', None),
        (b"{}", None),
        (b'{"event": "e", "fields": 1}', None),
        (b'{"event": "e", "id": 1}', None),
    ],
)
def test_events_as_one_document(body: bytes, expected: tuple[str, bytes, str] | None) -> None:
    """What the webhook and a channel bring: name, fields and id, and nothing else."""
    assert parse_event(body) == expected
