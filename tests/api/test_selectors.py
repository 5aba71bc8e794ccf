"""Selectors and their patterns: what they cover, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachenode_api.errors import ContractError, InvalidSelector
from cachenode_api.globs import _MOST_MASKS, MAX_STARS, Glob
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.selectors import EVERYTHING, MAX_GLOB_BYTES, Selector, SelectorKind, make_selector
from cachenode_api.tags import MAX_TAG_BYTES
from cachenode_api.v1 import common_pb2

# The model: a pattern as a list of what its characters accept, and the obvious recursion. It is never parsed.

Part = tuple[str, str, str]
"""A part's kind, its text in the pattern, and the characters that it names."""
ALPHABET = "ab-]é"


def _literal(char: str) -> Part:
    return ("one", "\\" + char if char in "\\*?[" else char, char)


CHAR = st.sampled_from([*ALPHABET, "*", "?", "[", "\\", "!"])
SET = st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=3).map("".join)
PART: st.SearchStrategy[Part] = st.one_of(
    CHAR.map(_literal),
    st.just(("run", "*", "")),
    st.just(("none", "?", "")),
    SET.map(lambda chars: ("one", "[" + "".join(f"\\{char}" for char in chars) + "]", chars)),
    st.tuples(st.sampled_from("!^"), SET).map(
        lambda made: ("none", f"[{made[0]}" + "".join(f"\\{char}" for char in made[1]) + "]", made[1])
    ),
)
PARTS = st.lists(PART, max_size=8)


def model(parts: list[Part], key: str) -> bool:
    if not parts:
        return not key
    (kind, _, chars), *rest = parts
    if kind == "run":
        return any(model(rest, key[start:]) for start in range(len(key) + 1))
    return bool(key) and (key[0] in chars) == (kind == "one") and model(rest, key[1:])


@given(PARTS, st.lists(CHAR, max_size=10).map("".join))
@example([_literal("a"), ("run", "*", ""), _literal("a")], "a")
def test_patterns_match_as_the_model_does(parts: list[Part], key: str) -> None:
    """A pattern matches what trying every possibility finds, over all its kinds of parts."""
    assert Glob("".join(text for _, text, _ in parts).encode()).matches(key.encode()) == model(parts, key)


