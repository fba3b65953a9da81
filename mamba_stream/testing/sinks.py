"""What every sink promises, as tests to inherit.

    class TestMySink(TransactionalSinkContract):
        def sink(self, place):
            return my_sink(place)

        def seen(self, place):
            return pl.DataFrame(...)            # what anybody outside sees there now, in any order

A crash is played by dropping a writer without a word: whatever it had not made durable is then as good as lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, get_args

import msgpack
import numpy as np
import polars as pl
import pyarrow as pa
from polars.testing import assert_frame_equal

from mamba_stream.connect import Delivery, Prepared, Sink, TransactionalSink, TransactionalWriter
from mamba_stream.core.batches import batch_from_frame

LARGEST_PREPARED: Final = 16_384
"""Bytes of msgpack: it is stored with the checkpoint."""
OWNER: Final = "job.out"


def some_rows(first: int, rows: int) -> pl.DataFrame:
    """Rows whose numbers are ``first`` and on, with text, nulls, floats and times."""
    numbers = pl.int_range(first, first + rows, dtype=pl.Int64, eager=True).alias("number")
    return numbers.to_frame().with_columns(
        text=pl.when(pl.col("number") % 7 != 0).then(pl.format('row "{}",\nof many', "number")),
        key=pl.format("k{}", pl.col("number") % 3),
        share=pl.col("number") / 3,
        at=pl.datetime(2026, 1, 1) + pl.duration(milliseconds=pl.col("number") * 1_001),
    )


class _Contract:
    """What both kinds of sinks are asked."""

    def seen(self, place: Path) -> pl.DataFrame:
        """What anybody outside sees there now: the rows in any order; the columns of :func:`some_rows` in any order."""
        raise NotImplementedError

    def rows(self, first: int, rows: int) -> pl.DataFrame:
        """Rows that the sink can take, all different, with a column ``number``."""
        return some_rows(first, rows)

    def schema(self) -> pa.Schema:
        """Their columns."""
        return self.batch(0, 1).schema

    def batch(self, first: int, rows: int) -> pa.RecordBatch:
        """The same as a batch."""
        return batch_from_frame(self.rows(first, rows))

    def assert_seen(self, place: Path, *stretches: tuple[int, int]) -> None:
        """The outside has these stretches of rows (first, how many), each once, and no other."""
        parts = [self.rows(first, rows) for first, rows in stretches]
        wanted = pl.concat([self.rows(0, 0), *parts])
        found = self.seen(place)
        assert sorted(found["number"]) == sorted(wanted["number"]) if found.height else not wanted.height
        if found.height:
            assert_frame_equal(found.select(wanted.columns), wanted, check_row_order=False)


class SinkContract(_Contract):
    """Inherit it, and give :meth:`sink` and :meth:`seen`."""

    def sink(self, place: Path) -> Sink:
        """A sink that writes into this place, an empty directory at first."""
        raise NotImplementedError

    def test_what_was_flushed_is_there(self, tmp_path: Path) -> None:
        writer = self.sink(tmp_path).open(self.schema(), OWNER)
        writer.write(self.batch(0, 10))
        writer.write(self.batch(10, 5))
        writer.flush()
        self.assert_seen(tmp_path, (0, 15))
        writer.write(self.batch(15, 1))
        writer.flush()
        self.assert_seen(tmp_path, (0, 16))
        writer.close()

    def test_flushing_nothing_does_nothing(self, tmp_path: Path) -> None:
        writer = self.sink(tmp_path).open(self.schema(), OWNER)
        writer.flush()
        writer.flush()
        writer.close()
        self.assert_seen(tmp_path)

    def test_another_writer_goes_on(self, tmp_path: Path) -> None:
        for first in (0, 10):
            writer = self.sink(tmp_path).open(self.schema(), OWNER)
            writer.write(self.batch(first, 10))
            writer.flush()
            writer.close()
        self.assert_seen(tmp_path, (0, 20))

    def test_it_says_what_it_is(self, tmp_path: Path) -> None:
        sink = self.sink(tmp_path)
        assert sink.name == self.sink(tmp_path).name != ""
        assert sink.delivery in get_args(Delivery)


class TransactionalSinkContract(_Contract):
    """Inherit it, and give :meth:`sink` and :meth:`seen`.

    Attributes:
        histories: How many histories of writing and crashing at random are played.
        largest_prepared: What a prepared value may take, where there is a reason for more.
    """

    histories: int = 8
    largest_prepared: int = LARGEST_PREPARED

    def sink(self, place: Path) -> TransactionalSink:
        """A sink that writes into this place, an empty directory at first."""
        raise NotImplementedError

    def begin(self, place: Path, owner: str = OWNER) -> TransactionalWriter:
        """A writer."""
        return self.sink(place).begin(self.schema(), owner)

    def restart(self, place: Path, epoch: int, prepared: Prepared) -> TransactionalWriter:
        """A writer as it is after a crash, where the checkpoint holds ``prepared`` of ``epoch``."""
        writer = self.begin(place)
        if prepared is not None:
            writer.commit(epoch, prepared)
        writer.abort(epoch)
        return writer

    def stored(self, prepared: Prepared) -> Any:
        """A prepared value as it comes back from a checkpoint."""
        packed = msgpack.packb(prepared, strict_types=True)
        assert len(packed) <= self.largest_prepared
        return msgpack.unpackb(packed, strict_map_key=False)

    def test_rows_are_seen_when_they_are_committed_and_no_sooner(self, tmp_path: Path) -> None:
        writer = self.begin(tmp_path)
        writer.abort(0)
        writer.write(self.batch(0, 10))
        writer.write(self.batch(10, 10))
        self.assert_seen(tmp_path)
        prepared = writer.prepare(1, last=True)
        self.assert_seen(tmp_path)
        writer.commit(1, prepared)
        self.assert_seen(tmp_path, (0, 20))
        writer.close()
        self.assert_seen(tmp_path, (0, 20))

    def test_an_epoch_without_rows_commits(self, tmp_path: Path) -> None:
        writer = self.begin(tmp_path)
        for epoch in (1, 2):
            prepared = writer.prepare(epoch, last=epoch == 2)
            if prepared is not None:
                writer.commit(epoch, prepared)
        writer.close()
        self.assert_seen(tmp_path)

    def test_what_was_prepared_outlives_its_writer(self, tmp_path: Path) -> None:
        crashed = self.begin(tmp_path)
        crashed.write(self.batch(0, 30))
        prepared = self.stored(crashed.prepare(7, last=True))
        del crashed
        writer = self.restart(tmp_path, 7, prepared)
        self.assert_seen(tmp_path, (0, 30))
        writer.close()

    def test_committing_again_changes_nothing(self, tmp_path: Path) -> None:
        writer = self.begin(tmp_path)
        writer.write(self.batch(0, 30))
        prepared = self.stored(writer.prepare(1, last=True))
        writer.commit(1, prepared)
        writer.commit(1, prepared)
        self.assert_seen(tmp_path, (0, 30))
        writer.close()
        again = self.restart(tmp_path, 1, prepared)
        self.assert_seen(tmp_path, (0, 30))
        again.write(self.batch(30, 5))
        again.commit(2, again.prepare(2, last=True))
        self.assert_seen(tmp_path, (0, 35))
        again.close()

    def test_what_no_checkpoint_holds_is_thrown_away(self, tmp_path: Path) -> None:
        crashed = self.begin(tmp_path)
        crashed.write(self.batch(0, 30))
        committed = self.stored(crashed.prepare(1, last=True))
        crashed.commit(1, committed)
        crashed.write(self.batch(30, 30))
        crashed.prepare(2, last=True)
        crashed.write(self.batch(60, 30))
        del crashed
        writer = self.restart(tmp_path, 1, committed)
        writer.abort(1)
        self.assert_seen(tmp_path, (0, 30))
        # The same rows come again, in other stretches.
        writer.write(self.batch(30, 45))
        writer.commit(3, writer.prepare(3, last=True))
        self.assert_seen(tmp_path, (0, 75))
        writer.close()

    def test_owners_leave_each_other_alone(self, tmp_path: Path) -> None:
        mine, other = self.begin(tmp_path), self.begin(tmp_path, "other.out")
        mine.write(self.batch(0, 10))
        other.write(self.batch(10, 10))
        prepared = mine.prepare(1, last=True)
        other.abort(0)
        other.write(self.batch(20, 10))
        theirs = other.prepare(1, last=True)
        mine.commit(1, prepared)
        self.assert_seen(tmp_path, (0, 10))
        mine.abort(1)
        other.commit(1, theirs)
        self.assert_seen(tmp_path, (0, 10), (20, 10))
        mine.close()
        other.close()

    def test_any_history_of_crashes_gives_the_committed_rows_once(self, tmp_path: Path) -> None:
        for seed in range(self.histories):
            place = tmp_path / f"history-{seed}"
            place.mkdir()
            self._history(place, np.random.default_rng(seed))

    def _history(self, place: Path, random: np.random.Generator) -> None:
        epoch, at, prepared = 0, 0, None  # what the checkpoint holds
        writer, number, written = self.restart(place, 0, None), 0, 0
        for _ in range(25):
            number += 1
            for _ in range(random.integers(0, 3)):
                rows = int(random.integers(1, 40))
                writer.write(self.batch(at + written, rows))
                written += rows
            what = random.choice(["commit", "commit", "before", "prepared", "logged"])
            if what == "before":
                writer, written = self.restart(place, epoch, prepared), 0
                continue
            candidate = self.stored(writer.prepare(number, last=False))
            if what == "prepared":
                writer, written = self.restart(place, epoch, prepared), 0
                continue
            epoch, at, prepared, written = number, at + written, candidate, 0
            if what == "commit":
                if prepared is not None:
                    writer.commit(epoch, prepared)
            else:
                writer = self.restart(place, epoch, prepared)
        number += 1
        prepared = self.stored(writer.prepare(number, last=True))
        if prepared is not None:
            writer.commit(number, prepared)
        writer.close()
        self.assert_seen(place, (0, at + written))

    def test_it_says_what_it_is(self, tmp_path: Path) -> None:
        sink = self.sink(tmp_path)
        assert sink.name == self.sink(tmp_path).name != ""
        assert sink.delivery in get_args(Delivery)
        assert isinstance(sink, TransactionalSink)
