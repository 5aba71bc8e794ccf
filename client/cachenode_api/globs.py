r"""Patterns of keys: ``*`` any run of characters, ``?`` one, ``[abc] [a-z] [!a] [^a]`` one of a set, ``\x`` x itself.

A character is one of UTF-8, so ``?`` matches ``é`` although that is two bytes. Where a key or pattern is not UTF-8,
each byte that does not fit counts as one character, so binary keys can be matched too. ``*`` matches ``/``, ``:`` and
everything else. A pattern matches whole keys: without any special character it matches exactly that key.

Whoever may invalidate may send any pattern, and nodes match it against every entry in turn. So neither `re` nor
`fnmatch` is used, in which few stars can take exponential time. Here all positions of the pattern that the characters
read so far can have led to are the bits of one number, and a character moves all of them at once: for each character
of a key a look-up and four operations on numbers of at most 257 bits, whatever the pattern
(``test_work_does_not_depend_on_the_pattern``). Most keys are done sooner: they do not begin or end as the pattern does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cachenode_api.errors import InvalidSelector

__all__ = ["MAX_STARS", "Glob"]

MAX_STARS = 8
"""Stars in one pattern; neighbours count as one."""
_MOST_MASKS = 1024
"""Characters whose masks are kept. More than a pattern's own are only kept for speed."""


class _Set(NamedTuple):
    """One character of a set."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def accepts(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) != self.negated


_ANY = _Set((), negated=True)
_STAR = None
_Element = str | _Set | None


class Glob:
    """A compiled pattern.

    Args:
        pattern: The pattern's bytes.

    Raises:
        InvalidSelector: A set is not closed, empty or has a range that runs backwards, nothing follows the last
            backslash, or there are more than `MAX_STARS` stars.
    """

    __slots__ = ("_end", "_head", "_head_bytes", "_loops", "_masks", "_sets", "_tail_bytes", "stars")

    def __init__(self, pattern: bytes) -> None:
        elements = _parse(_text(pattern))
        self.stars = elements.count(_STAR)
        """How many stars it has, neighbours counted as one."""
        if self.stars > MAX_STARS:
            raise InvalidSelector(f"glob: {self.stars:,} * exceed the limit of {MAX_STARS}")
        self._head = _literals(elements)
        self._head_bytes = _bytes(self._head)
        self._tail_bytes = _bytes(_literals(elements[::-1])[::-1])
        self._compile(elements[len(self._head) :])

    def _compile(self, elements: list[_Element]) -> None:
        # Bit j of a number: the first j elements, without stars, have been matched.
        self._loops = 0  # bits that a star keeps
        self._masks: dict[str, int] = {}  # by character: bits whose next element accepts it
        self._sets: list[tuple[int, _Set]] = []
        bit = 1
        for element in elements:
            if element is _STAR:
                self._loops |= bit
                continue
            if isinstance(element, str):
                self._masks[element] = self._masks.get(element, 0) | bit
            else:
                self._sets.append((bit, element))
            bit <<= 1
        self._end = bit
        for char in self._masks:
            self._masks[char] |= self._of_sets(char)

    def _of_sets(self, char: str) -> int:
        return sum(bit for bit, one in self._sets if one.accepts(char))

    def _mask(self, char: str) -> int:
        mask = self._of_sets(char)
        if len(self._masks) < _MOST_MASKS:
            self._masks[char] = mask
        return mask

    def matches(self, key: bytes) -> bool:
        """Return True if the pattern matches the whole key."""
        if not key.startswith(self._head_bytes) or not key.endswith(self._tail_bytes):
            return False
        text = _text(key)
        if not text.startswith(self._head):  # the bytes do, but they end inside a character
            return False
        masks, loops, end = self._masks, self._loops, self._end
        forever = end & loops
        bits = 1
        for char in text[len(self._head) :]:
            if not bits or bits & forever:
                break
            mask = masks.get(char)
            if mask is None:
                mask = self._mask(char)
            bits = (bits & mask) << 1 | bits & loops
        return bits & end != 0

    def __repr__(self) -> str:
        return f"<Glob {self._end.bit_length() + len(self._head) - 1} characters>"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _literals(elements: list[_Element]) -> str:
    """Return the characters before the first element that is not one."""
    found = ""
    for element in elements:
        if not isinstance(element, str):
            break
        found += element
    return found


def _parse(pattern: str) -> list[_Element]:
    elements: list[_Element] = []
    chars = iter(pattern)
    for char in chars:
        if char == "*":
            if elements[-1:] != [_STAR]:
                elements.append(_STAR)
        elif char == "?":
            elements.append(_ANY)
        elif char == "[":
            elements.append(_parse_set(chars))
        else:
            elements.append(_escaped(chars) if char == "\\" else char)
    return elements


def _escaped(chars: Iterator[str]) -> str:
    char = next(chars, None)
    if char is None:
        raise InvalidSelector(r"glob: nothing follows the last \ (write \\ for the backslash itself)")
    return char


def _parse_set(chars: Iterator[str]) -> _Set:
    members: list[str] = []  # an escaped one keeps its backslash, so that it means nothing special
    for char in chars:
        if char == "]":
            break
        members.append("\\" + _escaped(chars) if char == "\\" else char)
    else:
        raise InvalidSelector(r"glob: a [ is not closed (write \[ for the bracket itself)")
    negated = members[:1] in (["!"], ["^"])
    ranges = tuple(_ranges(members[negated:]))
    if not ranges:
        raise InvalidSelector(r"glob: a set is empty (write \] for a bracket in it)")
    return _Set(ranges, negated)


def _ranges(members: list[str]) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(members):
        low = high = members[at][-1]
        if members[at + 1 : at + 2] == ["-"] and at + 2 < len(members):
            at += 2
            high = members[at][-1]
        if high < low:
            raise InvalidSelector("glob: a range in a set runs backwards")
        yield low, high
        at += 1
