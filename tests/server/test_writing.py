"""Streams of batches: in which order they are durable, and what a client hears of one that is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.core.clock import SystemClock
from mamba_stream.log import Log, Topic
from mamba_stream.log.store import acquire
from mamba_stream.server.gate import Caller, OpenGate
from mamba_stream.server.limits import Limits
from mamba_stream.server.room import Room
from mamba_stream.server.service import FlightService
from tests.server.running import until

SCHEMA = pa.schema({"n": pa.int64()})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[flight.FlightClient, Topic]]:
    store = acquire(tmp_path / "log")
    topic = Log(store).create_topic("rows", {"n": pl.Int64})
    service = FlightService(store)
    with flight.connect(f"grpc://localhost:{service.port}") as client:
        yield client, topic
    service.shutdown()
    store.release()


def _batch(*numbers: int) -> pa.RecordBatch:
    return pa.record_batch([list(numbers)], schema=SCHEMA)


def _numbers(topic: Topic) -> list[int]:
    return [n for batch in topic.read() for n in batch.data.column("n").to_pylist()]


def _answer(answers: Any) -> dict[str, Any]:
    told: dict[str, Any] = msgpack.unpackb(answers.read().to_pybytes(), strict_map_key=False)
    return told


def test_every_batch_is_acknowledged_in_order(served: tuple[flight.FlightClient, Topic]) -> None:
    client, topic = served
    writer, answers = client.do_put(flight.FlightDescriptor.for_path("rows"), SCHEMA)
    for n in range(500):
        writer.write_batch(_batch(n))
    writer.done_writing()
    offsets: list[Any] = []
    while len(offsets) < 500:
        offsets += _answer(answers)["offsets"]
    writer.close()
    assert offsets == [{0: [n, n + 1]} for n in range(500)]
    assert _numbers(topic) == list(range(500))


def test_rows_are_as_durable_as_the_stream_asked_for(served: tuple[flight.FlightClient, Topic]) -> None:
    client, topic = served
    before = topic.log.statistics()
    assert before.flushed_lsn == before.lsn
    for durability in ("os", "commit", "interval"):
        command = msgpack.packb({"topic": "rows", "durability": durability})
        writer, answers = client.do_put(flight.FlightDescriptor.for_command(command), SCHEMA)
        writer.write_batch(_batch(1))
        told = _answer(answers)
        found = topic.log.statistics()
        writer.close()
        assert found.lsn >= told["lsn"]
        if durability == "interval":
            until(lambda: topic.log.statistics().flushed_lsn >= told["lsn"], "a flush")  # noqa: B023
        else:
            assert (found.flushed_lsn < told["lsn"]) is (durability == "os")
    command = msgpack.packb({"topic": "rows", "durability": "fsync"})
    writer, _ = client.do_put(flight.FlightDescriptor.for_command(command), SCHEMA)
    with pytest.raises(flight.FlightError, match="InvalidInput"):
        writer.close()
    assert _numbers(topic) == [1, 1, 1]


def test_who_waits_for_an_answer_to_each_batch_hears_of_the_one_that_failed(
    served: tuple[flight.FlightClient, Topic],
) -> None:
    client, topic = served
    writer, answers = client.do_put(flight.FlightDescriptor.for_path("rows"), SCHEMA)
    writer.write_batch(_batch(1))
    assert _answer(answers)["offsets"] == [{0: [0, 1]}]
    writer.write_with_metadata(_batch(2), msgpack.packb({"expect": {0: 7}}))
    assert _answer(answers)["failure"]["code"] == "PreconditionFailed"
    with pytest.raises(flight.FlightError, match="PreconditionFailed"):
        writer.close()
    assert _numbers(topic) == [1]


def test_what_came_before_a_batch_that_cannot_be_is_durable(
    served: tuple[flight.FlightClient, Topic],
) -> None:
    client, topic = served
    writer, answers = client.do_put(flight.FlightDescriptor.for_path("rows"), SCHEMA)
    writer.write_batch(_batch(1))
    writer.write_batch(_batch(2))
    writer.write_with_metadata(_batch(3), msgpack.packb({"partition": 5}))
    writer.done_writing()
    acknowledged = 0
    while "failure" not in (told := _answer(answers)):
        acknowledged += len(told["offsets"])
    assert told["failure"]["code"] == "PartitionNotFound"
    assert acknowledged == 2
    with pytest.raises(flight.FlightError, match="PartitionNotFound"):
        writer.close()
    assert _numbers(topic) == [1, 2]


class _Held:
    """A storage whose commits wait, so that what a client sends meanwhile goes into the next one together."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        self.appended = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, change: ChangeSet, batches: Sequence[Any] = ()) -> Applied:
        self.begun.set()
        assert self.goes_on.wait(60)
        self.appended += len(batches)
        answer: Applied = self._store.commit(change, batches)
        return answer


