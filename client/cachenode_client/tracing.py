"""Traces of what the cache does for a call, across the SDK, nodes, L2 and origins, with OpenTelemetry.

Install ``cachenode-client[otel]`` and call `enable` once, after the application has set its tracer provider::

    from cachenode_client import tracing

    tracing.enable()

From then on calls of both clients are spans inside traces that are being recorded. `get_or_load` and
`get_or_load_many` may also be the first of a trace, if the provider's sampler says so. What nodes add to the trace they
export themselves (`tracing.endpoint` of their configuration).

Theory of operation: `enable` puts other methods into the clients' classes, and `disable` puts the former ones back. So
what is not traced runs as if there were no traces: not even a test tells the two apart. Three kinds are replaced:

- the calls that are spans (`_NAMES`);
- how a blocking client hands a call to its loop, where the caller's context does not go;
- how a session takes keys: a `Group` gets the present span's traceparent as one more element. So calls share a batch
  only with those below the same span, for a batch has one parent: the keys of one `get_or_load_many` do, callers of the
  same moment do not.

What is answered by the near cache is no span: it takes less time than the span would.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cachenode_api import tracing as _tracing
from cachenode_api.tracing import recording, span, switch, traceparent
from cachenode_client import blocking
from cachenode_client._client import CacheClient
from cachenode_client._loop_thread import LoopThread
from cachenode_client._session import Session

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from cachenode_client._batches import Group
    from cachenode_client._core import ClientCore

__all__ = ["disable", "enable"]

_NAMES = (
    *("get", "get_and_touch", "lookup", "contains", "ttl", "get_many", "set", "add", "replace", "incr", "set_many"),
    *("delete", "invalidate", "publish", "touch", "get_or_load", "get_or_load_many"),
)
_BEGIN = frozenset({"get_or_load", "get_or_load_many"})
"""What may be the first span of a trace."""
_NEAR = frozenset({"get", "lookup", "contains", "ttl", "get_or_load"})
"""What the near cache may answer as a whole."""
_PARENT_AT = 7
"""Of a group: where the traceparent is, if it has one."""

_Method = Callable[..., Any]

_former: dict[tuple[type, str], _Method] = {}
"""What `enable` has replaced; empty while nothing is."""


def enable(provider: TracerProvider | None = None) -> None:
    """Trace from now on.

    Args:
        provider: Makes the tracer; None for the process's own, as ``opentelemetry.trace.set_tracer_provider`` set it.

    Raises:
        ImportError: OpenTelemetry's API is not installed.
    """
    _tracing.enable(provider)
    if _former:
        return
    for owner in (CacheClient, blocking.CacheClient):
        for name in _NAMES:
            _replace(owner, name, functools.partial(_spanned, name))
    _replace(LoopThread, "call", _parented)
    for name in ("join", "submit", "submit_many"):
        _replace(Session, name, _parented)


def disable() -> None:
    """Trace no more."""
    _tracing.disable()
    for (owner, name), method in _former.items():
        setattr(owner, name, method)
    _former.clear()


def _replace(owner: type, name: str, make: Callable[[_Method], _Method]) -> None:
    method = _former[owner, name] = vars(owner)[name]
    setattr(owner, name, functools.wraps(method)(make(method)))


def _parented(send: _Method) -> _Method:
    """Return a method that has a group below the span in which it is called."""

    def below(self: object, group: Group, *rest: Any, **named: Any) -> Any:
        if len(group) == _PARENT_AT and (parent := traceparent()):
            group = (*group, parent)
        return send(self, group, *rest, **named)

    return below


def _spanned(name: str, call: _Method) -> _Method:
    """Return a call of a client that is a span."""
    if not inspect.iscoroutinefunction(call):

        def blocked(client: ClientCore, *arguments: Any, **named: Any) -> Any:
            with _span(name, client, arguments, named):
                return call(client, *arguments, **named)

        return blocked

    async def awaited(client: ClientCore, *arguments: Any, **named: Any) -> Any:
        with _span(name, client, arguments, named):
            return await call(client, *arguments, **named)

    return awaited


@contextmanager
def _span(name: str, client: ClientCore, arguments: Sequence[Any], named: Mapping[str, Any]) -> Iterator[None]:
    wanted = switch.tracer is not None if name in _BEGIN else recording()
    namespace, key = named.get("namespace"), arguments[0] if arguments else named.get("key", "")
    if not wanted or (name in _NEAR and client._near_entry(key, namespace) is not None):  # noqa: SLF001 - stands in it
        yield
        return
    with span(f"cachenode.{name}", "client", client._traits_of(name, namespace)):  # noqa: SLF001
        yield
