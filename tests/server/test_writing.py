"""Streams of batches: in which order they are durable, and what a client hears of one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

from mamba_stream.log import Log, Topic
from mamba_stream.log.store import acquire
from mamba_stream.server.service import FlightService

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
