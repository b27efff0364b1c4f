"""Reads of the database that nearly every request needs."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.engine import Dialect


class PreparedRead:
    """A SELECT whose parameters are strings, numbers or bytes.

    SQLAlchemy compiles it once for each kind of database, and the driver executes it: `Connection.execute` would cost
    as much processor time as the rest of a poll.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._names = tuple(statement.selected_columns.keys())
        self._compiled: dict[str, _CompiledStatement] = {}

    def rows(self, connection: Connection, **parameters: object) -> Iterator[dict[str, Any]]:
        """Yield the rows, as values by the names of their columns. `parameters` are those of the statement."""
        kind = connection.dialect.name
        if kind not in self._compiled:
            self._compiled[kind] = _CompiledStatement(self._statement, connection.dialect)
        try:
            rows = self._compiled[kind].execute(connection, parameters)
        except connection.dialect.loaded_dbapi.Error:  # raised again as SQLAlchemy's, which knows a lost connection
            rows = [list(row) for row in connection.execute(self._statement, parameters)]
        for values in rows:
            yield dict(zip(self._names, values, strict=True))

    def first(self, connection: Connection, **parameters: object) -> dict[str, Any] | None:
        """Return the first row, None if there is none."""
        return next(self.rows(connection, **parameters), None)

    def one(self, connection: Connection, **parameters: object) -> dict[str, Any]:
        """Return the first row, which exists."""
        row = self.first(connection, **parameters)
        assert row is not None
        return row


class _CompiledStatement:
    """The SQL text of a SELECT, the order of its parameters if they have no names, and what converts its columns."""

    def __init__(self, statement: Select[Any], dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._order = tuple(compiled.positiontup) if compiled.positional else None
        processors = [column.type.result_processor(dialect, None) for column in statement.selected_columns]
        self._processors = [(index, processor) for index, processor in enumerate(processors) if processor is not None]

    def execute(self, connection: Connection, parameters: dict[str, object]) -> list[list[Any]]:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._text, parameters if self._order is None else [parameters[n] for n in self._order])
            rows = [list(row) for row in cursor.fetchall()]
        finally:
            cursor.close()
        for row in rows:
            for index, convert in self._processors:
                row[index] = convert(row[index])
        return rows
