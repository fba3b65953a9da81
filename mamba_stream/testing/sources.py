"""What every source promises, as tests to inherit.

    class TestMySource(SourceContract):
        def source(self, place):
            return my_source(place)             # bounded, and with the same rows whenever it is made in this place

        def expected(self, place):
            return pl.DataFrame(...)            # all its rows, in any order

Pytest finds the tests of the class by inheritance. A dozen rows over two partitions find most mistakes; several reads'
worth of them, with long and short texts and nulls, the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, Final, get_args

import msgpack
import polars as pl
import pyarrow as pa
from polars.testing import assert_frame_equal

from mamba_stream.connect import Delivery, Ending, Position, Projecting, Reader, Rows, Source, Waking
from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.schemas import canonical_schema

LARGEST_POSITION: Final = 4096
"""Bytes of msgpack: it is written at every checkpoint."""
_PATIENCE: Final = 10_000
"""How often a bounded reader may have nothing before its end."""


def rows_of(reader: Reader, max_rows: int) -> Iterator[Rows]:
    """Reads to the end.

    Raises:
        AssertionError: A reader of a bounded source does not come to one.
    """
    silent = 0
    while not reader.ended:
        rows = reader.read(max_rows)
        if rows is None:
            silent += 1
            assert silent < _PATIENCE, "it has nothing, again and again, and does not say that it has ended"
            continue
        silent = 0
        yield rows


def joined(batches: list[pa.RecordBatch], schema: pa.Schema) -> pl.DataFrame:
    """Batches as one frame."""
    table = pa.Table.from_batches(batches, schema=schema).combine_chunks()
    found = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    return frame_from_batch(found[0])


def read_to_end(
    source: Source, partition: str, position: Position = None, *, max_rows: int = 1_000
) -> pl.DataFrame:
    """All rows of a partition from a position on."""
    reader = source.open(partition, position)
    try:
        return joined([rows.batch for rows in rows_of(reader, max_rows)], source.schema)
    finally:
        reader.close()


def _read_when_woken(reader: Any, schema: pa.Schema, patience: float) -> pl.DataFrame:
    """All rows, of a reader that had nothing only asked when it called."""
    called: SimpleQueue[float] = SimpleQueue()
    reader.wake_by(lambda after=0.0: called.put(after))
    found = []
    while not reader.ended:
        while not called.empty():
            called.get()
        if (rows := reader.read(1_000)) is not None:
            found.append(rows.batch)
        elif not reader.ended:
            try:
                after = called.get(timeout=patience)
            except Empty:
                raise AssertionError(f"it had nothing, and did not call within {patience} s") from None
            Event().wait(max(0.0, after))
    return joined(found, schema)


def stored(position: Position) -> Any:
    """A position as it comes back from a checkpoint."""
    return msgpack.unpackb(msgpack.packb(position, strict_types=True), strict_map_key=False)


class SourceContract:
    """Inherit it, and give :meth:`source` and :meth:`expected`.

    Attributes:
        cuts: How many rows to ask for at a time.
        places: At how many places, at most, reading is interrupted.
        largest_position: What a position may take, where there is a reason for more.
        patience: How many seconds a reader may have nothing that says when it has something.
    """

    cuts: tuple[int, ...] = (1, 3, 1_000)
    places: int = 25
    largest_position: int = LARGEST_POSITION
    patience: float = 60.0

    def source(self, place: Path) -> Source:
        """A bounded source of the same rows whenever it is made in this place, an empty directory at first."""
        raise NotImplementedError

    def expected(self, place: Path) -> pl.DataFrame:
        """The rows of that source, in any order."""
        raise NotImplementedError

    def test_it_gives_all_its_rows(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        found = pl.concat([read_to_end(source, partition) for partition in source.partitions()])
        assert_frame_equal(found, self.expected(tmp_path), check_row_order=False)

    def test_the_same_rows_come_whatever_the_cut(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            whole = read_to_end(source, partition)
            for rows in self.cuts:
                assert_frame_equal(read_to_end(self.source(tmp_path), partition, max_rows=rows), whole)

    def test_reading_gives_at_least_one_row_and_at_most_as_many_as_were_asked_for(
        self, tmp_path: Path
    ) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            for most in self.cuts:
                reader = source.open(partition, None)
                sizes = [rows.batch.num_rows for rows in islice(rows_of(reader, most), self.places)]
                reader.close()
                assert all(1 <= size <= most for size in sizes), f"asked for {most}: {sizes}"

    def test_going_on_from_any_position_gives_exactly_the_rest(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            whole = read_to_end(source, partition)
            for most in self.cuts:
                reader, seen = source.open(partition, None), 0
                for rows in islice(rows_of(reader, most), self.places):
                    seen += rows.batch.num_rows
                    rest = read_to_end(self.source(tmp_path), partition, stored(rows.position))
                    assert_frame_equal(rest, whole.slice(seen))
                reader.close()

    def test_a_position_can_be_gone_on_from_more_than_once(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            rows = next(rows_of(reader, 2), None)
            if rows is not None:
                position = stored(rows.position)
                first, second = source.open(partition, position), source.open(partition, position)
                assert_frame_equal(
                    joined([rows.batch for rows in rows_of(first, 3)], source.schema),
                    joined([rows.batch for rows in rows_of(second, 1_000)], source.schema),
                )
                first.close()
                second.close()
            reader.close()

    def test_positions_are_small_and_plain(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            for rows in rows_of(reader, max(self.cuts)):
                size = len(msgpack.packb(rows.position, strict_types=True))
                assert size <= self.largest_position, f"{size} bytes: {rows.position!r:.200}"
            reader.close()

    def test_batches_have_the_schema_that_was_promised(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        assert source.schema.equals(canonical_schema(source.schema), check_metadata=True)
        for partition in source.partitions():
            reader = source.open(partition, None)
            for rows in rows_of(reader, 1_000):
                assert rows.batch.schema.equals(source.schema, check_metadata=True)
                rows.batch.validate(full=True)
            reader.close()

    def test_it_is_described_alike_whenever_it_is_made(self, tmp_path: Path) -> None:
        first, second = self.source(tmp_path), self.source(tmp_path)
        assert first.name == second.name != ""
        assert first.schema == second.schema
        assert sorted(first.partitions()) == sorted(second.partitions())
        assert len(set(first.partitions())) == len(first.partitions())
        assert first.delivery in get_args(Delivery)
        assert first.bounded is True

    def test_what_has_ended_gives_nothing_more(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            reader, last = source.open(partition, None), None
            for rows in rows_of(reader, 1_000):
                last = stored(rows.position)
            assert reader.ended
            assert reader.read(10) is None
            assert reader.ended
            reader.close()
            if last is not None:
                assert read_to_end(self.source(tmp_path), partition, last).height == 0

    def test_columns_that_were_not_asked_for_stay_away(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        if not isinstance(source, Projecting):
            return
        names = source.schema.names
        for columns in (names[:1], names[-1:], names[::-1], names[::2]):
            narrow = source.select(columns)
            assert narrow.schema.names == columns
            for partition in source.partitions():
                whole = read_to_end(source, partition).select(columns)
                assert_frame_equal(read_to_end(narrow, partition, max_rows=3), whole)
                reader = source.open(partition, None)
                rows = next(rows_of(reader, 2), None)
                if rows is not None:
                    rest = read_to_end(narrow, partition, stored(rows.position))
                    assert_frame_equal(rest, whole.slice(rows.batch.num_rows))
                reader.close()

    def test_asked_only_when_it_says_so_it_gives_all_its_rows(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for partition in source.partitions():
            reader = source.open(partition, None)
            if isinstance(reader, Waking):
                whole = read_to_end(source, partition)
                assert_frame_equal(_read_when_woken(reader, source.schema, self.patience), whole)
            reader.close()

    def test_as_of_now_it_ends(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        if isinstance(source, Ending):
            now = source.as_of_now()
            assert now.bounded
            for partition in now.partitions():
                read_to_end(now, partition)
