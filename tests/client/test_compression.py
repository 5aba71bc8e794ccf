"""Compression: exact, bounded, and usable from many threads."""

from __future__ import annotations

import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode_client._compression import compression_by_id, resolve_compression
from cachenode_client.errors import DecodeError, InvalidArgument

NAMES = ["zlib", "lz4", "zstd"]
TOO_LARGE = "value: decompresses to more than {} bytes; if it is not an attack, raise the client's max_value_bytes"
CUT_OFF = "value: compressed bytes are cut off, or followed by others"


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=5000))
def test_what_goes_in_comes_out(name: str, data: bytes) -> None:
    """Every byte string survives, also when it is exactly as large as the limit."""
    compression = resolve_compression(name)
    assert compression.decompress(compression.compress(data), max(1, len(data))) == data


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_stable(name: str) -> None:
    """The numbers in stored flags never change their meaning."""
    assert resolve_compression(name).id == {"zlib": 1, "lz4": 2, "zstd": 3}[name]
    assert compression_by_id(resolve_compression(name).id).id == resolve_compression(name).id


@pytest.mark.parametrize("name", NAMES)
def test_one_byte_too_many_is_refused(name: str) -> None:
    """The limit is exact."""
    compression = resolve_compression(name)
    packed = compression.compress(b"x" * 1001)
    assert len(compression.decompress(packed, 1001)) == 1001
    with pytest.raises(DecodeError) as caught:
        compression.decompress(packed, 1000)
    assert str(caught.value) == TOO_LARGE.format("1,000")


def bomb(name: str, size: int) -> bytes:
    """Return bytes that decompress to `size` zeros and do not say so in a header."""
    zeros = b"\0" * size
    if name == "zlib":
        return zlib.compress(zeros, 9)
    if name == "lz4":
        return bytes(import_module("lz4.frame").compress(zeros, store_size=False))
    stream = import_module("zstandard").ZstdCompressor().compressobj()
    return bytes(stream.compress(zeros) + stream.flush())


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_does_not_take_the_memory(name: str) -> None:
    """64 MiB of zeros behind a limit of 1 MiB are refused without being produced."""
    packed = bomb(name, 64 << 20)
    compression = resolve_compression(name)
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match=r"decompress"):
            compression.decompress(packed, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_a_writer_that_does_not_declare_the_size_is_read(name: str) -> None:
    """Streams of other writers, whose headers do not give a size, are read within the limit."""
    assert resolve_compression(name).decompress(bomb(name, 5000), 5000) == b"\0" * 5000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda _: b"", lambda _: b"no"])
def test_damaged_bytes_never_pass(name: str, damage: object) -> None:
    """Cut-off, lengthened, empty and foreign bytes raise instead of returning something."""
    assert callable(damage)
    compression = resolve_compression(name)
    packed = damage(compression.compress(b"0123456789" * 50))
    with pytest.raises(Exception, match=r"."):
        compression.decompress(packed, 1000)


def test_cut_off_zlib_says_so() -> None:
    """zlib itself is content with half a stream, or with two things in one; the client is not."""
    packed = zlib.compress(b"x" * 99)
    for damaged in (packed[:-1], packed + b"x"):
        with pytest.raises(DecodeError) as caught:
            resolve_compression("zlib").decompress(damaged, 100)
        assert str(caught.value) == CUT_OFF


def test_an_unknown_name_is_refused() -> None:
    """The text lists the accepted names."""
    with pytest.raises(InvalidArgument) as caught:
        resolve_compression("brotli")
    assert str(caught.value) == "compression: unknown name; use None or one of zlib, lz4, zstd"


def test_an_unknown_number_is_refused() -> None:
    """A value of a newer release is not mistaken for damage."""
    with pytest.raises(DecodeError) as caught:
        compression_by_id(9)
    assert str(caught.value) == "value: compression 9 is unknown to this release; update cachenode-client"


@pytest.mark.parametrize(("name", "module", "number"), [("lz4", "lz4.frame", 2), ("zstd", "zstandard", 3)])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str, module: str, number: int) -> None:
    """Without its library an option is refused at once, and a stored value says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    text = f'compression: "{name}" needs a library that is missing; run: pip install "cachenode-client[{name}]"'
    with pytest.raises(InvalidArgument) as refused:
        resolve_compression(name)
    assert str(refused.value) == text
    with pytest.raises(DecodeError) as caught:
        compression_by_id(number)
    assert str(caught.value) == f"value: cannot be decoded here. {text}"


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_disturb_each_other(name: str) -> None:
    """One object serves many threads at once."""
    compression = resolve_compression(name)
    start = threading.Barrier(4)

    def work(seed: int) -> bool:
        start.wait(10)
        data = Random(seed).randbytes(200_000) * 10  # Large enough for two threads to be inside the library at once.
        return all(compression.decompress(compression.compress(data), len(data)) == data for _ in range(8))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
