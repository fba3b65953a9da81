"""Iterables, functions, standard input and output."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from mamba_connectors import discard, python
from mamba_stream.connect import accepts_changes
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.errors import ConnectorFailed, InvalidInput, SchemaMismatch
from mamba_stream.testing.sinks import SinkContract
from mamba_stream.testing.sources import SourceContract, read_to_end, rows_of

NUMBERS = pl.DataFrame({"number": range(50), "text": ["a", None] * 25})


class TestGeneratorOfRows(SourceContract):
    def source(self, place: Path) -> python.IterableSource:
        return python.source(lambda: NUMBERS.iter_rows(named=True), schema=NUMBERS.schema, name="numbers")

    def expected(self, place: Path) -> pl.DataFrame:
        return NUMBERS


class TestGeneratorOfFrames(SourceContract):
    def source(self, place: Path) -> python.IterableSource:
        def frames():
            yield NUMBERS.slice(0, 17)
            yield None
            yield NUMBERS.slice(17, 0)
            yield from NUMBERS.slice(17, 5).to_dicts()
            yield NUMBERS.slice(22).to_arrow()

        return python.source(frames, schema=NUMBERS.schema)

    def expected(self, place: Path) -> pl.DataFrame:
        return NUMBERS


class TestListOfRows(SourceContract):
    def source(self, place: Path) -> python.IterableSource:
        return python.source(NUMBERS.to_dicts())

    def expected(self, place: Path) -> pl.DataFrame:
        return NUMBERS


class TestPositioned(SourceContract):
    def source(self, place: Path) -> python.PositionedSource:
        def read(position):
            at = position["at"] if position else 0
            while at < 50:
                yield None
                yield NUMBERS.slice(at, 8), {"at": at + 8}
                yield [], {"at": at + 8}
                at += 8

        return python.positioned(read, schema=NUMBERS.schema, bounded=True)

    def expected(self, place: Path) -> pl.DataFrame:
        return NUMBERS


def test_a_positioned_function_is_called_with_the_position_and_reads_nothing_twice():
    calls = []

    def read(position):
        calls.append(position)
        for at in range(position or 0, 30, 10):
            yield NUMBERS.slice(at, 10), at + 10

    source = python.positioned(read, schema=NUMBERS.schema, bounded=True)
    assert read_to_end(source, "all", [20, 0])["number"].to_list() == list(range(20, 30))
    assert calls == [20]


class TestWakingGenerator(SourceContract):
    def source(self, place: Path) -> python.IterableSource:
        def frames(wake):
            yield NUMBERS.slice(0, 17)
            wake(0.001)
            yield None
            yield NUMBERS.slice(17, 0)
            yield from NUMBERS.slice(17, 5).to_dicts()
            threading.Timer(0.001, wake).start()
            yield None
            yield NUMBERS.slice(22).to_arrow()

        return python.source(frames, schema=NUMBERS.schema, wakes=True)

    def expected(self, place: Path) -> pl.DataFrame:
        return NUMBERS


class TestWakingPositioned(SourceContract):
    def source(self, place: Path) -> python.PositionedSource:
        def read(position, wake):
            for at in range(position or 0, 50, 8):
                wake()
                yield None
                yield NUMBERS.slice(at, 8), at + 8

        return python.positioned(read, schema=NUMBERS.schema, bounded=True, wakes=True)

    def expected(self, place: Path) -> pl.DataFrame:
        return NUMBERS


def test_only_a_function_can_be_given_what_to_call():
    with pytest.raises(InvalidInput, match="wakes=True is for a function"):
        python.source(NUMBERS.to_dicts(), wakes=True)


def test_lines_that_come_wake_their_reader_and_so_does_their_end():
    reading, writing = os.pipe()
    woken = threading.Event()
    reader = python.stdin("ndjson", schema={"n": pl.Int64}, stream=reading).open("all", None)
    reader.wake_by(lambda after=0.0: woken.set())
    assert reader.read(10) is None
    for data, rows in ((b'{"n": 1}\n', 1), (b'{"n": 2', None), (b"}\n\n", 1), (b"\n", None)):
        os.write(writing, data)
        assert woken.wait(60)
        woken.clear()
        found = reader.read(10)
        assert (None if found is None else found.batch.num_rows) == rows
        if found is not None:
            assert reader.read(10) is None
    os.close(writing)
    assert woken.wait(60)
    assert reader.read(10) is None and reader.ended
    reader.close()
    reader = python.stdin("lines", stream=reading).open("all", None)
    reader.wake_by(lambda after=0.0: None)
    reader.close()
    assert "mamba-stream input" not in {thread.name for thread in threading.enumerate()}
    os.close(reading)


def test_an_iterator_that_has_begun_says_that_its_rows_come_at_most_once():
    source = python.source(iter(NUMBERS.to_dicts()), schema=NUMBERS.schema)
    assert source.delivery == "at-most-once"
    reader = source.open("all", None)
    first = next(rows_of(reader, 10))
    reader.close()
    rest = read_to_end(source, "all", first.position)
    assert first.batch.num_rows + rest.height == 50


def test_what_gives_fewer_rows_than_before_is_an_error():
    source = python.source(lambda: NUMBERS.to_dicts()[:5], schema=NUMBERS.schema)
    with pytest.raises(ConnectorFailed, match="gave 7 rows before, and ends after 5 now"):
        source.open("all", 7)


def test_a_slow_generator_gives_what_it_has():
    class Clock:
        seconds = 0.0

        def now(self):
            return 0

        def monotonic(self):
            return self.seconds

    clock = Clock()

    def slow():
        for row in NUMBERS.to_dicts():
            clock.seconds += 1
            yield row

    reader = python.source(slow, schema=NUMBERS.schema, clock=clock).open("all", None)
    assert reader.read(1_000).batch.num_rows == 1


def test_a_row_that_does_not_fit_names_the_source():
    source = python.source(lambda: [{"number": "x"}], schema={"number": pl.Int64}, name="mine")
    with pytest.raises(SchemaMismatch, match="mine"):
        read_to_end(source, "all")


@pytest.mark.parametrize("rows", [3, "text", {"a": 1}])
def test_what_gives_no_rows_is_refused(rows):
    with pytest.raises(InvalidInput, match=r"python\.source takes an iterable"):
        python.source(rows)


def test_a_function_needs_a_schema():
    with pytest.raises(InvalidInput, match="pass schema="):
        python.source(lambda: iter(()))


class TestCalls(SinkContract):
    def sink(self, place: Path) -> python.CallSink:
        def append(frame: pl.DataFrame) -> None:
            with (place / "seen").open("ab") as file:
                frame.write_ndjson(file)

        return python.sink(append)

    def seen(self, place: Path) -> pl.DataFrame:
        schema = self.rows(0, 0).schema
        path = place / "seen"
        return pl.read_ndjson(path, schema=schema) if path.exists() else pl.DataFrame(schema=schema)


class TestStandardOutput(SinkContract):
    streams: dict[Path, io.BytesIO] = {}

    def sink(self, place: Path) -> python.StandardOutput:
        return python.stdout(stream=self.streams.setdefault(place, io.BytesIO()), name="out")

    def seen(self, place: Path) -> pl.DataFrame:
        schema = self.rows(0, 0).schema
        written = self.streams[place].getvalue()
        return pl.read_ndjson(written, schema=schema) if written else pl.DataFrame(schema=schema)


def test_csv_has_one_header_and_lines_are_lines():
    stream = io.BytesIO()
    writer = python.stdout("csv", stream=stream).open(batch_from_frame(NUMBERS).schema, "job.out")
    for first in (0, 2):
        writer.write(batch_from_frame(NUMBERS.slice(first, 2)))
    assert stream.getvalue().decode() == '"number","text"\n0,"a"\n1,\n2,"a"\n3,\n'
    stream = io.BytesIO()
    text = NUMBERS.select("text").head(3)
    python.stdout("lines", stream=stream).open(batch_from_frame(text).schema, "job.out").write(
        batch_from_frame(text)
    )
    assert stream.getvalue() == b"a\n\na\n"
    with pytest.raises(InvalidInput, match="one column of text"):
        python.stdout("lines").open(batch_from_frame(NUMBERS).schema, "job.out")


def piped(data: bytes, source) -> pl.DataFrame:
    """What a source reads from a pipe that is closed behind the data."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        return read_to_end(source(reading), "all", max_rows=3)
    finally:
        os.close(reading)


