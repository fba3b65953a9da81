"""Reads that go on behind damage: nothing damaged is returned, what is sound is, and what was passed over is counted."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import DataCorrupted
from mamba_stream.log import LogBatch, Topic, open_log, rows
from mamba_stream.log.index import Index
from mamba_stream.log.skipping import Skipped
from tests.served import serving

EACH = 4
BATCHES = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed log with a topic of twelve batches of four rows."""
    place = tmp_path / "log"
    with open_log(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64, "s": pl.String})
        for number in range(BATCHES):
            topic.append([{"n": EACH * number + row, "s": "x"} for row in range(EACH)])
    return place


def hurt(path: Path, *offsets: int) -> None:
    """Flips a byte in the first column of the batches at these offsets."""
    index = Index(path / "index")
    with index.view() as view:
        entries = {
            rows.entry_place(key)[2]: rows.unpack_entry(value) for key, value in view.items(rows.ENTRY)
        }
    index.close()
    [file] = (path / "files").glob("*.commit")
    data = bytearray(file.read_bytes())
    for offset in offsets:
        entry = entries[offset]
        at = data.index((offset).to_bytes(8, "little"), entry.position + 64, entry.position + entry.length)
        data[at] ^= 0xFF
    file.write_bytes(data)


def hide(path: Path, *offsets: int, sealed: bool = False) -> None:
    """Takes entries out of the index, or makes their rows mismatch, as damage to a page would."""
    index = Index(path / "index")

    def change(draft: object) -> None:
        transaction = draft._transaction  # type: ignore[attr-defined]
        for offset in offsets:
            key = rows.entry_key(1, 0, offset)
            if sealed:
                transaction.put(key, transaction.get(key)[:-1] + b"\0")
            else:
                transaction.delete(key)

    index.update(change)
    index.close()


def numbers(topic: Topic, **options: object) -> list[int]:
    return [n for batch in topic.read(**options) for n in batch.data["n"].to_pylist()]  # type: ignore[arg-type]


def without(*offsets: int) -> list[int]:
    return [n for n in range(EACH * BATCHES) if n // EACH * EACH not in offsets]


@pytest.mark.parametrize("offsets", [(0,), (8,), (44,), (0, 4, 20, 44), tuple(range(0, 48, 4))])
def test_damaged_batches_are_passed_over_and_counted(path: Path, offsets: tuple[int, ...]) -> None:
    hurt(path, *offsets)
    with open_log(path) as log:
        with pytest.raises(DataCorrupted, match="skip_corrupt=True"):
            numbers(log["t"])
        assert numbers(log["t"], skip_corrupt=True) == without(*offsets)
        reader = log["t"].reader(skip_corrupt=True)
        assert sum(batch.data.num_rows for batch in reader.poll()) == EACH * (BATCHES - len(offsets))
        assert reader.at_end
        expected = Skipped(len(offsets), EACH * len(offsets), EACH * len(offsets))
        assert reader.skipped == expected
        counted = log.statistics()
        assert counted.skipped_batches == 2 * expected.batches
        assert (counted.skipped_rows, counted.skipped_offsets) == (2 * expected.rows, 2 * expected.offsets)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("offsets", [(0,), (8, 12), (44,), (0, 4, 20, 44)])
def test_what_the_index_has_lost_is_passed_over_as_offsets(
    path: Path, offsets: tuple[int, ...], sealed: bool
) -> None:
    hide(path, *offsets, sealed=sealed)
    with open_log(path) as log:
        reader = log["t"].reader(skip_corrupt=True)
        found = [n for batch in reader.poll() for n in batch.data["n"].to_pylist()]
        assert found == without(*offsets)
        assert reader.skipped == Skipped(0, 0, EACH * len(offsets))


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("offset", [0, 4, 8, 20, 44])
def test_what_lies_before_damage_in_the_index_is_read_before_it_is_told(
    path: Path, offset: int, sealed: bool
) -> None:
    hide(path, offset, sealed=sealed)
    with open_log(path) as log:
        reader = log["t"].reader()
        found: list[int] = []
        with pytest.raises(DataCorrupted) as error:
            while True:
                batches = reader.poll(max_rows=10)
                assert batches
                found += [n for batch in batches for n in batch.data["n"].to_pylist()]
        assert found == [*range(offset)]
        assert reader.positions == {0: offset}
        if not sealed:
            assert error.value.offset == offset
        # Behind it all is as it was.
        reader.seek({0: offset + EACH})
        if offset + EACH < EACH * BATCHES:
            assert reader.poll()[0].offset == offset + EACH


def test_a_file_that_is_gone_is_passed_over(path: Path) -> None:
    for file in (path / "files").glob("*.commit"):
        file.unlink()
    with open_log(path) as log:
        reader = log["t"].reader(skip_corrupt=True)
        assert reader.poll() == []
        assert reader.skipped == Skipped(BATCHES, EACH * BATCHES, EACH * BATCHES)


def test_bounds_columns_and_predicates_go_together_with_it(path: Path) -> None:
    hurt(path, 8, 20)
    with open_log(path) as log:
        topic = log["t"]
        assert numbers(topic, start=10, end={0: 22}, skip_corrupt=True) == [*range(12, 20)]
        reader = topic.reader(start=10, end={0: 22}, skip_corrupt=True)
        reader.poll()
        # Of a batch only what was asked for.
        assert reader.skipped == Skipped(2, 4, 4)
        assert numbers(topic, where=pl.col("n") > 40, skip_corrupt=True) == [*range(41, 48)]
        # The damage is in the other column: what is not wanted is not looked at.
        only = [s for batch in topic.read(columns=["s"]) for s in batch.data["s"].to_pylist()]
        assert len(only) == EACH * BATCHES


def test_readers_that_do_not_skip_are_told_all_the_same(path: Path) -> None:
    hurt(path, 8)
    with open_log(path) as log:
        reader = log["t"].reader()
        assert [n for batch in reader.poll() for n in batch.data["n"].to_pylist()] == [*range(8)]
        with pytest.raises(DataCorrupted) as told:
            reader.poll()
        assert (told.value.topic, told.value.partition, told.value.offset) == ("t", 0, 8)
        assert reader.skipped == Skipped()


def test_a_server_passes_over_what_is_damaged_and_tells_how_much(path: Path) -> None:
    hurt(path, 0, 8, 44)
    with serving(path) as address, mamba.open(address) as log:
        topic = log["t"]
        assert numbers(topic, skip_corrupt=True) == without(0, 8, 44)
        reader = topic.reader(skip_corrupt=True)
        found: list[LogBatch] = []
        while not reader.at_end:
            found += reader.poll()
        assert sum(batch.data.num_rows for batch in found) == EACH * (BATCHES - 3)
        assert reader.skipped == Skipped(3, 12, 12)
        assert reader.poll() == []
        with pytest.raises(DataCorrupted):
            numbers(topic)
        assert log.statistics().skipped_batches >= 3
