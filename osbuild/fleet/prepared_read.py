"""Reads of the database that nearly every request needs."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.engine import Dialect

SQLITE = "sqlite"


class PreparedRead:
    """A SELECT whose parameters are strings, numbers or bytes.

    SQLAlchemy compiles it once, and SQLite's driver executes it: `Connection.execute` would cost as much processor time
    as the rest of a poll. On other databases the time is that of the network, and `Connection.execute` is used.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._names = tuple(statement.selected_columns.keys())
        self._prepared: _SqliteStatement | None = None

    def rows(self, connection: Connection, **parameters: object) -> Iterator[dict[str, Any]]:
        """Yield the rows, as values by the names of their columns. `parameters` are those of the statement."""
        if connection.dialect.name != SQLITE:
            for row in connection.execute(self._statement, parameters):
                yield dict(row._mapping)
            return
        if self._prepared is None:
            self._prepared = _SqliteStatement(self._statement, connection.dialect)
        for values in self._prepared.execute(connection, parameters):
            yield dict(zip(self._names, values, strict=True))

    def first(self, connection: Connection, **parameters: object) -> dict[str, Any] | None:
        """Return the first row, None if there is none."""
        return next(self.rows(connection, **parameters), None)

    def one(self, connection: Connection, **parameters: object) -> dict[str, Any]:
        """Return the first row, which exists."""
        row = self.first(connection, **parameters)
        assert row is not None
        return row


class _SqliteStatement:
    """The SQL text of a SELECT, the order of its parameters, and what converts the values of its columns."""

    def __init__(self, statement: Select[Any], dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self._text, self._order = str(compiled), tuple(compiled.positiontup)
        processors = [column.type.result_processor(dialect, None) for column in statement.selected_columns]
        self._processors = [(index, processor) for index, processor in enumerate(processors) if processor is not None]

    def execute(self, connection: Connection, parameters: dict[str, object]) -> list[list[Any]]:
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._text, [parameters[name] for name in self._order])
            rows = [list(row) for row in cursor.fetchall()]
        finally:
            cursor.close()
        for row in rows:
            for index, convert in self._processors:
                row[index] = convert(row[index])
        return rows
