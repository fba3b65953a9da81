"""Standard input and output. What was read from a pipe is gone from it: its rows come at most once."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, Literal

import pyarrow as pa

from mamba_connectors.files.final import csv_text, json_text
from mamba_connectors.files.text import Dialect, check_text_types, csv_rows, json_rows
from mamba_connectors.python.watching import Watch
from mamba_stream.connect import Delivery, Position, Reader, Rows, Wake
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import ConnectorFailed, InvalidInput, SchemaMismatch

Form = Literal["ndjson", "csv", "lines"]
_FORMS: Final = ("ndjson", "csv", "lines")
_LINE: Final = pa.schema([("line", pa.large_string())])
_BLOCK: Final = 1 << 18
_LONGEST: Final = 64 << 20


def stdin(
    format: Form = "ndjson",  # noqa: A002 - as everywhere
    *,
    schema: Any = None,
    separator: str = ",",
    stream: IO[bytes] | int | None = None,
    name: str = "stdin",
) -> StandardInput:
    """Lines from standard input; its end ends the source.

    Args:
        format: ``"ndjson"``, ``"csv"`` (without a header, in the order of the schema; a line is a record), or
            ``"lines"``, one column ``line``.
        schema: The columns and their types; not for ``"lines"``.
        separator: Between the fields of CSV.
        stream: A file or its descriptor to read instead.
        name: What progress and messages call it.

    Raises:
        InvalidInput: An argument cannot be right.
    """
    form = _checked(format)
    if (schema is None) != (form == "lines"):
        raise InvalidInput("stdin: pass schema= for 'ndjson' and 'csv', and none for 'lines'")
    columns = _LINE if form == "lines" else canonical_schema(schema)
    if form != "lines":
        check_text_types(columns, form)
    return StandardInput(name, columns, form, separator, stream)


def stdout(
    format: Form = "ndjson",  # noqa: A002
    *,
    stream: IO[bytes] | None = None,
    name: str = "stdout",
) -> StandardOutput:
    """Lines to standard output, before the checkpoint that covers them: at least once.

    Args:
        format: ``"ndjson"``, ``"csv"`` with a header, or ``"lines"``: the one text column there is.
        stream: A file to write to instead.
        name: What messages call it.
    """
    return StandardOutput(name, _checked(format), stream)


def _checked(form: Any) -> Form:
    if form not in _FORMS:
        raise InvalidInput(f"format={form!r:.80}: choose one of {', '.join(map(repr, _FORMS))}")
    checked: Form = form
    return checked


@dataclass(frozen=True, eq=False)
class StandardInput:
    """What :func:`stdin` makes."""

    name: str
    schema: pa.Schema
    form: Form
    separator: str
    stream: IO[bytes] | int | None = field(repr=False)
    bounded: bool = True
    delivery: Delivery = "at-most-once"

    def partitions(self) -> Sequence[str]:
        """One."""
        return ["all"]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader of what comes; a position is the number of bytes before it, and only for information."""
        return _InputReader(self, position or 0)


class _InputReader:
    def __init__(self, source: StandardInput, position: int) -> None:
        self._source = source
        given = source.stream if source.stream is not None else sys.stdin.fileno()
        self._number = given if isinstance(given, int) else given.fileno()
        self._data = b""
        self._position = position
        self._over = False
        self._watch: Watch | None = None

    def wake_by(self, wake: Wake) -> None:
        """Takes what to call, from a thread that waits for what comes."""
        self._watch = Watch(self._number, wake)

    @property
    def ended(self) -> bool:
        return self._over and not self._data

    def read(self, max_rows: int) -> Rows | None:
        while taken := self._lines(max_rows):
            batch = self._rows(taken)
            self._position += len(taken)
            if batch.num_rows:
                return Rows(batch, self._position)
        if self._watch is not None and not self._over:
            self._watch.begin()
        return None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _lines(self, most: int) -> bytes:
        """Whole lines that are there."""
        self._fill()
        end, lines = 0, 0
        while lines < most and (at := self._data.find(b"\n", end)) >= 0:
            end, lines = at + 1, lines + 1
        if lines < most and self._over:
            end = len(self._data)  # the last line may lack its line feed
        taken, self._data = self._data[:end], self._data[end:]
        return taken

    def _fill(self) -> None:
        while not self._over and b"\n" not in self._data and select.select([self._number], [], [], 0)[0]:
            block = os.read(self._number, _BLOCK)
            self._over = not block
            self._data += block
            if len(self._data) > _LONGEST:
                raise ConnectorFailed(f"{self._source.name}: a line is longer than {_LONGEST >> 20} MB")

    def _rows(self, data: bytes) -> pa.RecordBatch:
        schema = self._source.schema
        try:
            if self._source.form == "lines":
                lines = data.decode().split("\n")
                kept = lines[:-1] if data.endswith(b"\n") else lines
                return pa.RecordBatch.from_arrays([pa.array(kept, pa.large_string())], schema=schema)
            if self._source.form == "csv":
                return csv_rows(data, schema, Dialect(self._source.separator, header=False))
            return json_rows(data, schema)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise SchemaMismatch(
                f"{self._source.name}: a line behind byte {self._position} does not fit the columns: {error}"
            ) from error


@dataclass(frozen=True, eq=False)
class StandardOutput:
    """What :func:`stdout` makes."""

    name: str
    form: Form
    stream: IO[bytes] | None = field(repr=False)
    delivery: Delivery = "at-least-once"
    accepts_changes: bool = True

    def open(self, schema: pa.Schema, owner: str) -> _OutputWriter:
        """A writer of lines.

        Raises:
            InvalidInput: The columns have no form as text.
        """
        if self.form == "lines":
            if len(schema) != 1 or schema.field(0).type != pa.large_string():
                raise InvalidInput(
                    f"{self.name}: 'lines' is for one column of text, and there are {schema.names}"
                )
        else:
            check_text_types(schema, self.form)
        return _OutputWriter(self.form, self.stream or sys.stdout.buffer)


class _OutputWriter:
    def __init__(self, form: Form, stream: IO[bytes]) -> None:
        self._form = form
        self._stream = stream
        self._headed = False

    def write(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        if self._form == "lines":
            text = "".join(f"{line or ''}\n" for line in batch.column(0).to_pylist()).encode()
        elif self._form == "csv":
            text = csv_text([batch], header=not self._headed)
            self._headed = True
        else:
            text = json_text(batch)
        self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None: ...
