"""The shelf: bytes are proven before they are rows, and looked for where the index says now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest

from mamba_stream.errors import DataCorrupted, OffsetTrimmed
from mamba_stream.log import Log, Topic, format, open_log, rows
from mamba_stream.log.shelf import Placed
from tests.log.pictures import rows_of

pytestmark = pytest.mark.embedded


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """One whose files are damaged: it is not examined when the test is over."""
    with open_log(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def topic(log: Log) -> Topic:
    """Five batches of two columns in one commit file."""
    made = log.create_topic("t", {"n": int, "s": str})
    for n in range(5):
        made.append(pl.DataFrame({"n": [n] * 8, "s": [f"row {n}"] * 8}))
    return made


def file_of(log: Log) -> Path:
    [path] = (log.path / "files").glob("*.commit")
    return path


def placed(topic: Topic) -> list[Placed]:
    return topic.log._store.shelf.entries(topic._row, 0, 0, 100)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def columns_of(topic: Topic, at: Placed) -> tuple[int, ...]:
    """Where the columns of a batch begin in its file, and where it ends."""
    data = memoryview(file_of(topic.log).read_bytes())[at.entry.position :][: at.entry.length]
    table = format.verify_header(data, topic.log._store.shelf.layout(topic._row.schema), at.entry.header)
    return tuple(at.entry.position + start for start in table.starts)


def test_a_damaged_batch_is_named_and_the_others_are_read(log: Log, topic: Topic) -> None:
    flip(file_of(log), columns_of(topic, placed(topic)[2])[0])
    with pytest.raises(
        DataCorrupted,
        match=r"topic 't', partition 0, offsets 16 to 23: the stored bytes are damaged \(the checksum of column 0.*doctor",
    ) as caught:
        rows_of(topic)
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, 16)
    assert [row[0] for _, _, row in rows_of(topic, start=24)] == [3] * 8 + [4] * 8
    assert len(rows_of(topic, end={0: 16})) == 16


def test_a_damaged_column_hinders_only_those_who_want_it(log: Log, topic: Topic) -> None:
    flip(file_of(log), columns_of(topic, placed(topic)[2])[1])
    assert len(rows_of(topic, columns=["n"])) == 40
    assert topic.scan().select("n").collect().height == 40
    for columns in (["s"], ["n", "s"], None):
        with pytest.raises(DataCorrupted, match="column 1"):
            rows_of(topic, columns=columns)


def test_a_batch_is_verified_once_and_then_remembered(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[tuple[int, ...]] = []
    original = format.verify_columns
    monkeypatch.setattr(
        format,
        "verify_columns",
        lambda message, table, wanted: (verified.append(tuple(wanted)), original(message, table, wanted)),
    )
    for columns in (["n"], ["n"], ["s", "n"], None):
        rows_of(topic, columns=columns)
    assert verified == [(0,)] * 5 + [(1,)] * 5


def test_small_batches_that_follow_each_other_are_read_together(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two partitions in one file, with a large batch between them."""
    wide = log.create_topic("wide", {"n": int, "s": str}, partitions=2)
    long = "x" * (16 << 10)
    for n in range(300):
        text = long if n == 200 else f"row {n}"
        wide.append(pl.DataFrame({"n": [n, -n], "s": [text, None]}), partition=n % 2)
    read: list[int] = []
    together = format.decode_all
    monkeypatch.setattr(
        format,
        "decode_all",
        lambda messages, *rest: (read.append(len(messages)), together(messages, *rest))[1],
    )
    for columns in (None, ["s"], ["s", "n"]):
        rows = rows_of(wide, columns=columns)
        values = {"n": lambda n: (n, -n), "s": lambda n: (long if n == 200 else f"row {n}", None)}
        assert sorted(rows) == sorted(
            (n % 2, n - n % 2 + at, tuple(values[name](n)[at] for name in columns or ("n", "s")))
            for n in range(300)
            for at in range(2)
        )
    assert sum(read) >= 3 * 290
    assert len(read) <= 3 * 14


def test_what_is_damaged_among_batches_that_are_read_together_is_named_alone(log: Log) -> None:
    many = log.create_topic("many", {"n": int, "s": str})
    for n in range(100):
        many.append(pl.DataFrame({"n": [n] * 8, "s": [f"row {n}"] * 8}))
    flip(file_of(log), columns_of(many, placed(many)[70])[1])
    reader = many.reader()
    before = reader.poll()
    assert sum(batch.data.num_rows for batch in before) == 560
    with pytest.raises(DataCorrupted, match="offsets 560 to 567") as caught:
        reader.poll()
    assert caught.value.offset == 560
    reader.seek({0: 568})
    assert sum(batch.data.num_rows for batch in reader.poll()) == 232
    assert len(rows_of(many, columns=["n"])) == 800


