r"""Event rules: what becomes untrue when something happens, as patterns with the event's fields in them.

A rule says that ``user.deleted`` makes ``user:{userId}`` and ``user:{userId}:*`` untrue. The event brings
``{"userId": 7}``, and the result is the key ``user:7`` and all keys that begin with ``user:7:``. What names one key is
invalidated as a key; the rest becomes a barrier, of a prefix where that is all that the pattern says, else of a glob.

A pattern is written as a glob (`cachenode_api.globs`); ``{a.b}`` stands for a field within a field, and ``\{`` for a
brace. A field that the event lacks, or that is null, widens to ``*``. Two things keep that, and what strangers write in
fields, from making more untrue than anybody meant:

- values are put in as they are: a ``*`` or ``[`` in a field is that character (``test_values_cannot_widen``);
- what was widened must begin with `min_prefix` bytes that are given: else the event is refused
  (``test_what_would_be_too_broad_is_refused``). 0, false and the empty text are values, not missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from cachenode.errors import EventRefused
from cachenode_api.errors import ContractError, InvalidSelector
from cachenode_api.globs import Glob
from cachenode_api.keys import DEFAULT_NAMESPACE, MAX_KEY_BYTES, check_namespace
from cachenode_api.reasons import Reason
from cachenode_api.selectors import MAX_GLOB_BYTES, Selector, SelectorKind, make_selector
from cachenode_api.tags import MAX_TAG_BYTES

__all__ = [
    "MAX_EVENT_NAME",
    "MAX_RULES",
    "EventRule",
    "EventRules",
    "Invalidation",
    "Template",
    "check_event_name",
    "parse_event",
]

MAX_EVENT_NAME = 128
MAX_RULES = 1_000
MAX_TEMPLATES = 32
"""Patterns and tags of one rule."""
MAX_FIELDS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}\Z")
_SPECIAL = re.compile(r"[\\*?\[]")
_FIELD = r"\\(?P<escaped>.)|\{(?P<field>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\}"
_GLOB = re.compile(
    _FIELD + r"|(?P<wild>[*?]|\[(?:\\.|[^\]\\])*\])|(?P<open>[\\{}\[])|(?P<text>[^\\{}\[*?]+)", re.DOTALL
)
_TAG = re.compile(_FIELD + r"|(?P<open>[\\{}])|(?P<text>[^\\{}]+)", re.DOTALL)
_COMPLAINTS = {
    "\\": r"nothing follows the last \ (write \\ for the backslash itself)",
    "{": r"after { must come a field's name and } (write \{ for the brace itself)",
    "}": r"a } closes nothing (write \} for the brace itself)",
    "[": r"a [ is not closed (write \[ for the bracket itself)",
}


class _Part(NamedTuple):
    """A piece of a template: text, a field's path, or what a glob means by it."""

    text: str
    kind: str  # "text", "field" or "wild"


class Invalidation(NamedTuple):
    """What an event makes untrue in one namespace."""

    namespace: str
    expire: bool
    keys: tuple[bytes, ...]
    selectors: tuple[Selector, ...]