def test_standard_input_reads_every_form():
    rows = NUMBERS.head(8)
    schema = NUMBERS.schema
    assert piped(rows.write_ndjson().encode(), lambda n: python.stdin(schema=schema, stream=n)).equals(rows)
    text = rows.write_csv(include_header=False).encode()
    assert piped(text, lambda n: python.stdin("csv", schema=schema, stream=n)).equals(rows)
    lines = piped("a\n\nü\nlast".encode(), lambda n: python.stdin("lines", stream=n))
    assert lines["line"].to_list() == ["a", "", "ü", "last"]


def test_standard_input_waits_for_nothing():
    reading, writing = os.pipe()
    reader = python.stdin("lines", stream=reading).open("all", None)
    assert reader.read(10) is None and not reader.ended
    os.write(writing, b"half a")
    assert reader.read(10) is None
    os.write(writing, b" line\nand")
    assert reader.read(10).batch.to_pylist() == [{"line": "half a line"}]
    os.close(writing)
    assert reader.read(10).batch.to_pylist() == [{"line": "and"}]
    assert reader.ended
    os.close(reading)


def test_a_line_that_does_not_fit_is_named():
    with pytest.raises(SchemaMismatch, match="stdin: a line behind byte 0"):
        piped(b'{"number": "x"}\n', lambda n: python.stdin(schema={"number": pl.Int64}, stream=n))


def test_a_process_reads_its_own_standard_input(environment):
    code = (
        "from mamba_connectors import python\n"
        "from mamba_stream.testing.sources import read_to_end\n"
        "import polars as pl\n"
        "frame = read_to_end(python.stdin(schema={'n': pl.Int64}), 'all')\n"
        "from mamba_stream.core.batches import batch_from_frame\n"
        "out = python.stdout().open(batch_from_frame(frame).schema, 'job.out')\n"
        "out.write(batch_from_frame(frame)); out.flush()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b'{"n":1}\n{"n":2}\n',
        capture_output=True,
        env=environment,
        check=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"n": 1}, {"n": 2}]


class TestDiscard(SinkContract):
    def sink(self, place: Path) -> discard.DiscardSink:
        return discard.sink()

    def seen(self, place: Path) -> pl.DataFrame:
        return self.rows(0, 0)

    def assert_seen(self, place: Path, *stretches: tuple[int, int]) -> None:
        super().assert_seen(place)


def test_who_accepts_changes_says_so():
    assert accepts_changes(discard.sink())
    assert not accepts_changes(python.sink(print))
    assert accepts_changes(python.sink(print, accepts_changes=True))