def test_a_flipped_bit_in_any_byte_of_a_batch_is_never_returned_as_data(log: Log, topic: Topic) -> None:
    at = placed(topic)[1]
    for position in range(at.entry.position, at.entry.position + at.entry.length):
        flip(file_of(log), position)
        log._store.shelf._verified.clear()
        with pytest.raises(DataCorrupted, match="offsets 8 to 15"):
            rows_of(topic, start=8, end={0: 16})
        flip(file_of(log), position)
    assert len(rows_of(topic)) == 40


@pytest.mark.parametrize("left", [0.0, 0.3, 0.999])
def test_a_file_that_was_cut_off_gives_what_is_left_of_it(log: Log, topic: Topic, left: float) -> None:
    entries = placed(topic)
    size = int(left * max(at.entry.position + at.entry.length for at in entries))
    log._store.maps.clear()
    os.truncate(file_of(log), size)
    whole = sum(at.entry.position + at.entry.length <= size for at in entries)
    assert len(rows_of(topic, end={0: 8 * whole})) == 8 * whole
    with pytest.raises(DataCorrupted, match="its file is cut off"):
        rows_of(topic, start=8 * whole)


def test_a_file_that_is_gone_is_named(log: Log, topic: Topic) -> None:
    file_of(log).unlink()
    with pytest.raises(DataCorrupted, match="its file is missing"):
        rows_of(topic)


def test_an_entry_whose_rows_were_trimmed_with_their_file_is_trimmed(log: Log, topic: Topic) -> None:
    [first, *_] = placed(topic)
    topic.trim(40)
    log.seal()
    file_of(log).unlink()
    with pytest.raises(OffsetTrimmed, match="offset 0 was trimmed away"):
        topic.log._store.shelf.batch(topic._row, 0, first)


def test_a_message_in_anothers_place_is_damage(log: Log, topic: Topic) -> None:
    """As after a write that went astray: every byte of it is sound, and it is not what belongs here."""
    one, other = placed(topic)[1:3]
    assert one.entry.length == other.entry.length
    with file_of(log).open("r+b") as file:
        file.seek(other.entry.position)
        moved = file.read(other.entry.length)
        file.seek(one.entry.position)
        file.write(moved)
    with pytest.raises(DataCorrupted, match="offsets 8 to 15"):
        rows_of(topic)


def test_a_batch_of_other_rows_than_the_index_counts_is_damage(log: Log, topic: Topic) -> None:
    at = placed(topic)[1]
    key = rows.entry_key(topic._row.id, 0, at.offset)
    wrong = msgspec.structs.replace(at.entry, rows=at.entry.rows - 1)
    log._store.index.update(lambda draft: draft.put(key, wrong.pack()))
    with pytest.raises(DataCorrupted, match="8 rows where the index has 7"):
        rows_of(topic)


def test_an_entry_that_the_index_lost_is_a_gap_not_an_end(log: Log, topic: Topic) -> None:
    for lost in (1, 4):
        key = rows.entry_key(topic._row.id, 0, 8 * lost)
        value = log._store.get(key)
        assert value is not None
        log._store.index.update(lambda draft, key=key: draft.delete(key))
        with pytest.raises(
            DataCorrupted, match=rf"the index has lost what lies from offset {8 * lost} to {8 * lost + 8}"
        ):
            rows_of(topic)
        assert len(rows_of(topic, start=8 * lost + 8)) == 40 - (8 * lost + 8)
        log._store.index.update(lambda draft, key=key, value=value: draft.put(key, value))
    assert len(rows_of(topic)) == 40


def test_entries_are_found_from_the_one_that_holds_the_offset(topic: Topic) -> None:
    shelf, row = topic.log._store.shelf, topic._row
    for offset in range(40):
        assert [at.offset for at in shelf.entries(row, 0, offset, 2)] == [
            o for o in (offset // 8 * 8, offset // 8 * 8 + 8) if o < 40
        ]
    assert shelf.entries(row, 0, 40, 2) == []
    assert shelf.entry(row, 0, 40) is None
