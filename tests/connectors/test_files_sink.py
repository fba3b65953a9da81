"""Files out: the contract for every format, and a writing process that is really killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mamba_connectors import files
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.errors import ConnectorFailed, InvalidInput, UnsupportedType
from mamba_stream.testing.sinks import OWNER, TransactionalSinkContract, some_rows
from mamba_stream.testing.sources import read_to_end
from tests import forking
from tests.connectors import sink_job


class FilesContract(TransactionalSinkContract):
    form = "parquet"
    options: dict[str, Any] = {}

    def sink(self, place: Path) -> files.FileSink:
        return files.sink(place / "out", format=self.form, name="out", **self.options)

    def seen(self, place: Path) -> pl.DataFrame:
        hive = self.options.get("partition_by", False)
        source = files.source(
            place / "out" / "**" / "*.*", format=self.form, schema=self.rows(0, 0).schema, hive=hive
        )
        return read_to_end(source, "all")


class TestParquet(FilesContract):
    pass


class TestIpc(FilesContract):
    form = "ipc"


class TestCsv(FilesContract):
    form = "csv"


class TestPackedCsv(FilesContract):
    form = "csv"
    options = {"compression": "gzip"}


class TestNdjson(FilesContract):
    form = "ndjson"


class TestPackedNdjson(FilesContract):
    form = "ndjson"
    options = {"compression": "zstd"}


class TestRollingByRows(FilesContract):
    options = {"roll_rows": 7}


class TestRollingAtEveryCheckpoint(FilesContract):
    options = {"roll_after": "0s"}


class TestPartitioned(FilesContract):
    options = {"partition_by": ["key"], "roll_rows": 50}


def batch(first: int, rows: int) -> pa.RecordBatch:
    return batch_from_frame(some_rows(first, rows))


def begun(sink: files.FileSink, owner: str = OWNER) -> Any:
    writer = sink.begin(batch(0, 1).schema, owner)
    writer.abort(0)
    return writer


def names_in(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def test_files_have_the_jobs_name_and_the_checkpoints_number_and_no_more_rows_than_they_may(tmp_path):
    writer = begun(files.sink(tmp_path / "out", roll_rows=40))
    writer.write(batch(0, 100))
    writer.commit(5, writer.prepare(5, last=False))
    assert names_in(tmp_path / "out") == [f"job.out-{5:020}-{n}.parquet" for n in range(3)]
    assert [pq.read_metadata(tmp_path / "out" / name).num_rows for name in names_in(tmp_path / "out")] == [
        40,
        40,
        20,
    ]


def test_files_roll_by_bytes(tmp_path):
    writer = begun(files.sink(tmp_path / "out", format="csv", roll_bytes="1MB"))
    for first in range(0, 200_000, 10_000):
        writer.write(batch(first, 10_000))
    writer.commit(1, writer.prepare(1, last=True))
    sizes = [path.stat().st_size for path in (tmp_path / "out").iterdir()]
    assert len(sizes) > 5 and max(sizes) < 8_000_000


def test_rows_gather_over_checkpoints_until_they_have_waited_long_enough(tmp_path):
    class Clock:
        seconds = 1_000.0

        def now(self):
            return int(self.seconds * 1_000_000)

        def monotonic(self):
            return self.seconds

    clock = Clock()
    sink = files.sink(tmp_path / "out", roll_after="1m", clock=clock)
    writer = begun(sink)
    for epoch in (1, 2, 3):
        writer.write(batch(epoch * 10, 10))
        prepared = writer.prepare(epoch, last=False)
        writer.commit(epoch, prepared)
        clock.seconds += 10
    assert names_in(tmp_path / "out") == [] and not writer.due
    # What another process goes on with is as old as it is.
    writer = sink.begin(batch(0, 1).schema, OWNER)
    writer.commit(3, prepared)
    writer.abort(3)
    clock.seconds += 40
    assert writer.due
    writer.commit(4, writer.prepare(4, last=False))
    (name,) = names_in(tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / name)["number"].to_pylist() == list(range(10, 40))
    assert not writer.due
    writer.close()
    assert names_in(tmp_path) == [f"out/{name}"]
    assert not (tmp_path / ".out.staging").exists()


def test_other_tools_read_the_directories(tmp_path):
    writer = begun(files.sink(tmp_path / "out", partition_by="key"))
    writer.write(batch(0, 100))
    writer.commit(1, writer.prepare(1, last=True))
    writer.write(batch(100, 100))
    writer.prepare(2, last=False)  # staged rows are nobody else's business
    assert pl.scan_parquet(tmp_path / "out", hive_partitioning=True).collect().height == 100
    counts = duckdb.sql(
        f"select key, count(*) from '{tmp_path}/out/**/*.parquet' group by key order by key"
    ).fetchall()
    assert counts == [("k0", 34), ("k1", 33), ("k2", 33)]


def test_values_that_are_no_names_of_directories_make_ones_all_the_same(tmp_path):
    odd = ["..", "", "a/b", "ü %", None, "__HIVE_DEFAULT_PARTITION__", "x" * 60]
    frame = pl.DataFrame({"key": odd, "number": range(len(odd))})
    writer = files.sink(tmp_path / "out", partition_by="key").begin(batch_from_frame(frame).schema, OWNER)
    writer.abort(0)
    writer.write(batch_from_frame(frame))
    writer.commit(1, writer.prepare(1, last=True))
    assert all(
        len(path.relative_to(tmp_path / "out").parts) == 2 for path in (tmp_path / "out").rglob("*.parquet")
    )


def test_a_file_that_was_taken_away_after_it_appeared_is_not_made_again(tmp_path):
    sink = files.sink(tmp_path / "out")
    writer = begun(sink)
    writer.write(batch(0, 10))
    prepared = writer.prepare(1, last=True)
    writer.commit(1, prepared)
    (name,) = names_in(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    again = sink.begin(batch(0, 1).schema, OWNER)
    again.commit(1, prepared)
    again.abort(1)
    assert names_in(tmp_path / "out") == []


def test_nothing_that_is_there_is_replaced(tmp_path):
    for _ in range(2):  # the log was lost in between: epochs begin again
        writer = begun(files.sink(tmp_path / "out"))
        writer.write(batch(0, 10))
        writer.commit(1, writer.prepare(1, last=True))
    assert len(names_in(tmp_path / "out")) == 2


def test_what_a_dead_run_left_is_removed_when_the_next_begins(tmp_path):
    sink = files.sink(tmp_path / "out")
    dead = begun(sink)
    dead.write(batch(0, 10))
    committed = dead.prepare(1, last=False)
    for epoch in (2, 3):
        dead.write(batch(epoch * 10, 10))
        dead.prepare(epoch, last=epoch == 3)
    dead.write(batch(40, 10))
    del dead
    writer = sink.begin(batch(0, 1).schema, OWNER)
    writer.commit(1, committed)
    writer.abort(1)
    assert names_in(tmp_path) == [f".out.staging/{OWNER}/{1:020}.part.arrows"]
    writer.commit(4, writer.prepare(4, last=True))
    writer.close()
    assert names_in(tmp_path) == [f"out/{OWNER}-{4:020}-0.parquet"]


def test_a_job_that_starts_over_removes_its_own_files_and_no_others(tmp_path):
    sink = files.sink(tmp_path / "out")
    for owner in (OWNER, "job.out-2", "job"):
        writer = begun(sink, owner)
        writer.write(batch(0, 10))
        writer.commit(1, writer.prepare(1, last=True))
    (tmp_path / "out" / "mine.parquet").write_bytes(b"x")
    begun(sink).empty()
    assert names_in(tmp_path / "out") == [
        f"job-{1:020}-0.parquet",
        f"job.out-2-{1:020}-0.parquet",
        "mine.parquet",
    ]


def test_staged_rows_that_are_gone_are_an_error(tmp_path):
    sink = files.sink(tmp_path / "out")
    writer = begun(sink)
    writer.write(batch(0, 10))
    prepared = writer.prepare(1, last=False)
    for path in (tmp_path / ".out.staging" / OWNER).iterdir():
        path.unlink()
    again = sink.begin(batch(0, 1).schema, OWNER)
    again.commit(1, prepared)
    with pytest.raises(ConnectorFailed, match="rows that were committed and were not yet in a complete file"):
        again.abort(1)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"format": "parket"}, InvalidInput, "did you mean 'parquet'"),
        ({"partition_by": "kee"}, InvalidInput, "did you mean 'key'"),
        ({"partition_by": "share"}, UnsupportedType, "'share'"),
        ({"roll_rows": 0}, InvalidInput, "roll_rows=0"),
        ({"roll_bytes": "many"}, InvalidInput, "roll_bytes='many'"),
        ({"roll_after": 3}, InvalidInput, "roll_after has no unit"),
        ({"compression": "zip"}, InvalidInput, "compression='zip'"),
        ({"format": "csv", "compression": "snappy"}, InvalidInput, "csv has 'gzip', 'zstd', 'none'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        files.sink(tmp_path / "out", **arguments).begin(batch(0, 1).schema, OWNER)


def test_a_place_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="is a file"):
        files.sink(tmp_path / "file")
    with pytest.raises(InvalidInput, match="takes a directory"):
        files.sink(3)


def test_another_file_system_is_refused_with_what_to_do(tmp_path):
    other = Path("/dev/shm")
    if not other.exists() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system here")
    sink = files.sink(tmp_path / "out", staging=other / f"mamba-{os.getpid()}")
    try:
        with pytest.raises(ConnectorFailed, match="pass staging="):
            sink.begin(batch(0, 1).schema, OWNER)
    finally:
        (other / f"mamba-{os.getpid()}" / OWNER).rmdir()
        (other / f"mamba-{os.getpid()}").rmdir()


@pytest.mark.parametrize("options", ["parquet", "csv", "partitioned"])
@pytest.mark.parametrize(
    "kills", [pytest.param(3, id="3"), pytest.param(150, id="150", marks=pytest.mark.slow)]
)
def test_a_writer_that_is_killed_anywhere_leaves_every_committed_row_once(
    tmp_path, environment, options, kills
):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(kills):
        process = forking.Process(
            [sys.executable, "-m", "tests.connectors.sink_job", str(tmp_path), options, "endless"],
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(moments.uniform(0, 0.12))
        assert process.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        # Whenever anybody looks, there are whole files, and no row twice.
        seen = sink_job.seen(tmp_path, options)["number"]
        assert seen.n_unique() == len(seen)
    forking.run(
        [sys.executable, "-m", "tests.connectors.sink_job", str(tmp_path), options, "last"],
        env=environment,
        check=True,
    )
    rows = sink_job.read_checkpoint(tmp_path)["rows"]
    assert rows > 0
    assert sorted(sink_job.seen(tmp_path, options)["number"]) == list(range(rows))
    assert not (tmp_path / ".out.staging").exists()
