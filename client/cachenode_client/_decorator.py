"""Functions whose results are kept: the key is made from the arguments, the function is the loader."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from string import Formatter
from typing import Any, Generic, ParamSpec

from cachenode_client.errors import InvalidArgument

__all__ = ["Cached"]

P = ParamSpec("P")


class Cached(Generic[P]):
    """A function with a memory in the cluster; call it as the function itself.

    With the asyncio client a call returns an awaitable, whether the function is async or not.

    Args:
        function: Loads a value.
        template: The key, with the function's parameters by name.
        read: Returns a key's value, and loads it with the given loader if there is none.
        forget: Removes a key's value.

    Raises:
        InvalidArgument: The template is not a format, or names something that is not a parameter.
    """

    __name__: str

    def __init__(
        self,
        function: Callable[P, Any],
        template: str,
        *,
        read: Callable[[str, Callable[[], Any]], Any],
        forget: Callable[[str], Any],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._template = template
        self._signature = inspect.signature(function)
        self._read = read
        self._forget = forget
        _check(template, self._signature)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Return the function's result for these arguments, from the cache if it is there."""
        return self._read(self.key(*args, **kwargs), functools.partial(self._function, *args, **kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is kept."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._template.format(**bound.arguments)

    def forget(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Remove the result for these arguments, as the client's `delete` does."""
        return self._forget(self.key(*args, **kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the method of an object when the function is one of a class."""
        return self if instance is None else _Bound(self, instance)


class _Bound:
    """A kept method of one object."""

    def __init__(self, cached: Cached[Any], instance: object) -> None:
        self.__wrapped__ = cached
        self.__call = functools.partial(cached, instance)
        self.key = functools.partial(cached.key, instance)
        self.forget = functools.partial(cached.forget, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__call(*args, **kwargs)


def _check(template: str, signature: inspect.Signature) -> None:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InvalidArgument(f"key: not a format ({error}); write a literal brace twice") from None
    for field in fields:
        name = field.split(".")[0].split("[")[0]
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise InvalidArgument(f"key: {{{field}}} is not a parameter of the function; they are: {known}")
