"""Canonical keys: what a key may be, and the bytes that stand for it everywhere.

A key is bytes; a string means its UTF-8 bytes, so ``"k"`` and ``b"k"`` are one key in every language.
"""

from __future__ import annotations

import re

from cachenode_api.errors import InvalidKey, InvalidNamespace

__all__ = ["DEFAULT_NAMESPACE", "MAX_KEY_BYTES", "canonical_key", "check_namespace", "seat_of"]

MAX_KEY_BYTES = 1024
DEFAULT_NAMESPACE = "default"
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")


def canonical_key(key: str | bytes | bytearray | memoryview) -> bytes:
    """Return the bytes of a key.

    Raises:
        InvalidKey: The key is empty, longer than `MAX_KEY_BYTES`, or neither string nor bytes.
    """
    if type(key) is str:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise InvalidKey("key: not encodable as UTF-8 (it holds a lone surrogate)") from None
    elif type(key) is bytes:
        raw = key
    elif isinstance(key, (str, bytes, bytearray, memoryview)):
        raw = key.encode() if isinstance(key, str) else bytes(key)
    else:
        raise InvalidKey(f"key: must be str or bytes, not {type(key).__name__}")
    if not raw:
        raise InvalidKey("key: must not be empty")
    if len(raw) > MAX_KEY_BYTES:
        raise InvalidKey(f"key: {len(raw):,} bytes exceed the limit of {MAX_KEY_BYTES:,} bytes")
    return raw


def check_namespace(name: str) -> str:
    """Return a namespace's name, or the default for an empty one.

    Raises:
        InvalidNamespace: The name is not 1 to 64 of ``a-z 0-9 _ . -``, beginning with a letter or digit.
    """
    if not isinstance(name, str):
        raise InvalidNamespace(f"namespace: must be str, not {type(name).__name__}")
    if not name:
        return DEFAULT_NAMESPACE
    if not _NAMESPACE.match(name):
        raise InvalidNamespace("namespace: must be 1 to 64 of a-z 0-9 _ . - and begin with a letter or digit")
    return name


def seat_of(namespace: str) -> bytes:
    """Return the bytes whose owner on the ring coordinates a namespace: it orders the barriers there."""
    return b"\0namespace:" + namespace.encode()
