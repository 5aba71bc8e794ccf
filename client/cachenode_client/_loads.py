"""What both clients need to load values: calling loaders, and asking for many keys that are answered one by one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cachenode_api.tracing import recording, span, switch
from cachenode_client._checks import DependsOn
from cachenode_client.errors import CacheError, InvalidArgument

if TYPE_CHECKING:
    from cachenode_client._batches import Group
    from cachenode_client._engine import Encoded, Engine

__all__ = [
    "ABSENT",
    "LATE",
    "LATE_LOAD",
    "Absent",
    "Asks",
    "BatchLoader",
    "FlightEnd",
    "Loaded",
    "Loader",
    "alone_values",
    "call_loader",
    "check_loader",
    "checked_batch",
    "loading",
    "renew_values",
    "run_loader",
    "value_of",
]

K = TypeVar("K", bound=str | bytes)


class Absent(Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
"""What a loader returns for a key that has no value: not None, which is a value like any other."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader returns instead of a bare value if it knows more of it.

    Attributes:
        value: The value.
        ttl_s: Its life in seconds, before that of the call; None for that one, infinite for no end.
        tags: Names under which it can be invalidated together with others, besides those of the call.
        keep: False hands it to those who wait and stores it nowhere.
        depends_on: Keys that it is made from, besides those of the call, of the same namespace unless given as
            `Parent`: when one of them is written, removed or invalidated it is untrue.
    """

    value: object
    ttl_s: float | None = None
    tags: Iterable[str] = ()
    keep: bool = True
    depends_on: DependsOn = ()


Loader = Callable[[], Any] | Callable[[], Awaitable[Any]]
BatchLoader = Callable[[list[K]], Mapping[K, Any]] | Callable[[list[K]], Awaitable[Mapping[K, Any]]]

LATE: Final = object()
"""Stands for a value that was not loaded in time."""
LATE_LOAD = "The value was neither found nor loaded in the time given; if it is being loaded, that goes on."


@dataclass(slots=True)
class FlightEnd:
    """What is told to the owners of keys whose loads have ended: values, why there are none, or that there are none."""

    group: Group
    raws: list[bytes]
    tokens: list[int]
    encoded: list[Encoded] | None = None
    ttls_ms: Sequence[int] = ()
    details: Sequence[str] = ()
    absent: bool = False


async def call_loader(loader: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a loader returns; one that is no async function runs in a thread, so that it may block."""
    with loading():
        return await run_loader(loader, *arguments)


def loading() -> contextlib.AbstractContextManager[object]:
    """Return what a loader runs in: a span, if that is wanted."""
    if switch.tracer is not None and recording():
        return span("cachenode.loader", "internal", {})
    return contextlib.nullcontext()


async def run_loader(loader: Callable[..., Any], *arguments: Any) -> Any:
    """Do as `call_loader`, inside of something that has the loader's span already."""
    if _is_async(loader):
        return await loader(*arguments)
    result = await asyncio.to_thread(loader, *arguments)
    return await result if inspect.isawaitable(result) else result


def _is_async(loader: Callable[..., Any]) -> bool:
    while isinstance(loader, partial):
        loader = loader.func
    return inspect.iscoroutinefunction(loader) or inspect.iscoroutinefunction(getattr(loader, "__call__", None))  # noqa: B004 - an object whose call is async


def check_loader(loader: object, *, field: str = "loader", may_await: bool = True) -> None:
    """Raise for what cannot be called to load: the two usual slips would show as errors of something else.

    Raises:
        InvalidArgument: It is no function, but for example what one returned; or it is an async function, and the
            caller has no event loop to run it in.
    """
    if not callable(loader):
        kind = type(loader).__name__
        raise InvalidArgument(f"{field}: must be a function, not {kind}; pass the function itself, without calling it")
    if not may_await and _is_async(loader):
        raise InvalidArgument(f"{field}: must not be async here; pass a plain function, or use the asyncio client")


def value_of(loaded: object) -> Any:
    """Return the value of what a loader has returned."""
    return loaded.value if isinstance(loaded, Loaded) else loaded


def checked_batch(loaded: object) -> Mapping[Any, Any]:
    """Return what a batch loader returned, if it is a mapping."""
    if not isinstance(loaded, Mapping):
        raise InvalidArgument(f"batch_loader: must return a mapping of keys to values, not {type(loaded).__name__}")
    return loaded


def alone_values(loaded: object) -> dict[Any, Any]:
    """Return the values of what a batch loader returned whose values nobody stores."""
    return {key: value_of(each) for key, each in checked_batch(loaded).items() if each is not ABSENT}


def renew_values(values: dict[K, Any], due: Sequence[tuple[K, bytes, int]], loaded: Mapping[K, Any]) -> None:
    """Put what was loaded anew in the place of older values; what the origin has no more goes."""
    for key, _, _ in due:
        values.pop(key, None)
    values.update(loaded)


class Asks:
    """Keys that are being asked for, each on its own: one may be found at once, another when somebody has loaded it.

    Args:
        engine: Asks the owners; this object belongs to its loop.
        group: Of the asking.
        raws: The keys.
        reach_s: How long to wait for a way to an owner.
    """

    def __init__(self, engine: Engine, group: Group, raws: Sequence[bytes], reach_s: float) -> None:
        async def ask(raw: bytes) -> Any:
            return await engine.call(await engine.reach(group, raw, reach_s), raw)

        self._tasks = {engine.loop.create_task(ask(raw)): at for at, raw in enumerate(raws)}

    @property
    def left(self) -> int:
        """How many have no outcome yet."""
        return len(self._tasks)

    async def some(self, also: Collection[asyncio.Task[Any]] = ()) -> dict[int, Any]:
        """Wait for one or more outcomes, or for the end of another task; return the outcomes by position.

        An outcome is a record, empty if the key is absent; a token, an int, if the caller is to load; both, `Due`, if
        it is to load anew; or an error.
        """
        done, _ = await asyncio.wait({*self._tasks, *also}, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in self._tasks if task in done]  # in the order of the keys
        return {self._tasks.pop(task): _outcome(task) for task in ended}

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()


def _outcome(task: asyncio.Task[Any]) -> Any:
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, CacheError):
        return error
    raise error
