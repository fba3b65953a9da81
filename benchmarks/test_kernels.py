"""The kernels under the numbers, one by one: run with ``make bench``, compare with ``--benchmark-compare``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mamba_stream.core.batches import to_batches
from mamba_stream.core.changes import Append, ChangeSet
from mamba_stream.core.keys import hash_keys, split_by_partition
from mamba_stream.core.schemas import fingerprint
from mamba_stream.log import format, ledger, open_log  # noqa: A004 - the name of the room it measures
from mamba_stream.log.log import Log
from mamba_stream.operators.lateness import rows_behind

ROWS = 65_536


@pytest.fixture(scope="module")
def batch() -> pa.RecordBatch:
    random = np.random.default_rng(0)
    return pa.record_batch(
        {
            "time": pa.array(np.arange(ROWS), pa.timestamp("us")),
            "key": pa.array(random.integers(0, 10_000, ROWS)),
            "price": pa.array(random.random(ROWS)),
            "name": pa.array([f"name-{n % 1000}" for n in range(ROWS)], pa.large_string()),
        }
    )


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as log:
        yield log


@pytest.mark.parametrize("rows", [10, ROWS])
def test_encode(benchmark: Any, batch: pa.RecordBatch, rows: int) -> None:
    layout = format.Layout.of(batch.schema, fingerprint(batch.schema))
    benchmark(format.encode, batch.slice(0, rows), layout)


@pytest.mark.parametrize("rows", [10, ROWS])
def test_verify_and_decode(benchmark: Any, batch: pa.RecordBatch, rows: int) -> None:
    layout = format.Layout.of(batch.schema, fingerprint(batch.schema))
    message = format.encode(batch.slice(0, rows), layout)
    data = b"".join(message.parts())

    def read() -> pa.RecordBatch:
        table = format.verify_header(memoryview(data), layout, message.header)
        format.verify_columns(memoryview(data), table, range(batch.num_columns))
        return format.decode(pa.py_buffer(data), layout, None, compressed=False)

    assert benchmark(read).num_rows == rows


@pytest.mark.parametrize("rows", [10, ROWS])
def test_take_in_a_polars_frame(benchmark: Any, batch: pa.RecordBatch, rows: int) -> None:
    frame = pl.DataFrame(batch.slice(0, rows))
    assert sum(b.num_rows for b in benchmark(to_batches, frame, batch.schema)) == rows


@pytest.mark.parametrize("column", ["key", "name"])
def test_hash_keys(benchmark: Any, batch: pa.RecordBatch, column: str) -> None:
    assert len(benchmark(hash_keys, [batch.column(column)])) == ROWS


def test_split_by_partition(benchmark: Any, batch: pa.RecordBatch) -> None:
    parts = benchmark(split_by_partition, batch, ("key",), 32)
    assert sum(part.num_rows for _, part in parts) == ROWS


def test_apply_a_change_set(benchmark: Any, log: Log, batch: pa.RecordBatch) -> None:
    """The index's share of an append, in a transaction of a thousand."""
    log.create_topic("rows", batch.schema).append(batch)
    append = Append(1, 0, 1, 0, 640, 10, 0, 9, 1, 5, 7)
    changes = [ChangeSet(appends=(append,))] * 1000

    class Undone(Exception):
        pass

    def thousand() -> None:
        def change(draft: Any) -> None:
            book = ledger.Ledger(draft, 0)
            for value in changes:
                ledger.apply(book, value)
            raise Undone

        with pytest.raises(Undone):
            log._store.index.update(change)

    benchmark(thousand)


def test_look_up_and_read_one_batch(benchmark: Any, log: Log, batch: pa.RecordBatch) -> None:
    topic = log.create_topic("rows", batch.schema)
    for _ in range(100):
        topic.append(batch.slice(0, 10))
    assert next(benchmark(lambda: topic.read(start=505, max_rows=1))).offset == 505


@pytest.mark.parametrize("disorder", [0, 1000])
def test_judge_lateness(benchmark: Any, disorder: int) -> None:
    random = np.random.default_rng(0)
    times = np.arange(ROWS, dtype=np.int64) - random.integers(0, disorder + 1, ROWS)
    benchmark(rows_behind, times, 0, 100)
