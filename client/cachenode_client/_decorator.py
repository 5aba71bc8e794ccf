"""Functions whose results are kept: the key is made from the arguments, the function is the loader."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from string import Formatter
from typing import Any, Generic, ParamSpec

from cachenode_client._checks import DependsOn, checked_parents
from cachenode_client.errors import InvalidArgument

__all__ = ["Cached"]

P = ParamSpec("P")
_Parent = str | bytes | tuple[str, str | bytes]


class Cached(Generic[P]):
    """A function with a memory in the cluster; call it as the function itself.

    With the asyncio client a call returns an awaitable, whether the function is async or not.

    Args:
        function: Loads a value.
        template: The key, with the function's parameters by name.
        read: Returns a key's value, and loads it with the given loader, depending on the given keys, if there is none.
        forget: Removes a key's value.
        depends_on: What the values depend on, keys with the function's parameters by name too.

    Raises:
        InvalidArgument: The template is not a format, or names something that is not a parameter.
    """

    __name__: str

    def __init__(
        self,
        function: Callable[P, Any],
        template: str,
        *,
        read: Callable[[str, Callable[[], Any], Sequence[_Parent] | None], Any],
        forget: Callable[[str], Any],
        depends_on: DependsOn | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._template = template
        self._signature = inspect.signature(function)
        self._read = read
        self._forget = forget
        _check("key", template, self._signature)
        self._parents: list[_Parent] | None = None
        if depends_on is not None:
            checked_parents(depends_on := list(depends_on), "")
            self._parents = depends_on
            for parent in depends_on:
                _check("depends_on", _text(parent), self._signature)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Return the function's result for these arguments, from the cache if it is there."""
        arguments = self._arguments(*args, **kwargs)
        parents = None if self._parents is None else [_filled(parent, arguments) for parent in self._parents]
        return self._read(
            self._template.format(**arguments), functools.partial(self._function, *args, **kwargs), parents
        )

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key under which the result for these arguments is kept."""
        return self._template.format(**self._arguments(*args, **kwargs))

    def _arguments(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

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


def _text(parent: _Parent) -> str:
    """Return a parent's template; bytes are a key as it is."""
    key = parent[1] if isinstance(parent, tuple) else parent
    return key if isinstance(key, str) else ""


def _filled(parent: _Parent, arguments: dict[str, Any]) -> _Parent:
    if isinstance(parent, tuple):
        name, key = parent
        return (name, key.format(**arguments)) if isinstance(key, str) else parent
    return parent.format(**arguments) if isinstance(parent, str) else parent


def _check(option: str, template: str, signature: inspect.Signature) -> None:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InvalidArgument(f"{option}: not a format ({error}); write a literal brace twice") from None
    for field in fields:
        name = field.split(".")[0].split("[")[0]
        if name not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise InvalidArgument(f"{option}: {{{field}}} is not a parameter of the function; they are: {known}")