class Template:
    """A pattern or tag with fields in it.

    Args:
        text: As it is configured.
        glob: Whether it is a pattern; a tag has no ``*``.

    Raises:
        ValueError: It is not well formed.
    """

    def __init__(self, text: str, *, glob: bool = True) -> None:
        self.text = text
        self._parts = tuple(_parse(text, glob=glob))
        if not self._parts:
            raise ValueError("is empty")
        self._wild = any(part.kind == "wild" for part in self._parts)
        if glob:
            self._check_glob()

    def _check_glob(self) -> None:
        shape = "".join("x" if part.kind == "field" else _in_glob(part) for part in self._parts)
        if len(shape.encode()) > (MAX_GLOB_BYTES if self._wild else MAX_KEY_BYTES):
            raise ValueError("is longer than what it would make untrue may be")
        try:
            Glob(shape.encode())
        except InvalidSelector as error:
            raise ValueError(str(error)) from None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that it names."""
        return tuple(part.text for part in self._parts if part.kind == "field")

    def fill(self, values: Mapping[str, str | None], min_prefix: int) -> bytes | Selector:
        """Return the key, or the selector of many keys, that it stands for.

        Raises:
            EventRefused: A missing field would make too much untrue, or what comes out is too long.
        """
        parts = [_Part("*", "wild") if _missing(part, values) else part for part in self._parts]
        texts = [_Part(values[part.text] or "", "text") if part.kind == "field" else part for part in parts]
        wild = [at for at, part in enumerate(texts) if part.kind == "wild"]
        if not wild:
            return self._key("".join(part.text for part in texts))
        head = "".join(part.text for part in texts[: wild[0]])
        if parts != list(self._parts) and len(_bytes(head)) < min_prefix:
            raise EventRefused(
                f"{self.text}: without some of its fields it would make untrue whatever begins with less than"
                f" {min_prefix} given bytes (events.min_prefix)",
                Reason.EVENT_TOO_BROAD,
            )
        try:
            if wild[0] == len(texts) - 1 and texts[-1].text == "*" and head:
                return make_selector(SelectorKind.PREFIX, _bytes(head))
            return make_selector(SelectorKind.GLOB, _bytes("".join(map(_in_glob, texts))))
        except InvalidSelector as error:
            _refuse(f"{self.text}: {error}")

    def fill_tag(self, values: Mapping[str, str | None]) -> Selector:
        """Return the selector of a tag.

        Raises:
            EventRefused: A field is missing, or what comes out is too long.
        """
        if any(_missing(part, values) for part in self._parts):
            raise EventRefused(f"{self.text}: a tag needs all of its fields", Reason.EVENT_TOO_BROAD)
        text = "".join((values[part.text] or "") if part.kind == "field" else part.text for part in self._parts)
        raw = _bytes(text)
        if not 0 < len(raw) <= MAX_TAG_BYTES:
            _refuse(f"{self.text}: a tag of {len(raw):,} bytes; it must be 1 to {MAX_TAG_BYTES}")
        return make_selector(SelectorKind.TAG, raw)

    def _key(self, text: str) -> bytes:
        raw = _bytes(text)
        if not 0 < len(raw) <= MAX_KEY_BYTES:
            _refuse(f"{self.text}: a key of {len(raw):,} bytes; it must be 1 to {MAX_KEY_BYTES:,}")
        return raw

    def __repr__(self) -> str:
        return f"<Template {self.text!r}>"


def _missing(part: _Part, values: Mapping[str, str | None]) -> bool:
    return part.kind == "field" and values[part.text] is None


def _in_glob(part: _Part) -> str:
    return part.text if part.kind == "wild" else _SPECIAL.sub(r"\\\g<0>", part.text)


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        _refuse("fields: a text is not encodable as UTF-8 (it holds a lone surrogate)")


def _refuse(text: str) -> NoReturn:
    raise EventRefused(text, Reason.INVALID_REQUEST)


def _parse(text: str, *, glob: bool) -> Iterator[_Part]:
    literal = ""
    for token in (_GLOB if glob else _TAG).finditer(text):
        kind = str(token.lastgroup)
        if kind == "open":
            raise ValueError(_COMPLAINTS[token[0]])
        if kind in {"field", "wild"}:
            if literal:
                yield _Part(literal, "text")
            literal = ""
            yield _Part(token[kind], kind)
        else:
            literal += token[kind]
    if literal:
        yield _Part(literal, "text")


@dataclass(frozen=True, slots=True)
class EventRule:
    """What one event makes untrue.

    Attributes:
        name: Of the event.
        invalidates: Patterns of keys.
        tags: Tags.
        namespace: Of both.
        expire: Whether values may be served for a while, marked stale.
    """

    name: str
    invalidates: tuple[Template, ...] = ()
    tags: tuple[Template, ...] = ()
    namespace: str = DEFAULT_NAMESPACE
    expire: bool = False
    fields: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the fields."""
        named = [name for template in (*self.invalidates, *self.tags) for name in template.fields]
        object.__setattr__(self, "fields", tuple(dict.fromkeys(named)))

    @classmethod
    def parse(
        cls,
        name: str,
        invalidates: Sequence[str] = (),
        tags: Sequence[str] = (),
        namespace: str = "",
        *,
        expire: bool = False,
    ) -> tuple[EventRule | None, list[str]]:
        """Return the rule that a table of the configuration stands for, and everything that is wrong with it."""
        problems: list[str] = []
        if not _NAME.match(name):
            problems.append("name: must be 1 to 128 of A-Z a-z 0-9 _ . : / - and begin with a letter or digit")
        if not (invalidates or tags):
            problems.append("invalidates: must name at least one pattern (or tags at least one tag)")
        if len(invalidates) + len(tags) > MAX_TEMPLATES:
            problems.append(f"invalidates: more than {MAX_TEMPLATES} patterns and tags")
        try:
            check_namespace(namespace or DEFAULT_NAMESPACE)
        except ContractError as error:
            problems.append(str(error))
        patterns = _templates("invalidates", invalidates, problems, glob=True)
        labels = _templates("tags", tags, problems, glob=False)
        if problems:
            return None, problems
        return cls(name, patterns, labels, namespace or DEFAULT_NAMESPACE, expire), []