class _Counting(OpenGate):
    """Notes how many batches have arrived."""

    def __init__(self) -> None:
        self.arrived = 0

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        self.arrived += 1


class Crowd:
    """A server that holds the first commit of a stream until all batches of that have arrived."""

    def __init__(self, place: Path, limits: Limits | None = None, room: Room | None = None) -> None:
        self._store = acquire(place)
        self._gate = _Counting()
        self._storage = _Held(self._store)
        self._service = FlightService(self._storage, gate=self._gate, limits=limits, room=room)
        self.log = Log(self._store)

    @property
    def appended(self) -> int:
        """Batches that the log got."""
        return self._storage.appended

    def put(self, batches: list[pa.RecordBatch], **command: Any) -> tuple[list[Any], str | None]:
        """The offsets that are acknowledged, batch by batch, and the code of the failure."""
        descriptor = flight.FlightDescriptor.for_command(msgpack.packb({"topic": "rows", **command}))
        arrived = self._gate.arrived + len(batches)
        self._storage.begun.clear()
        self._storage.goes_on.clear()
        with flight.connect(f"grpc://localhost:{self._service.port}") as client:
            writer, answers = client.do_put(descriptor, batches[0].schema)
            writer.write_batch(batches[0])
            assert self._storage.begun.wait(60)
            for batch in batches[1:]:
                writer.write_batch(batch)
            writer.done_writing()
            until(lambda: self._gate.arrived == arrived, "the last batch")
            self._storage.goes_on.set()
            offsets: list[Any] = []
            while (told := answers.read()) is not None:
                answer = msgpack.unpackb(told.to_pybytes(), strict_map_key=False)
                offsets += answer["offsets"]
                if "failure" in answer:
                    with pytest.raises(flight.FlightError, match=answer["failure"]["code"]):
                        writer.close()
                    return offsets, answer["failure"]["code"]
            writer.close()
            return offsets, None

    def overrun(self, batch: pa.RecordBatch) -> str:
        """Writes until the stream ends; the code of what the client is told."""
        with flight.connect(f"grpc://localhost:{self._service.port}") as client:
            writer, _ = client.do_put(flight.FlightDescriptor.for_path("rows"), batch.schema)
            with pytest.raises(flight.FlightError):
                while True:
                    writer.write_batch(batch)
            with pytest.raises(flight.FlightError) as caught:
                writer.close()
            return str(msgpack.unpackb(caught.value.extra_info)["code"])

    def let_go(self) -> bool:
        """Holds the commit no longer, if it has begun; whether it has."""
        begun = self._storage.begun.is_set()
        if begun:
            self._storage.goes_on.set()
        return begun

    def close(self) -> None:
        self._service.shutdown()
        self._store.release()


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    made = Crowd(tmp_path / "log")
    yield made
    made.close()


def test_small_batches_that_wait_for_a_commit_become_one_and_each_is_acknowledged(crowd: Crowd) -> None:
    topic = crowd.log.create_topic("rows", {"n": pl.Int64})
    batches = [_batch(*range(10 * n, 10 * n + n % 4)) for n in range(1, 50)]
    offsets, failure = crowd.put(batches)
    assert failure is None
    at, expected = 0, []
    for batch in batches:
        expected.append({0: [at, at + batch.num_rows]} if batch.num_rows else {})
        at += batch.num_rows
    assert offsets == expected
    assert _numbers(topic) == [n for batch in batches for n in batch.column("n").to_pylist()]
    assert crowd.appended < 10


