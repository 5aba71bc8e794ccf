"""The origin "grpc": a service in any language that speaks ``cachenode.v1.OriginService`` (origin.proto)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import grpc
from grpc import aio

from cachenode.adapters.secret_files import secrets_of
from cachenode.adapters.value_format import ValueFormat
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Loaded, Write
from cachenode_api.tracing import carried
from cachenode_api.v1 import origin_pb2, origin_pb2_grpc

__all__ = ["GrpcOrigin"]

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
_NOT_DONE = _REFUSALS | {grpc.StatusCode.RESOURCE_EXHAUSTED}
_STATUSES = {
    origin_pb2.WRITE_STATUS_REFUSED: ("the origin has refused it", False, False),
    origin_pb2.WRITE_STATUS_FAILED: ("the origin has not done it", True, False),
    origin_pb2.WRITE_STATUS_UNKNOWN: ("the origin does not know whether it has done it", True, True),
}


class GrpcOrigin:
    """An origin service as loader, sink and list of keys.

    Args:
        target: Where it is, as gRPC names it: ``host:port``, ``dns:///name:port``, ``unix:/path``.
        format: "json", or "bytes" for values as they are.
        tls: Whether it is reached over TLS.
        ca_file: Certificates of who may have signed the service's, in PEM; by default those that gRPC brings along.
        metadata_files: What is sent with each call, in files: for secrets.
        timeout_s: How long a call may take; less than the origin's ``timeout_s``.
        max_bytes: Largest message.

    Raises:
        ConfigError: They do not fit together.
    """

    def __init__(
        self,
        *,
        target: str,
        format: Literal["json", "bytes"] = "json",  # noqa: A002 - as the configuration says it
        tls: bool = False,
        ca_file: str = "",
        metadata_files: Mapping[str, str] | None = None,
        timeout_s: float = 4.0,
        max_bytes: int = 64 << 20,
    ) -> None:
        if not target:
            raise ConfigError(["options.target: must say where the service is, as in host:port"])
        if ca_file and not tls:
            raise ConfigError(["options.ca_file: is of use with tls = true only"])
        self._target = target
        self._format = ValueFormat(format)
        self._credentials = _credentials(ca_file) if tls else None
        self._metadata = tuple(secrets_of("metadata_files", metadata_files or {}).items())
        self._timeout_s = timeout_s
        self._options = [("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", max_bytes)]
        self._channel: aio.Channel | None = None

    def _service(self) -> origin_pb2_grpc.OriginServiceAsyncStub:
        if self._channel is None:  # here, because it belongs to the running loop
            if self._credentials is not None:
                self._channel = aio.secure_channel(self._target, self._credentials, options=self._options)
            else:
                self._channel = aio.insecure_channel(self._target, options=self._options)
        return origin_pb2_grpc.OriginServiceStub(self._channel)

    def _sent(self) -> tuple[tuple[str, str], ...]:
        return (*self._metadata, *carried().items())

    async def load(self, key: str | bytes) -> object:
        """Return the value of a key.

        Raises:
            OriginError: It cannot be found out.
        """
        found = (await self.load_many([key])).get(key, ABSENT)
        if isinstance(found, OriginError):
            raise found
        return found

    async def load_many(self, keys: Sequence[str | bytes]) -> Mapping[str | bytes, object]:
        """Return what there is of keys: values, or errors.

        Raises:
            OriginError: Nothing can be found out.
        """
        request = origin_pb2.LoadManyRequest(keys=[_raw(key) for key in keys])
        try:
            answer = await self._service().LoadMany(request, timeout=self._timeout_s, metadata=self._sent())
        except aio.AioRpcError as error:
            raise _told(error) from None
        if len(answer.values) != len(keys):
            raise OriginError(f"the service has answered {len(answer.values)} of {len(keys)} keys", again=False)
        return {key: self._loaded(value) for key, value in zip(keys, answer.values, strict=True)}

    def _loaded(self, value: origin_pb2.LoadedValue) -> object:
        if value.error:
            return OriginError(value.error, again=value.again)
        if not value.found:
            return ABSENT
        try:
            found = self._format.value(value.value)
        except OriginError as error:
            return error
        return Loaded(found, value.ttl_ms / 1_000 if value.ttl_ms else None, tuple(value.tags), keep=not value.unkept)

    async def keys(self) -> AsyncIterator[bytes]:
        """Yield the keys that the service lists.

        Raises:
            OriginError: They cannot be listed, or no more of them.
        """
        stream = self._service().ListKeys(origin_pb2.ListKeysRequest(), metadata=self._metadata)
        try:
            async for some in stream:
                for key in some.keys:
                    yield key
        except aio.AioRpcError as error:
            raise _told(error) from None
        finally:
            stream.cancel()

    async def write(self, write: Write) -> None:
        """Do one write.

        Raises:
            OriginError: It has not been done, or may have been.
        """
        for why in (await self.write_many([write])).values():
            raise why

    async def write_many(self, writes: Sequence[Write]) -> Mapping[str | bytes, OriginError]:
        """Do writes, and return why some have not been done.

        Raises:
            OriginError: The same for all of them.
        """
        failures: dict[str | bytes, OriginError] = {}
        ready: list[tuple[str | bytes, origin_pb2.OriginWrite]] = []
        for each in writes:
            try:
                ready.append((each.key, self._written(each)))
            except OriginError as error:
                failures[each.key] = error
        if not ready:
            return failures
        request = origin_pb2.WriteManyRequest(writes=[write for _, write in ready])
        try:
            answer = await self._service().WriteMany(request, timeout=self._timeout_s, metadata=self._sent())
        except aio.AioRpcError as error:
            raise _told(error, writes=True) from None
        if len(answer.outcomes) != len(ready):
            text = f"the service has answered {len(answer.outcomes)} of {len(ready)} writes"
            raise OriginError(text, again=False, maybe_done=True)
        for (key, _), outcome in zip(ready, answer.outcomes, strict=True):
            if outcome.status in _STATUSES:
                text, again, maybe_done = _STATUSES[outcome.status]
                failures[key] = OriginError(outcome.text or text, again=again, maybe_done=maybe_done)
        return failures

    def _written(self, write: Write) -> origin_pb2.OriginWrite:
        key = _raw(write.key)
        if write.value is ABSENT:
            return origin_pb2.OriginWrite(key=key, removes=True, version=write.version)
        return origin_pb2.OriginWrite(key=key, value=self._format.data(write.value), version=write.version)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()


def _credentials(ca_file: str) -> grpc.ChannelCredentials:
    if not ca_file:
        return grpc.ssl_channel_credentials()
    try:
        return grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    except OSError as error:
        raise ConfigError([f"options.ca_file: {type(error).__name__}"]) from None


def _raw(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _told(error: aio.AioRpcError, *, writes: bool = False) -> OriginError:
    """Return an error by its status alone: its text may hold anything."""
    code = error.code()
    return OriginError(code.name, again=code not in _REFUSALS, maybe_done=writes and code not in _NOT_DONE)
