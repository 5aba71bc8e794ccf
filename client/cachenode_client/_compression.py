"""Compression of values: algorithms by name and by number, with a bound on what decompression may produce.

A few kilobytes can decompress to gigabytes. Whoever can write to the cache could stop its readers that way, so every
algorithm here stops at a limit that its caller gives, before the memory is taken: zlib and LZ4 by producing at most
one byte more than allowed, Zstandard by reading the size in the frame's header (the library trusts that header over
any limit passed to it).
"""

from __future__ import annotations

import threading
import zlib
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from cachenode_client.errors import DecodeError, InvalidArgument, missing_library

__all__ = ["Compression", "compression_by_id", "resolve_compression"]

_FAST = 1  # A cache waits for compression on each write; higher levels cost several times more for a few per cent.


class Compression(Protocol):
    """An algorithm. Its number in the flags is `id`. Safe to use from several threads."""

    id: int

    def compress(self, data: bytes) -> bytes:
        """Return the compressed bytes."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return the original bytes, never more than `limit`.

        Raises:
            DecodeError: The result would be larger.
            Exception: Whatever the library raises for damaged input.
        """


class _Zlib:
    id = 1

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, _FAST)

    def decompress(self, data: bytes, limit: int) -> bytes:
        return _bounded(zlib.decompressobj(), data, limit)


class _Lz4:
    id = 2

    def __init__(self) -> None:
        self._lib: ModuleType = import_module("lz4.frame")

    def compress(self, data: bytes) -> bytes:
        return bytes(self._lib.compress(data))

    def decompress(self, data: bytes, limit: int) -> bytes:
        # The library reserves what it is allowed to produce at once, so the size in the header (0 if not given) keeps
        # that low.
        declared = self._lib.get_frame_info(data)["content_size"] or limit
        return _bounded(self._lib.LZ4FrameDecompressor(), data, min(declared, limit))


class _Zstd:
    id = 3

    def __init__(self) -> None:
        self._lib: ModuleType = import_module("zstandard")
        self._contexts = threading.local()  # One context must not serve two threads at once.

    def compress(self, data: bytes) -> bytes:
        context = getattr(self._contexts, "compressor", None)
        if context is None:
            context = self._contexts.compressor = self._lib.ZstdCompressor(level=_FAST)
        return bytes(context.compress(data))

    def decompress(self, data: bytes, limit: int) -> bytes:
        context = getattr(self._contexts, "decompressor", None)
        if context is None:
            context = self._contexts.decompressor = self._lib.ZstdDecompressor()
        declared = self._lib.frame_content_size(
            data
        )  # -1 if the writer did not say; then the library keeps to the limit.
        if declared > limit:
            raise _too_large(limit)
        return bytes(context.decompress(data, max_output_size=limit, allow_extra_data=False))


_BY_NAME: dict[str, type[_Zlib | _Lz4 | _Zstd]] = {"zlib": _Zlib, "lz4": _Lz4, "zstd": _Zstd}
_NAME_BY_ID = {kind.id: name for name, kind in _BY_NAME.items()}


def resolve_compression(name: str) -> Compression:
    """Return an algorithm by name.

    Raises:
        InvalidArgument: The name is unknown, or its library is missing.
    """
    if name not in _BY_NAME:
        raise InvalidArgument(f"compression: unknown name; use None or one of {', '.join(_BY_NAME)}")
    try:
        return _BY_NAME[name]()
    except ImportError:
        raise missing_library("compression", name) from None


def compression_by_id(number: int) -> Compression:
    """Return the algorithm that a value's flags name.

    Raises:
        DecodeError: The number is unknown, or the library is missing.
    """
    name = _NAME_BY_ID.get(number)
    if name is None:
        raise DecodeError(f"value: compression {number} is unknown to this release; update cachenode-client")
    try:
        return resolve_compression(name)
    except InvalidArgument as error:
        raise DecodeError(f"value: cannot be decoded here. {error}") from None


def _bounded(decompressor: Any, data: bytes, limit: int) -> bytes:
    result = decompressor.decompress(data, max_length=limit + 1)
    if len(result) > limit:
        raise _too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise DecodeError("value: compressed bytes are cut off, or followed by others")
    return bytes(result)


def _too_large(limit: int) -> DecodeError:
    return DecodeError(
        f"value: decompresses to more than {limit:,} bytes; if it is not an attack, raise the client's max_value_bytes"
    )