@given(st.data(), PARTS)
def test_keys_made_after_a_pattern_match(data: st.DataObject, parts: list[Part]) -> None:
    """Keys that were made to fit do so; keys made at random seldom would."""
    key = ""
    for kind, _, chars in parts:
        if kind == "run":
            key += data.draw(st.text(ALPHABET, max_size=4))
        else:
            fitting = [char for char in ALPHABET + "*?x" if (char in chars) == (kind == "one")]
            key += data.draw(st.sampled_from(fitting or [chars]))
    assert Glob("".join(text for _, text, _ in parts).encode()).matches(key.encode())


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40))
def test_without_special_characters_exactly_the_key_matches(key: bytes, other: bytes) -> None:
    """Any bytes, escaped where they would mean something, are a pattern of themselves alone."""
    glob = Glob(b"".join(b"\\" + bytes((byte,)) if byte in b"\\*?[" else bytes((byte,)) for byte in key))
    assert glob.matches(key)
    assert glob.matches(other) == (other == key)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"user:*", [b"user:", b"user:1", b"user:a/b:c"], [b"user", b"users:1", b"xuser:1"]),
        (b"*:name", [b":name", b"user:1:name"], [b"name", b"user:1:names"]),
        (b"a*b*c", [b"abc", b"aXbXc", b"abbcc"], [b"acb", b"ab", b"bc"]),
        (b"**", [b"", b"x"], []),
        (b"?", ["é".encode(), b"\xff", b"\n"], [b"", b"ab", b"\xff\xfe", b"\xa9\xc3"]),
        ("[à-ü]".encode(), ["é".encode()], ["ÿ".encode(), b"e", b"\xc3"]),
        (b"[\xf0-\xff]", [b"\xf0", b"\xff"], [b"\xef", "ÿ".encode()]),
        (b"\xc3*", [b"\xc3", b"\xc3a"], ["é".encode()]),
        (b"[a-c-]", [b"a", b"b", b"c", b"-"], [b"d"]),
        (b"[-a]", [b"-", b"a"], [b"b"]),
        (b"[--0]", [b"-", b".", b"0"], [b"1"]),
        (rb"[a\-c]", [b"a", b"-", b"c"], [b"b"]),
        (rb"[\!a]", [b"!", b"a"], [b"b"]),
        (b"[a!^]", [b"!", b"a", b"^"], [b"b"]),
        (b"[!a-c]", [b"d", b"!"], [b"a", b"b", b"", b"dd"]),
        (b"[^a]", [b"^", b"b"], [b"a"]),
        (rb"[\]]", [b"]"], [b"\\"]),
        (rb"\a\*\\]", [rb"a*\]"], [rb"ab\]"]),
        (b"[[]x", [b"[x"], [b"x"]),
    ],
)
def test_patterns_by_example(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    """The documented syntax, and where its corners are."""
    glob = Glob(pattern)
    assert [key for key in matching + others if glob.matches(key)] == matching


class Counting(dict[str, int]):
    """Counts how often a pattern asks for a character's mask."""

    asked = 0

    def get(self, *args: object) -> int | None:  # type: ignore[override]
        self.asked += 1
        return super().get(*args)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    "pattern",
    [
        b"*a" * 8 + b"b",
        b"*a" * 8 + b"[bc]",
        b"*" + b"?" * 200 + b"a*[!a]",
        (b"*[!b]" + b"?" * 25) * 8 + b"[b-z]",
        b"*?",
    ],
)
def test_work_does_not_depend_on_the_pattern(pattern: bytes) -> None:
    """One look-up for each character of the key, even of patterns that make backtracking explode. Scenario 68."""
    glob = Glob(pattern)
    glob._masks = counting = Counting(glob._masks)
    glob.matches(b"a" * MAX_KEY_BYTES)
    assert counting.asked <= MAX_KEY_BYTES
    assert max(map(int.bit_length, [*counting.values(), glob._end])) <= MAX_GLOB_BYTES + 1


def test_a_match_ends_early() -> None:
    """Nothing is looked up once the answer is certain."""
    for pattern in (b"[a]*", b"[b]", b"lit*", b"*lit"):
        glob = Glob(pattern)
        glob._masks = counting = Counting(glob._masks)
        assert glob.matches(b"a" * 100) == (pattern == b"[a]*")
        assert counting.asked <= 1


def test_masks_of_foreign_characters_are_bounded() -> None:
    """Keys of ever new characters do not fill the memory, and are still judged."""
    glob = Glob("*[я-\U0010ffff]x".encode())
    for number in range(0x3000, 0x3000 + 2 * _MOST_MASKS):
        assert glob.matches(f"{chr(number)}x".encode())
        assert not glob.matches(f"{chr(number)}y".encode()[:-1])
    assert len(glob._masks) == _MOST_MASKS


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (b"canary\\", r"glob: nothing follows the last \ (write \\ for the backslash itself)"),
        (b"[canary\\", r"glob: nothing follows the last \ (write \\ for the backslash itself)"),
        (b"canary[a", r"glob: a [ is not closed (write \[ for the bracket itself)"),
        (b"[", r"glob: a [ is not closed (write \[ for the bracket itself)"),
        (rb"[a\]", r"glob: a [ is not closed (write \[ for the bracket itself)"),
        (b"[]canary]", r"glob: a set is empty (write \] for a bracket in it)"),
        (b"[!]", r"glob: a set is empty (write \] for a bracket in it)"),
        (b"[z-a]", "glob: a range in a set runs backwards"),
        (b"*a" * 9, "glob: 9 * exceed the limit of 8"),
        (b"", "glob: must not be empty"),
        (b"c" * 257, "glob: 257 bytes exceed the limit of 256 bytes"),
    ],
)
def test_what_is_no_pattern(pattern: bytes, text: str) -> None:
    """A pattern that may mean something else than was meant is refused, without being quoted."""
    with pytest.raises(InvalidSelector) as caught:
        make_selector(SelectorKind.GLOB, pattern)
    assert str(caught.value) == text
    assert isinstance(caught.value, ContractError)


