"""Filters that are asked at the server: the rows are those of the same filter over a frame, and fewer travel."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from mamba_stream.core.predicates import encode, from_expr
from mamba_stream.errors import ColumnNotFound, InvalidInput
from mamba_stream.log import Log, Topic
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.remote import protocol, reader
from mamba_stream.log.remote.address import Credentials, address_of
from mamba_stream.log.remote.storage import RemoteStorage, connect
from mamba_stream.log.store import acquire
from mamba_stream.server.service import FlightService

DAY = datetime(2024, 1, 1)
ROWS = pl.DataFrame(
    {
        "ts": [DAY + timedelta(minutes=n) for n in range(1_000)],
        "symbol": ["A", "B", None, "D"] * 250,
        "price": [float(n % 97) for n in range(1_000)],
    }
)
FILTERS = {
    "number": pl.col("price") > 90,
    "text": pl.col("symbol") == "B",
    "null": pl.col("symbol").is_null(),
    "time": pl.col("ts").is_between(DAY + timedelta(hours=2), DAY + timedelta(hours=3)),
    "none": pl.col("price") > 1e9,
    "all": pl.col("price") >= 0,
    "what can travel, and what cannot": (pl.col("price") > 50) & (pl.col("symbol").fill_null("Z") == "Z"),
    "what cannot": pl.col("symbol").fill_null("Z") == "Z",
}


@pytest.fixture(scope="module")
def topic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topic]:
    store = acquire(tmp_path_factory.mktemp("sifting") / "log")
    service = FlightService(store)
    log = Log(connect(address_of(f"localhost:{service.port}"), Credentials()))
    made = log.create_topic("rows", ROWS.schema, partitions=2, time="ts")
    for part in ROWS.iter_slices(37):
        made.append(part)
    yield made
    log.close()
    service.shutdown()
    store.release()


@pytest.mark.parametrize("what", FILTERS)
@pytest.mark.parametrize("columns", [["ts", "symbol", "price"], ["price"]])
def test_a_filter_keeps_what_it_keeps_of_a_frame(topic: Topic, what: str, columns: list[str]):
    found = topic.scan().filter(FILTERS[what]).select(columns).collect()
    assert_frame_equal(found, ROWS.filter(FILTERS[what]).select(columns), check_row_order=False)


def _sent(topic: Topic, request: protocol.Read) -> int:
    storage = topic.log._store
    assert isinstance(storage, RemoteStorage)
    stream = storage._connection.read(protocol.encode(request))
    return sum(chunk.data.num_rows for chunk in stream)


def test_only_what_is_kept_travels(topic: Topic):
    asked = from_expr(FILTERS["text"])
    assert asked is not None
    assert _sent(topic, protocol.Read(topic=topic.number)) == 1_000
    assert _sent(topic, protocol.Read(topic=topic.number, predicate=encode(asked))) == 250
    assert _sent(topic, protocol.Read(topic=topic.number, predicate=encode(asked), columns=["price"])) == 250


def test_a_read_with_a_predicate_asks_it_at_the_server(topic: Topic, monkeypatch: pytest.MonkeyPatch):
    came: list[int] = []

    def counted(name: str, piece: protocol.Piece, data: pa.RecordBatch) -> Iterator[LogBatch]:
        came.append(data.num_rows)
        return real(name, piece, data)

    real = reader.cut
    monkeypatch.setattr(reader, "cut", counted)
    found = [
        t for batch in topic.read(where=FILTERS["text"], columns=["ts"]) for t in batch.data["ts"].to_pylist()
    ]
    assert sorted(found) == ROWS.filter(FILTERS["text"])["ts"].to_list()
    assert sum(came) == 250


def test_a_limit_counts_rows_before_the_filter(topic: Topic):
    assert topic.scan().head(10).filter(pl.col("price") >= 0).collect().height == 10


@pytest.mark.parametrize(
    "expr",
    [pl.col("nothing") == 1, pl.col("symbol") > 5, pl.col("price") + 1],
    ids=["column", "types", "no question"],
)
def test_what_cannot_be_asked_is_refused_before_any_row(topic: Topic, expr: pl.Expr):
    asked = from_expr(expr)
    assert asked is not None
    with pytest.raises((InvalidInput, ColumnNotFound), match="predicate"):
        _sent(topic, protocol.Read(topic=topic.number, predicate=encode(asked)))


def test_bytes_that_are_no_predicate_are_refused(topic: Topic):
    with pytest.raises(InvalidInput, match="these bytes are no predicate"):
        _sent(topic, protocol.Read(topic=topic.number, predicate=b"\x81\xa1x\x00"))
