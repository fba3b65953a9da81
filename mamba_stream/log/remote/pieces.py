"""A commit of many rows on its way to a server: in pieces, and the change set behind them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.changes import Applied
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.intake import RowsOut, encoded
from mamba_stream.log.remote.protocol import Commit, Exchange, Part, Pieces, Rows, decode, encode

FROM_BYTES: Final = 4 << 20
"""A commit of more rows than that comes in pieces: neither side holds it once more to send or receive it, which costs
less. The server holds every message whole before it can say no, and so would have no room for those of some tens of
clients."""
PIECE_BYTES: Final = 1 << 21
"""About as much in one."""


class Upload:
    """Sends one commit, as often as it takes.

    Attributes:
        asked: Whether the server may have been asked to commit: before, it has only taken rows that nobody sees.
    """

    def __init__(self, connection: Connection, batches: Sequence[RowsOut]) -> None:
        self._connection = connection
        self._batches = batches
        self.asked = False

    def send(self, commit: Commit) -> Applied:
        """Sends all of it, once.

        Raises:
            Lost: The connection failed.
        """
        paced = self._connection.welcome.paced
        writer, stream = self._connection.exchange(encode(Exchange(pieces=Pieces(paced))))
        most = 0
        try:
            # Why the server takes no more it says where its answers are read.
            with contextlib.suppress(_TakesNoMore):
                for number, part in enumerate(_parts(self._batches)):
                    while paced and number >= most:
                        most = _answer(stream, int)
                    _say(writer, part)
                self.asked = True
                _say(writer, Part(commit=commit))
                with contextlib.suppress(pa.ArrowException):
                    writer.done_writing()
            return _last(stream)
        except StopIteration:
            raise Lost("the server gave no answer") from None
        except pa.ArrowException as error:
            raise self._connection.failed(error) from error
        finally:
            stream.cancel()
            with contextlib.suppress(pa.ArrowException):
                writer.close()


class _TakesNoMore(Exception):
    """The server has ended the stream."""


def _say(writer: flight.FlightStreamWriter, part: Part) -> None:
    try:
        writer.write_metadata(pa.py_buffer(encode(part)))
    except pa.ArrowException:
        raise _TakesNoMore from None


def _last(stream: flight.FlightStreamReader) -> Applied:
    while not isinstance(answer := _answer(stream, Applied | int | None), Applied):
        pass
    return answer


def _answer(stream: flight.FlightStreamReader, kind: Any) -> Any:
    return decode(stream.read_chunk().app_metadata, kind)


def _parts(batches: Sequence[RowsOut]) -> Iterator[Part]:
    for rows in batches:
        continues = False
        for data in _pieces(rows.data):
            expect = {} if continues else rows.expect
            yield Part(Rows(rows.topic, memoryview(data), rows.partition, expect), continues)
            continues = True


def _pieces(data: pa.Buffer) -> Iterator[pa.Buffer]:
    """The rows of a stream as smaller streams; at least one, which may have no rows."""
    with pa.ipc.open_stream(data) as stream:
        together: list[pa.RecordBatch] = []
        size = 0
        for batch in stream:
            for part in _cut(batch):
                if together and size + part.nbytes > PIECE_BYTES:
                    yield encoded(together, stream.schema)
                    together, size = [], 0
                together.append(part)
                size += part.nbytes
        yield encoded(together, stream.schema)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts that fit into a piece, as far as rows can be parted."""
    if batch.num_rows <= 1 or batch.nbytes <= PIECE_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _cut(batch.slice(0, half))
    yield from _cut(batch.slice(half))