def test_the_limits_of_patterns_are_exact() -> None:
    """As many stars and bytes as may be; stars side by side count as one, and escaped ones not at all."""
    pattern = (b"**a" * MAX_STARS).ljust(MAX_GLOB_BYTES - 2, b"x") + rb"\*"
    assert len(pattern) == MAX_GLOB_BYTES
    assert make_selector(SelectorKind.GLOB, pattern).covers(pattern.replace(b"\\", b""), ())


def test_what_each_kind_covers() -> None:
    """Prefixes and patterns look at keys, tags at tags, and the namespace's at nothing."""
    entries = [(b"a", (b"t",)), (b"ab", ()), (b"t", ()), (b"", (b"a",))]
    for kind, text, covered in (
        (SelectorKind.PREFIX, b"a", [True, True, False, False]),
        (SelectorKind.GLOB, b"a?", [False, True, False, False]),
        (SelectorKind.TAG, b"t", [True, False, False, False]),
        (SelectorKind.NAMESPACE, EVERYTHING, [True] * 4),
    ):
        selector = make_selector(kind, text)
        assert [selector.covers(key, tags) for key, tags in entries] == covered


@pytest.mark.parametrize(
    ("kind", "text", "error"),
    [
        (0, b"canary", "selector: kind must be 1 to 4"),
        (5, b"canary", "selector: kind must be 1 to 4"),
        (SelectorKind.PREFIX, b"", "prefix: must not be empty"),
        (SelectorKind.PREFIX, b"c" * 1025, "prefix: 1,025 bytes exceed the limit of 1,024 bytes"),
        (SelectorKind.TAG, b"", "tag: must not be empty"),
        (SelectorKind.TAG, b"c" * 129, "tag: 129 bytes exceed the limit of 128 bytes"),
        (SelectorKind.NAMESPACE, b"", "namespace: the text of its selector must be a single *"),
        (SelectorKind.NAMESPACE, b"canary", "namespace: the text of its selector must be a single *"),
    ],
)
def test_what_is_no_selector(kind: int, text: bytes, error: str) -> None:
    """The error names the field, the limit and the size, never the text."""
    with pytest.raises(InvalidSelector) as caught:
        make_selector(kind, text)
    assert str(caught.value) == error


def test_the_limits_are_exact() -> None:
    """The longest prefix and the longest tag are accepted."""
    for kind, limit in ((SelectorKind.PREFIX, MAX_KEY_BYTES), (SelectorKind.TAG, MAX_TAG_BYTES)):
        assert make_selector(kind, b"x" * limit).text == b"x" * limit


def test_kinds_are_those_of_the_wire() -> None:
    """Every kind has the wire enum's number, and none is missing."""
    ours = {f"SELECTOR_{kind.name}": kind.value for kind in SelectorKind}
    assert ours | {"SELECTOR_UNSPECIFIED": 0} == dict(common_pb2.Selector.items())


def test_selectors_are_values() -> None:
    """Two of one kind and text are one, for dictionaries too; none can be changed; repr shows no content."""
    one, other = (make_selector(2, b"canary*") for _ in range(2))
    assert {one: 1} == {other: 1}
    assert one != make_selector(1, b"canary*")
    assert one.kind is SelectorKind.GLOB
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.text = b"x"  # type: ignore[misc]
    assert repr(one) == "<Selector GLOB 7 bytes>"
    assert "canary" not in repr(Glob(b"canary*"))
    assert isinstance(one, Selector)