def test_batches_go_one_by_one_where_partitions_take_turns_and_together_where_one_is_named(
    crowd: Crowd,
) -> None:
    topic = crowd.log.create_topic("rows", {"n": pl.Int64}, partitions=2)
    offsets, failure = crowd.put([_batch(n, n) for n in range(10)])
    assert failure is None
    assert sorted(p for each in offsets for p in each) == [0] * 5 + [1] * 5
    assert crowd.appended == 10
    offsets, failure = crowd.put([_batch(n, n) for n in range(10)], partition=1)
    assert (offsets, failure) == ([{1: [10 + 2 * n, 12 + 2 * n]} for n in range(10)], None)
    assert crowd.appended < 20
    assert topic.offsets() == {0: (0, 10), 1: (0, 30)}


def test_one_of_many_that_does_not_fit_fails_alone_and_ends_the_stream(crowd: Crowd) -> None:
    topic = crowd.log.create_topic("rows", {"at": pl.Datetime("us")})
    seconds = pa.schema({"at": pa.timestamp("s")})
    batches = [pa.record_batch([pa.array([n], pa.timestamp("s"))], schema=seconds) for n in range(20)]
    # A time that there is in seconds, and not in microseconds.
    batches[12] = pa.record_batch([pa.array([1 << 60], pa.timestamp("s"))], schema=seconds)
    assert crowd.put(batches) == ([{0: [n, n + 1]} for n in range(12)], "SchemaMismatch")
    assert topic.scan().collect()["at"].dt.epoch("s").to_list() == list(range(12))


def test_times_of_batches_that_become_one_are_found(crowd: Crowd) -> None:
    topic = crowd.log.create_topic("rows", {"at": pl.Datetime("us"), "text": pl.String}, time="at")
    times = [datetime(2026, 1, 1) + timedelta(minutes=n * 37 % 50) for n in range(50)]
    frames = [pl.DataFrame({"at": [at], "text": [str(at)]}) for at in times]
    schema = pa.schema({"at": pa.timestamp("us"), "text": pa.large_string()})
    offsets, failure = crowd.put([frame.to_arrow().cast(schema).to_batches()[0] for frame in frames])
    assert (offsets, failure) == ([{0: [n, n + 1]} for n in range(50)], None)
    assert crowd.appended < 20
    whole = pl.concat(frames)
    bound = datetime(2026, 1, 1, 0, 40)
    assert topic.scan().collect().equals(whole)
    assert topic.scan().filter(pl.col("at") >= bound).collect().equals(whole.filter(pl.col("at") >= bound))
    assert topic.scan().filter(pl.col("at") < bound).collect().equals(whole.filter(pl.col("at") < bound))
    assert topic.offset_at(bound) == {0: next(n for n, at in enumerate(times) if at >= bound)}


def test_no_more_are_put_together_than_readers_skip_at_once(crowd: Crowd) -> None:
    topic = crowd.log.create_topic("rows", {"n": pl.Int64})
    rows = 40_000
    offsets, failure = crowd.put([_batch(*range(n, n + rows)) for n in range(20)])
    assert (offsets, failure) == ([{0: [n * rows, (n + 1) * rows]} for n in range(20)], None)
    sizes = [batch.data.nbytes for batch in topic.read()]
    assert max(sizes) <= 1 << 20
    assert len(sizes) < 12
    assert _numbers(topic) == [n + row for n in range(20) for row in range(rows)]


def test_who_is_far_ahead_of_the_log_is_ended_where_memory_gets_short(tmp_path: Path) -> None:
    def used() -> int:
        return 900 if crowd.let_go() else 0

    crowd = Crowd(tmp_path / "log", Limits(in_flight_bytes=1 << 20), Room(1_000, used, SystemClock()))
    topic = crowd.log.create_topic("rows", {"n": pl.Int64})
    assert crowd.overrun(_batch(*range(50_000))) == "QuotaExceeded"
    # The commit that was under way has happened, and nothing of what waited behind it.
    assert _numbers(topic) in [list(range(50_000)) * batches for batches in (1, 2, 3)]
    crowd.close()


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_producers_name_that_cannot_be_one_is_called_that(
    served: tuple[flight.FlightClient, Topic], name: str
) -> None:
    client, topic = served
    writer, answers = client.do_put(flight.FlightDescriptor.for_path("rows"), SCHEMA)
    writer.write_with_metadata(_batch(1), msgpack.packb({"producer": name, "sequence": 0}))
    failure = _answer(answers)["failure"]
    assert failure["code"] == "InvalidInput"
    assert failure["message"].startswith("a producer's name: 1 to 200 bytes")
    with pytest.raises(flight.FlightServerError, match="a producer's name"):
        writer.close()
    assert _numbers(topic) == []
