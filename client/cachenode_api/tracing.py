"""Traces, for the SDK and for nodes: spans around what takes time, and their parents across the wire.

Nothing of OpenTelemetry is imported before `enable`, and as long as that is not called each place that might begin a
span makes one attribute test. Where it was called, a span is begun only inside one that is being recorded: whoever
begins a trace decides whether it is, and nobody else makes roots. So a call that is not sampled costs one look at the
current context.

A batch brings its parent as a W3C traceparent (https://www.w3.org/TR/trace-context/), only if that is being recorded.
Attributes are closed sets, names of namespaces, nodes and origins, and counts; never keys, values, or texts of errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cachenode_api.metadata import TRACEPARENT_KEY

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

__all__ = [
    "Kind",
    "Served",
    "brought",
    "carried",
    "disable",
    "enable",
    "recording",
    "span",
    "spanned",
    "switch",
    "traceparent",
]

T = TypeVar("T")
Kind = Literal["internal", "server", "client"]

_LENGTH = 55
"""Of a traceparent of version 00, the only one there is."""
_SAMPLED = 1
"""The flag that says that the trace is being recorded."""


class _Switch:
    """What the places that might begin a span look at."""

    __slots__ = ("tracer",)

    def __init__(self) -> None:
        self.tracer: Tracer | None = None


switch = _Switch()
"""The process's: `tracer` is None as long as nothing is traced."""


def enable(provider: TracerProvider | None = None) -> None:
    """Trace from now on.

    Args:
        provider: Makes the tracer; None for the process's own, as ``opentelemetry.trace.set_tracer_provider`` set it.

    Raises:
        ImportError: OpenTelemetry's API is not installed.
    """
    from opentelemetry import trace

    switch.tracer = trace.get_tracer("cachenode", tracer_provider=provider)


def disable() -> None:
    """Trace no more."""
    switch.tracer = None


def recording() -> bool:
    """Return True if what happens now belongs to a span that is being recorded."""
    if switch.tracer is None:
        return False
    from opentelemetry import trace

    return trace.get_current_span().is_recording()


def traceparent() -> str:
    """Return the present span for the wire; empty if there is none that is being recorded."""
    if not recording():
        return ""
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def carried() -> dict[str, str]:
    """Return what a request takes along as headers or metadata, so that what it causes belongs to the present span."""
    parent = traceparent()
    return {TRACEPARENT_KEY: parent} if parent else {}


def brought(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the traceparent that a call brings in its metadata; empty if there is none that is being recorded."""
    for name, value in metadata or ():
        if name == TRACEPARENT_KEY and isinstance(value, str) and _recorded(value):
            return value
    return ""


@contextmanager
def span(name: str, kind: Kind, attributes: Mapping[str, Any]) -> Iterator[Span]:
    """Make the block a span below the present one. What it raises is told by its kind alone: texts may hold keys."""
    from opentelemetry import trace

    assert switch.tracer is not None, "`recording` was asked"
    kind_ = trace.SpanKind[kind.upper()]
    with switch.tracer.start_as_current_span(
        name, kind=kind_, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
    ) as begun:
        try:
            yield begun
        except BaseException as error:
            fail(begun, type(error).__name__)
            raise


async def spanned(rest: Awaitable[T], name: str, kind: Kind, attributes: Mapping[str, Any]) -> T:
    """Await something inside a span."""
    with span(name, kind, attributes):
        return await rest


def fail(begun: Span, kind: str) -> None:
    """Mark a span as failed, with the kind of error."""
    from opentelemetry.trace import StatusCode

    begun.set_attribute("error.type", kind)
    begun.set_status(StatusCode.ERROR)


class Served:
    """The span of a batch that came with a parent: it ends with the last answer, or when there will be none.

    Args:
        parent: The traceparent.
        name: Of the span.
        attributes: Its attributes.
        count: How many answers are awaited.
    """

    def __init__(self, parent: str, name: str, attributes: Mapping[str, Any], count: int) -> None:
        from opentelemetry import trace

        assert switch.tracer is not None, "`parented` was asked"
        remote = _extracted(parent)
        self._span = switch.tracer.start_span(
            name, context=remote, kind=trace.SpanKind.SERVER, attributes=dict(attributes)
        )
        self._context = trace.set_span_in_context(self._span, remote)
        self._left = count

    def answered(self, count: int, failure: str = "") -> None:
        """Take note of answers, and of the kind of a failure among them."""
        if failure:
            fail(self._span, failure)
        self._left -= count
        if self._left <= 0:
            self.end()

    def end(self) -> None:
        """End the span."""
        if self._span.is_recording():
            self._span.end()

    def run(self, begin: Callable[[], T]) -> T:
        """Call something inside the span."""
        from opentelemetry import context

        token = context.attach(self._context)
        try:
            return begin()
        finally:
            context.detach(token)

    async def finish(self, rest: Awaitable[T]) -> T:
        """Await what is left inside the span, which ends with it."""
        from opentelemetry import context

        token = context.attach(self._context)
        try:
            return await rest
        except Exception as error:
            if self._span.is_recording():
                fail(self._span, type(error).__name__)
            raise
        finally:
            context.detach(token)
            self.end()


def _recorded(parent: str) -> bool:
    try:
        return len(parent) == _LENGTH and bool(int(parent[-2:], 16) & _SAMPLED)
    except ValueError:
        return False


def _extracted(parent: str) -> Context:
    """Return the context of a parent elsewhere; an empty one if a stranger has sent something else."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {TRACEPARENT_KEY: parent} if len(parent) == _LENGTH else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())
