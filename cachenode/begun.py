"""A coroutine that has begun already: what it does before it waits for the first time is done in this turn.

From Python 3.12 on a task can start so (``eager_start``); here is what 3.11 lacks of it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar, cast

__all__ = ["Begun"]

T = TypeVar("T")


class Begun(Generic[T]):
    """Runs a coroutine to its first wait; awaiting this goes on with it, once.

    It runs in nobody's task until then: what asks for the current task meanwhile (``asyncio.timeout``) does not belong
    into its beginning.

    Args:
        coroutine: Not begun yet.

    Raises:
        Exception: Whatever its beginning raises.
    """

    __slots__ = ("_coroutine", "_result", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._waits_for: Any = None
        self._result: list[T] = []
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration as ended:
            self._result.append(ended.value)

    def __await__(self) -> Generator[Any, Any, T]:
        if self._result:
            return self._result[0]
        waits_for = self._waits_for
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - the coroutine's to handle, a cancellation too
                go_on = partial(self._coroutine.throw, error)
            else:
                go_on = partial(self._coroutine.send, sent)
            try:
                waits_for = go_on()
            except StopIteration as ended:
                return cast("T", ended.value)