def _templates(where: str, texts: Sequence[str], problems: list[str], *, glob: bool) -> tuple[Template, ...]:
    found = []
    for at, text in enumerate(texts, 1):
        try:
            found.append(Template(text, glob=glob))
        except ValueError as error:
            problems.append(f"{where}: number {at}: {error}")
    return tuple(found)


class EventRules:
    """All rules of a node.

    Args:
        rules: Several may have one name; all of them count.
        min_prefix: Bytes that must be given where a missing field widens a pattern.
        max_payload_bytes: Largest payload.
    """

    def __init__(
        self, rules: Iterable[EventRule] = (), *, min_prefix: int = 3, max_payload_bytes: int = 65_536
    ) -> None:
        self._by_name: dict[str, list[EventRule]] = {}
        for rule in rules:
            self._by_name.setdefault(rule.name, []).append(rule)
        self.min_prefix = min_prefix
        self._max_payload_bytes = max_payload_bytes

    def __iter__(self) -> Iterator[EventRule]:
        return (rule for rules in self._by_name.values() for rule in rules)

    def plan(self, name: str, payload: bytes) -> tuple[Invalidation, ...] | None:
        """Return what an event makes untrue, None if there is no rule for it.

        Raises:
            EventRefused: The name or payload cannot be used, or the event would make too much untrue.
        """
        check_event_name(name)
        fields = _fields_of(payload, self._max_payload_bytes)
        rules = self._by_name.get(name)
        if rules is None:
            return None
        keys: dict[tuple[str, bool], dict[bytes, None]] = {}
        selectors: dict[tuple[str, bool], dict[Selector, None]] = {}
        for rule in rules:
            values = {path: _value(fields, path) for path in rule.fields}
            place = rule.namespace, rule.expire
            named, covered = keys.setdefault(place, {}), selectors.setdefault(place, {})
            for template in rule.invalidates:
                filled = template.fill(values, self.min_prefix)
                if isinstance(filled, bytes):
                    named[filled] = None
                else:
                    covered[filled] = None
            covered |= dict.fromkeys(template.fill_tag(values) for template in rule.tags)
        return tuple(
            Invalidation(namespace, expire, tuple(keys[namespace, expire]), tuple(selectors[namespace, expire]))
            for namespace, expire in keys
        )


def check_event_name(name: str) -> None:
    """Raise EventRefused if no event can be called so."""
    if not _NAME.match(name):
        _refuse("name: must be 1 to 128 of A-Z a-z 0-9 _ . : / - and begin with a letter or digit")


def parse_event(body: bytes) -> tuple[str, bytes, str] | None:
    """Return name, fields and id of an event, None if the body is no such thing."""
    try:
        event = json.loads(body)
        if not isinstance(event, dict) or not event.keys() <= {"event", "fields", "id"}:
            return None
        name, fields, event_id = event.get("event"), event.get("fields", {}), event.get("id", "")
        if not isinstance(name, str) or not isinstance(fields, dict) or not isinstance(event_id, str):
            return None
        return name, json.dumps(fields).encode(), event_id
    except (ValueError, RecursionError):
        return None


def _fields_of(payload: bytes, limit: int) -> Mapping[str, Any]:
    if len(payload) > limit:
        _refuse(f"payload: {len(payload):,} bytes exceed the limit of {limit:,} bytes (events.max_payload_bytes)")
    try:
        fields = json.loads(payload or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is one
        _refuse("payload: must be a JSON object in UTF-8")
    if not isinstance(fields, dict):
        _refuse(f"payload: must be a JSON object, not a {type(fields).__name__}")
    if len(fields) > MAX_FIELDS:
        _refuse(f"payload: {len(fields):,} fields exceed the limit of {MAX_FIELDS}")
    return fields


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _value(fields: Mapping[str, Any], path: str) -> str | None:
    """Return the text of a field, None if the event lacks it."""
    here: Any = fields
    for name in path.split("."):
        here = here.get(name) if isinstance(here, dict) else None
    if here is None or isinstance(here, str):
        return here
    if isinstance(here, bool):
        return str(here).lower()
    if isinstance(here, float) and math.isfinite(here):
        return str(int(here)) if here.is_integer() else repr(here)
    if isinstance(here, int):
        return str(here)
    kind = "number out of range" if isinstance(here, float) else type(here).__name__
    _refuse(f"payload: field {path} must be text, a number, true or false, not a {kind}")
