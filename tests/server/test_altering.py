"""A served topic that is altered: what clients get that know of which columns, and what nobody may make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

from mamba_stream.core.changes import AlterTopic, ChangeSet, TopicSettings
from mamba_stream.errors import InvalidInput, PreconditionFailed, SchemaMismatch
from mamba_stream.log import Log
from mamba_stream.log.remote.address import Credentials, address_of
from mamba_stream.log.remote.storage import RemoteStorage, connect
from mamba_stream.log.store import Store, acquire
from mamba_stream.server.service import FlightService
from tests.log.pictures import picture, unsound

COLUMNS = pa.schema({"k": pa.large_string(), "n": pa.int32()})
WIDER = pa.schema({"k": pa.large_string(), "n": pa.int64(), "note": pa.large_string()})


class Served:
    """A directory, a client of ours at its server, and one that is none of ours."""

    def __init__(self, path: Path) -> None:
        self.store: Store = acquire(path)
        self.beside = Log(self.store)
        self.service = FlightService(self.store)
        self.remote: RemoteStorage = connect(address_of(f"localhost:{self.service.port}"), Credentials())
        self.log = Log(self.remote)
        self.other = flight.connect(f"grpc://localhost:{self.service.port}")

    def read(self, **ticket: Any) -> pa.Table:
        return self.other.do_get(flight.Ticket(msgpack.packb({"name": "rows", **ticket}))).read_all()

    def put(self, batch: pa.RecordBatch) -> None:
        writer, answers = self.other.do_put(flight.FlightDescriptor.for_path("rows"), batch.schema)
        with writer:
            writer.write_batch(batch)
            writer.done_writing()
            answers.read()

    def close(self) -> None:
        self.other.close()
        self.log.close()
        self.service.shutdown()
        self.store.release()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "log")
    made.log.create_topic("rows", COLUMNS, key="k").append([{"k": "a", "n": 1}])
    yield made
    made.close()
    assert unsound(tmp_path / "log") == []


def batch(schema: pa.Schema, *rows: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)


def test_streams_of_earlier_and_later_columns_are_appended(served: Served) -> None:
    served.log.alter_topic("rows", schema=WIDER)
    served.put(batch(COLUMNS, {"k": "b", "n": 2}))
    served.put(batch(WIDER, {"k": "c", "n": 2**40, "note": "x"}))
    assert served.read().to_pylist() == [
        {"k": "a", "n": 1, "note": None},
        {"k": "b", "n": 2, "note": None},
        {"k": "c", "n": 2**40, "note": "x"},
    ]
    with pytest.raises(flight.FlightError, match="missing column 'k'"):
        served.put(batch(pa.schema({"n": pa.int32()}), {"n": 2}))


def test_a_reader_says_which_of_the_schemas_it_means(served: Served) -> None:
    first = served.log["rows"].schema_number
    served.log.alter_topic("rows", add={"note": pl.String})
    served.put(batch(COLUMNS, {"k": "b", "n": 2}))
    assert served.read().schema.names == ["k", "n", "note"]
    assert served.read(schema=first).to_pylist() == [{"k": "a", "n": 1}, {"k": "b", "n": 2}]
    assert served.read(schema=first, columns=["n"]).schema.names == ["n"]
    with pytest.raises(flight.FlightError, match="has no schema of the number 4711"):
        served.read(schema=4711)


def test_a_topic_that_is_altered_beside_the_server_is_known_to_it_at_once(served: Served) -> None:
    handle = served.log["rows"]
    served.beside.alter_topic("rows", schema=WIDER)
    served.put(batch(WIDER, {"k": "b", "n": 2**40, "note": "x"}))
    assert served.log["rows"].scan().collect()["note"].to_list() == [None, "x"]
    # And who had it open goes on, as far as its columns hold what comes.
    assert handle.scan().select("k").collect()["k"].to_list() == ["a", "b"]
    with pytest.raises(SchemaMismatch, match="1099511627776 of Int64 is not in Int32"):
        handle.scan().collect()


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (pa.schema({"k": pa.large_string(), "n": pa.int8()}), "not to become Int8"),
        (pa.schema({"k": pa.large_string()}), "column 'n' .Int32. is missing"),
        (pa.schema({"k": pa.large_binary(), "n": pa.int32()}), "a column of the topic's key"),
        (pa.schema([*COLUMNS, pa.field("u", pa.sparse_union([pa.field("x", pa.int8())]))]), "does not store"),
        (COLUMNS, "nothing to alter"),
        (b"\xff\xff\xff\xff", "not an Arrow IPC schema message"),
    ],
)
def test_what_a_client_makes_of_a_topic_is_judged_by_the_server(
    served: Served, wanted: Any, error: str
) -> None:
    before = picture(served.beside)
    topic = served.log["rows"]
    message = wanted if isinstance(wanted, bytes) else wanted.serialize().to_pybytes()
    change = AlterTopic(topic.number, TopicSettings(), TopicSettings(), message, topic.schema_number)
    with pytest.raises(InvalidInput, match=error):
        served.remote.commit(ChangeSet(alters=(change,)))
    assert picture(served.beside) == before


def test_an_alteration_of_what_was_not_seen_is_refused(served: Served) -> None:
    topic = served.log["rows"]
    message = WIDER.serialize().to_pybytes()
    for seen in (topic.schema_number + 1, 0):
        change = AlterTopic(topic.number, TopicSettings(), TopicSettings(), message, seen)
        with pytest.raises(PreconditionFailed, match="other columns by now"):
            served.remote.commit(ChangeSet(alters=(change,)))
    with pytest.raises(InvalidInput, match="choose one of"):
        served.remote.commit(
            ChangeSet(alters=(AlterTopic(topic.number, TopicSettings(), TopicSettings(compatibility="odd")),))
        )


def test_columns_from_outside_are_put_into_order_and_made_canonical(served: Served) -> None:
    topic = served.log["rows"]
    odd = pa.schema({"note": pa.string_view(), "n": pa.int64(), "k": pa.dictionary(pa.int8(), pa.string())})
    change = AlterTopic(
        topic.number, TopicSettings(), TopicSettings(), odd.serialize().to_pybytes(), topic.schema_number
    )
    served.remote.commit(ChangeSet(alters=(change,)))
    assert served.beside["rows"].schema.equals(pa.schema([*pa.schema(list(WIDER)[:2]), WIDER.field("note")]))
