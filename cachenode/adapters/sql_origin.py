"""The origin "sql": rows of a database, read and written by statements that the configuration gives.

Statements are SQLAlchemy's ``text``: ``:name`` stands for a parameter. The driver is asynchronous: asyncpg for
PostgreSQL, aiosqlite for SQLite.

A write has not been done if its statement fails, for its transaction ends with it; only a commit that is not answered
leaves that open. Writes that leave together share a transaction; if one of them is refused, they are done one by one,
so that each has its own outcome.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cachenode.adapters.key_pattern import KeyPattern
from cachenode.errors import ConfigError, OriginError
from cachenode.origins import ABSENT, Loaded, Write

try:
    from sqlalchemy import TextClause, bindparam, text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError, StatementError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
except ImportError as missing:
    raise ConfigError(['the origin "sql" is not installed: pip install "cachenode[sql]"']) from missing

__all__ = ["SqlOrigin"]

_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
_REFUSALS = (IntegrityError, DataError, ProgrammingError)


class SqlOrigin:
    """Rows as values: a loader, a sink and a list of keys, as far as there are statements for them.

    Args:
        url: Of the database, as SQLAlchemy writes it: ``postgresql://user:password@host/name``, ``sqlite:////path``.
        url_file: A file that holds it, instead.
        key: Which part of a cache key the statements get as ``:key``.
        select: Finds a row by ``:key``, or several by ``IN :keys``.
        key_column: The column of `select` and `keys` that holds the key's part; the placeholder's name by default.
        value_column: The column that is the value; by default a value is a dictionary of the row's other columns.
        ttl_column: The column that holds a value's life in seconds, NULL for the namespace's.
        tags_column: The column that holds its tags, as an array or separated by commas.
        upsert: Stores ``:key`` under ``:version``: a value's fields by their names, or the whole as ``:value``, which
            is JSON text if it has parts. It should refuse what is older than what there is.
        delete: Removes ``:key``, likewise.
        keys: Selects the key's part of every row.
        connections: Most connections at a time.
        timeout_s: How long a statement may take; less than the origin's ``timeout_s``.

    Raises:
        ConfigError: They do not fit together.
    """

    def __init__(
        self,
        *,
        url: str = "",
        url_file: str = "",
        key: str = "{key}",
        select: str = "",
        key_column: str = "",
        value_column: str = "",
        ttl_column: str = "",
        tags_column: str = "",
        upsert: str = "",
        delete: str = "",
        keys: str = "",
        connections: int = 16,
        timeout_s: float = 4.0,
    ) -> None:
        self._pattern = KeyPattern(key)
        self._key_column = key_column or self._pattern.name
        self._value_column, self._ttl_column, self._tags_column = value_column, ttl_column, tags_column
        self._select, self._upsert = _statement("select", select), _statement("upsert", upsert)
        self._delete, self._list = _statement("delete", delete), _statement("keys", keys)
        self._takes_many = False
        if self._select is not None:
            names = _names(self._select)
            if names not in ({"key"}, {"keys"}):
                raise ConfigError(["options.select: must use :key, or IN :keys, and no other parameter"])
            self._takes_many = names == {"keys"}
            if self._takes_many:
                self._select = self._select.bindparams(bindparam("keys", expanding=True))
        for name, statement in (("upsert", self._upsert), ("delete", self._delete)):
            if statement is not None and "key" not in _names(statement):
                raise ConfigError([f"options.{name}: must use :key"])
        self._engine = _engine(url, url_file, connections=connections, timeout_s=timeout_s)
        self.keys: Callable[[], AsyncIterator[str]] | None = self._keys if keys else None

    # Reading.

    async def load(self, key: str | bytes) -> object:
        """Return the value of a key.

        Raises:
            OriginError: It cannot be found out.
        """
        return (await self.load_many([key])).get(key, ABSENT)

    async def load_many(self, keys: Sequence[str | bytes]) -> Mapping[str | bytes, object]:
        """Return the values of those keys that have one.

        Raises:
            OriginError: They cannot be found out.
        """
        if self._select is None:
            raise OriginError("the origin has no `select`", again=False)
        by_part = {part: key for key in keys if (part := self._pattern.part(key)) is not None}
        if not by_part:
            return {}
        try:
            async with self._engine.connect() as connection:
                if self._takes_many:
                    rows = await _rows(connection, self._select, {"keys": list(by_part)})
                    return {by_part[row[self._key_column]]: self._value(row) for row in rows}
                found: dict[str | bytes, object] = {}
                for part, key in by_part.items():
                    for row in await _rows(connection, self._select, {"key": part}):
                        found[key] = self._value(row)
                return found
        except KeyError as lacking:
            raise OriginError(
                f"the rows have no column {lacking}, or one that was not asked for", again=False
            ) from None
        except (SQLAlchemyError, OSError) as error:
            raise _told(error) from None

    def _value(self, row: Mapping[str, Any]) -> Loaded:
        aside = {self._ttl_column, self._tags_column} - {""}
        if self._value_column:
            value = row[self._value_column]
        else:
            value = {name: field for name, field in row.items() if name not in aside}
        ttl_s = row[self._ttl_column] if self._ttl_column else None
        tags = row[self._tags_column] if self._tags_column else ()
        return Loaded(value, None if ttl_s is None else float(ttl_s), _tags(tags))

    async def _keys(self) -> AsyncIterator[str]:
        assert self._list is not None, "`keys` is there only with a statement"
        try:
            async with self._engine.connect() as connection, connection.stream(self._list) as rows:
                async for row in rows:
                    yield self._pattern.key(row[0])
        except (SQLAlchemyError, OSError) as error:
            raise _told(error) from None

    # Writing.

    async def write(self, write: Write) -> None:
        """Do one write.

        Raises:
            OriginError: It has not been done, or may have been.
        """
        why = (await self.write_many([write])).get(write.key)
        if why is not None:
            raise why

    async def write_many(self, writes: Sequence[Write]) -> dict[str | bytes, OriginError]:
        """Do writes, in one transaction if that is possible. Return why some have not been done.

        Raises:
            OriginError: None has been done, or all may have been.
        """
        failures: dict[str | bytes, OriginError] = {}
        ready: list[tuple[Write, TextClause, dict[str, Any]]] = []
        for write in writes:
            try:
                ready.append((write, *self._prepared(write)))
            except OriginError as error:
                failures[write.key] = error
        try:
            await self._transact([(statement, values) for _, statement, values in ready])
        except OriginError as error:
            if error.again or error.maybe_done or len(writes) == 1:
                if len(failures) + len(ready) == 1:
                    return {writes[0].key: error}
                raise
            for write, statement, values in ready:
                try:
                    await self._transact([(statement, values)])
                except OriginError as why:
                    failures[write.key] = why
        return failures

    def _prepared(self, write: Write) -> tuple[TextClause, dict[str, Any]]:
        """Return the statement of a write and its parameters."""
        kind, statement = ("delete", self._delete) if write.value is ABSENT else ("upsert", self._upsert)
        if statement is None:
            raise OriginError(f"the origin has no `{kind}`", again=False)
        part = self._pattern.part(write.key)
        if part is None:
            raise OriginError("the key does not fit the pattern of the origin's keys", again=False)
        fields = write.value if isinstance(write.value, dict) else {}
        known = {**fields, "value": write.value, "key": part, "version": write.version}
        try:
            return statement, {name: _column(known[name]) for name in _names(statement)}
        except KeyError as lacking:
            raise OriginError(f"the value has no field for the parameter {lacking}", again=False) from None

    async def _transact(self, statements: Iterable[tuple[TextClause, dict[str, Any]]]) -> None:
        """Execute statements in a transaction; those that are the same one after the other leave together."""
        grouped: list[tuple[TextClause, list[dict[str, Any]]]] = []
        for statement, values in statements:
            if grouped and grouped[-1][0] is statement:
                grouped[-1][1].append(values)
            else:
                grouped.append((statement, [values]))
        if not grouped:
            return
        committing = False
        try:
            async with self._engine.connect() as connection:
                for statement, rows in grouped:
                    await connection.execute(statement, rows)
                committing = True
                await connection.commit()
                committing = False
        except (SQLAlchemyError, OSError) as error:
            raise _told(error, maybe_done=committing) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()


def _statement(name: str, sql: str) -> TextClause | None:
    if not isinstance(sql, str):
        raise ConfigError([f"options.{name}: must be a statement"])
    return text(sql) if sql.strip() else None


def _names(statement: TextClause) -> set[str]:
    return set(statement._bindparams)  # noqa: SLF001 - there is no other way to ask a text for its parameters


def _engine(url: str, url_file: str, *, connections: int, timeout_s: float) -> AsyncEngine:
    if bool(url) is bool(url_file):
        raise ConfigError(["options.url: must be the database's URL, or options.url_file the file that holds it"])
    try:
        address = make_url(Path(url_file).read_text(encoding="utf-8").strip() if url_file else url)
    except (OSError, SQLAlchemyError) as error:
        raise ConfigError([f"options.{'url_file' if url_file else 'url'}: {type(error).__name__}"]) from None
    address = address.set(drivername=_DRIVERS.get(address.drivername, address.drivername))
    arguments: dict[str, Any] = {}
    if address.drivername == "postgresql+asyncpg":
        arguments = {"server_settings": {"statement_timeout": str(round(timeout_s * 1_000))}, "timeout": timeout_s}
    elif address.drivername == "sqlite+aiosqlite":
        arguments = {"timeout": timeout_s}
    try:
        return create_async_engine(
            address, connect_args=arguments, pool_size=connections, max_overflow=0, pool_timeout=timeout_s
        )
    except TypeError:  # a pool of one, of a database in memory
        return create_async_engine(address, connect_args=arguments)
    except (ImportError, SQLAlchemyError) as error:
        raise ConfigError([f"options.url: {type(error).__name__}; is the driver installed?"]) from None


async def _rows(
    connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any]
) -> Sequence[Mapping[str, Any]]:
    return [dict(row) for row in (await connection.execute(statement, values)).mappings()]


def _tags(found: object) -> tuple[str, ...]:
    if isinstance(found, str):
        return tuple(tag for each in found.split(",") if (tag := each.strip()))
    return tuple(found) if isinstance(found, (list, tuple)) else ()


def _column(value: object) -> object:
    """Return what a column takes: JSON text for what has parts."""
    if not isinstance(value, (dict, list, tuple)):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except TypeError:
        raise OriginError("the value has parts that JSON does not know", again=False) from None


def _told(error: BaseException, *, maybe_done: bool = False) -> OriginError:
    """Return an error without its text, which may hold a value or the URL."""
    refused = isinstance(error, _REFUSALS) or (isinstance(error, StatementError) and not isinstance(error, DBAPIError))
    return OriginError(type(error).__name__, again=not refused, maybe_done=maybe_done)
