"""A log as a whole: its topics, its statistics, its handles; and what opening it costs, in looks."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mamba_stream.errors import (
    AlreadyExists,
    InvalidInput,
    LogClosed,
    SchemaMismatch,
    TopicNotFound,
    UnsupportedType,
)
from mamba_stream.log import Log, Topic, files, open_log, rows
from mamba_stream.log.shelf import Shelf
from tests.log.neighbour import Neighbour
from tests.log.pictures import picture, rows_of, unsound


def test_topics_are_listed_by_name_and_internal_ones_only_when_asked_for(log: Log) -> None:
    for name in ("b", "a", "C"):
        log.create_topic(name, {"n": int})
    log.create_topic("_hidden", {"n": int}, internal=True)
    assert log.topics() == ["C", "a", "b"]
    assert log.topics(internal=True) == ["C", "_hidden", "a", "b"]
    assert "_hidden" in log
    assert "a" in log
    assert "A" not in log
    assert 5 not in log


SCHEMAS = {
    "a dict of Polars types": {"n": pl.Int64, "s": pl.String},
    "a dict of Python types": {"n": int, "s": str},
    "a Polars schema": pl.Schema({"n": pl.Int64, "s": pl.String}),
    "an Arrow schema": pa.schema({"n": pa.int64(), "s": pa.string()}),
    "an Arrow schema with views": pa.schema({"n": pa.int64(), "s": pa.string_view()}),
    "a frame": pl.DataFrame({"n": [1], "s": ["x"]}),
    "a lazy frame": pl.LazyFrame({"n": [1], "s": ["x"]}),
    "a table": pa.table({"n": [1], "s": ["x"]}),
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_may_be_given_in_many_forms(log: Log, schema: Any) -> None:
    topic = log.create_topic("t", schema)
    assert topic.schema.equals(pa.schema({"n": pa.int64(), "s": pa.large_string()}))
    assert topic.offsets() == {0: (0, 0)}, "a frame gives its schema, not its rows"


def test_creating_again_returns_the_topic_if_it_is_the_same(log: Log) -> None:
    settings: dict[str, Any] = {"partitions": 3, "key": "s", "time": "ts"}
    schema = {"s": str, "ts": pl.Datetime("us"), "n": pl.Int32}
    first = log.create_topic("t", schema, **settings)
    first.append([{"s": "x"}])
    again = log.create_topic("t", schema, exist_ok=True, **settings)
    assert len(rows_of(again)) == 1
    with pytest.raises(AlreadyExists, match=r"topic 't' exists; pass exist_ok=True"):
        log.create_topic("t", schema, **settings)


DIFFERENT = {
    "another number of partitions": ({"partitions": 4}, AlreadyExists, "partitions=3, not 4"),
    "another key": ({"key": ["s", "n"]}, AlreadyExists, r"key=\('s',\), not \('s', 'n'\)"),
    "no key": ({"key": None}, AlreadyExists, r"key=\('s',\), not \(\)"),
    "another time": ({"time": None}, AlreadyExists, "time='ts', not None"),
    "another type": (
        {"schema": {"s": str, "ts": pl.Datetime("us"), "n": pl.Int64}},
        SchemaMismatch,
        "another schema: 'n' is Int64, topic has Int32",
    ),
    "a missing column": (
        {"schema": {"s": str, "ts": pl.Datetime("us")}},
        SchemaMismatch,
        "missing column 'n'",
    ),
}


@pytest.mark.parametrize(("changed", "error", "words"), DIFFERENT.values(), ids=DIFFERENT)
def test_creating_again_refuses_another_topic_of_that_name(
    log: Log, changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    settings: dict[str, Any] = {
        "schema": {"s": str, "ts": pl.Datetime("us"), "n": pl.Int32}, "partitions": 3, "key": "s", "time": "ts"
    }  # fmt: skip
    log.create_topic("t", **settings)
    before = picture(log)
    with pytest.raises(error, match=words):
        log.create_topic("t", exist_ok=True, **(settings | changed))
    assert picture(log) == before


REFUSED = {
    "a key that is no column": (
        {"key": "symbl"},
        SchemaMismatch,
        "key='symbl' is not a column, did you mean 'symbol'",
    ),
    "a key that cannot be hashed": (
        {"key": "tags"},
        UnsupportedType,
        r"a key column cannot be List\(String\)",
    ),
    "a key that is named twice": ({"key": ["symbol", "symbol"]}, InvalidInput, "names a column twice"),
    "a time that is no column": (
        {"time": "t"},
        SchemaMismatch,
        "topic 't': time='t' is not a column, did you mean",
    ),
    "a time that is a number": (
        {"time": "n"},
        InvalidInput,
        "time column 'n' is Int64: time is a Datetime or a Date",
    ),
    "no partition": ({"partitions": 0}, InvalidInput, "topic 't': partitions=0; choose 1 to 65536"),
    "too many partitions": ({"partitions": 70_000}, InvalidInput, "choose 1 to 65536"),
    "too many partitions for a key": ({"partitions": 257, "key": "n"}, InvalidInput, "1 to 256 .*with a key"),
    "half a partition": ({"partitions": 1.5}, InvalidInput, "partitions=1.5"),
    "a truth for a number": ({"partitions": True}, InvalidInput, "partitions=True"),
    "an unknown compression": (
        {"compression": "gzip"},
        InvalidInput,
        "'gzip'; choose one of none, lz4, zstd",
    ),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("settings", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_topic_that_cannot_be_right_is_not_created(
    log: Log, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    schema = {"symbol": str, "n": int, "ts": pl.Datetime("us"), "tags": pl.List(pl.String)}
    with pytest.raises(error, match=words):
        log.create_topic("t", schema, **settings)


def test_a_deleted_topic_is_gone_and_its_name_free(log: Log, plain: Topic) -> None:
    plain.append([{"n": 1}])
    log.delete_topic("plain")
    assert "plain" not in log
    with pytest.raises(TopicNotFound, match=r"no topic 'plain' in .*; it has none"):
        log["plain"]
    for use in (
        plain.offsets,
        plain.end,
        lambda: plain.append([{"n": 1}]),
        lambda: list(plain.read()),
        lambda: plain.trim(0),
    ):
        with pytest.raises(TopicNotFound, match="topic 'plain' was deleted"):
            use()
    fresh = log.create_topic("plain", {"s": str})
    assert fresh.append([{"s": "x"}]) == {0: (0, 1)}
    with pytest.raises(TopicNotFound):
        plain.append([{"n": 1}])


def test_a_topic_that_another_process_replaced_is_looked_up_anew(log: Log, neighbour: Neighbour) -> None:
    neighbour.do({"do": "open", "path": log.place})
    table = {"key": [], "time": None, "compression": "none", "exist_ok": False}
    neighbour.do({"do": "create", "topic": "t", "partitions": 1, **table})
    assert log["t"].partitions == 1
    neighbour.do({"do": "delete", "topic": "t"})
    assert "t" not in log
    neighbour.do({"do": "create", "topic": "t", "partitions": 2, **table})
    assert log["t"].partitions == 2
    neighbour.do({"do": "close"})


def test_statistics_count_what_is_there_and_what_was_done(log: Log, plain: Topic, tmp_path: Path) -> None:
    log.create_topic("_hidden", {"n": int}, internal=True).append([{"n": 1}])
    plain.append([{"n": n} for n in range(5)])
    with pytest.raises(InvalidInput):
        plain.trim(9)
    plain.trim(2)
    found = log.statistics()
    assert (found.lsn, found.topics, found.rows, found.batches) == (5, 1, 3, 2)
    assert (found.commit_files, found.segments, found.trash) == (2, 0, 0)
    assert (found.commits, found.changes, found.refused, found.appended_rows) == (5, 5, 1, 6)
    written = sum(p.stat().st_size for p in (tmp_path / "log" / "files").iterdir())
    assert found.bytes == found.appended_bytes <= written
    assert found.index_bytes > 0
    assert found.commit_seconds > 0
    with pytest.raises(AttributeError):
        found.lsn = 0  # type: ignore[misc]


def test_heads_say_where_every_partition_is_and_how_large(log: Log, plain: Topic) -> None:
    log.create_topic("_hidden", {"n": int}, internal=True)
    pair = log.create_topic("pair", {"n": int}, partitions=2)
    pair.append([{"n": n} for n in range(5)], partition=1)
    pair.append([{"n": n} for n in range(2)], partition=1)
    pair.trim({1: 3})
    heads = log.heads()
    assert {place: (head.topic, head.begin, head.end, head.rows) for place, head in heads.items()} == {
        ("plain", 0): (plain.number, 0, 0, 0),
        ("pair", 0): (pair.number, 0, 0, 0),
        ("pair", 1): (pair.number, 3, 7, 7),
    }
    assert {place for place, head in heads.items() if head.append_time} == {("pair", 1)}
    assert heads["pair", 1].bytes == log.statistics().bytes > 0
    assert heads.keys() ^ log.heads(internal=True).keys() == {("_hidden", 0)}


# --- handles ---------------------------------------------------------------------------------------------------


def test_opening_a_directory_twice_shares_what_is_open(log: Log, plain: Topic, tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as other, open_log(f"{tmp_path}/log/../log") as third:
        assert other._store is log._store is third._store
        other["plain"].append([{"n": 1}])
        assert rows_of(plain) == [(0, 0, (1,))]
    assert plain.append([{"n": 2}]) == {0: (1, 2)}


def test_a_directory_reached_through_a_link_is_the_same_log(log: Log, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with open_log(tmp_path / "link") as other:
        assert other._store is log._store


def uses(log: Log, topic: Topic) -> dict[str, Any]:
    """Everything that can be asked of a log that is open."""
    reader, read, scan = topic.reader(), topic.read(follow=True), topic.scan()
    return {
        "create": lambda: log.create_topic("new", {"n": int}),
        "get": lambda: log["plain"],
        "contains": lambda: "plain" in log,
        "topics": lambda: log.topics(),
        "delete": lambda: log.delete_topic("plain"),
        "transaction": lambda: log.transaction().append("plain", []),
        "lsn": lambda: log.lsn(),
        "wait": lambda: log.wait(0, 1),
        "groups": lambda: log.groups(),
        "group offsets": lambda: log.group_offsets("g"),
        "record": lambda: log.record("a", "b"),
        "records": lambda: log.records("a"),
        "namespaces": lambda: log.namespaces(),
        "heads": lambda: log.heads(),
        "seal": lambda: log.seal(),
        "statistics": lambda: log.statistics(),
        "append": lambda: topic.append([{"n": 1}]),
        "read": lambda: topic.read(),
        "reader": lambda: topic.reader(),
        "poll": lambda: reader.poll(),
        "at end": lambda: reader.at_end,
        "next": lambda: next(read),
        "collect": lambda: scan.collect(),
        "offsets": lambda: topic.offsets(),
        "offset at": lambda: topic.offset_at("2024-01-01", by="append"),
        "ended": lambda: topic.ended,
        "end": lambda: topic.end(),
        "trim": lambda: topic.trim(0),
        "describe": lambda: topic.describe(),
    }


@pytest.mark.parametrize(
    "other_open", [True, False], ids=["another handle is open", "it was the last handle"]
)
def test_a_closed_handle_says_so_whatever_is_asked(tmp_path: Path, other_open: bool) -> None:
    log = open_log(tmp_path)
    other = open_log(tmp_path) if other_open else None
    place = log.place
    log.create_topic("plain", {"n": int}).append([{"n": 0}])
    asked = uses(log, log["plain"])
    log.close()
    log.close()
    for what, use in asked.items():
        with pytest.raises(LogClosed, match=r"was closed: open it again with mamba.open"):
            pytest.fail(f"{what} gave {use()!r}")
    assert repr(log) == f"Log({place!r})"
    if other is not None:
        assert rows_of(other["plain"]) == [(0, 0, (0,))]
        other.close()


@pytest.mark.embedded
def test_a_closed_log_leaves_nothing_open(tmp_path: Path) -> None:
    def open_files() -> set[str]:
        return {
            target
            for fd in os.listdir("/proc/self/fd")
            if Path(target := os.path.realpath(f"/proc/self/fd/{fd}")).is_relative_to(tmp_path)
        }

    for _ in range(2):
        with open_log(tmp_path) as log:
            topic = log.create_topic("plain", {"n": int}, exist_ok=True)
            topic.append([{"n": 0}])
            list(topic.read())
            log.wait(log.lsn(), 0.001)
            assert open_files()
        assert open_files() == set()
        assert os.listdir(tmp_path / "wake") == []


def test_threads_may_open_and_close_one_directory_at_the_same_time(tmp_path: Path) -> None:
    failed: list[Exception] = []

    def work(thread: int) -> None:
        try:
            for n in range(15):
                with open_log(tmp_path) as log:
                    log.create_topic("plain", {"n": int}, exist_ok=True).append([{"n": 100 * thread + n}])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    with open_log(tmp_path) as log:
        found = [row[0] for _, _, row in rows_of(log["plain"])]
    assert sorted(found) == [100 * thread + n for thread in range(4) for n in range(15)]
    assert unsound(tmp_path) == []


def test_a_closing_waits_for_calls_that_are_under_way_and_refuses_later_ones(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    topic = log.create_topic("plain", {"n": int})
    outcomes: list[object] = []

    def work() -> None:
        try:
            for n in range(10_000):
                topic.append([{"n": n}])
                outcomes.append(n)
        except LogClosed:
            outcomes.append("closed")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(outcomes) < 20:
        threading.Event().wait(0.001)
    log.close()
    for thread in threads:
        thread.join(60)
    assert outcomes.count("closed") == 4
    with open_log(tmp_path) as log:
        assert log["plain"].offsets()[0][1] == len(outcomes) - 4
    assert unsound(tmp_path) == []


# --- what it costs, in looks -----------------------------------------------------------------------------------


@pytest.mark.embedded
def test_opening_a_log_looks_at_files_and_topics_but_at_no_entry_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FULL", 2_000)
    with open_log(tmp_path) as log:
        for topic in range(20):
            log.create_topic(f"t{topic}", {"n": int}, partitions=2)
        for n in range(120):
            log[f"t{n % 20}"].append([{"n": n}])
        assert log.statistics().commit_files > 10
    looked: list[str] = []

    def looks(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (looked.append(name), original(*a, **k))[1])

    looks(rows, "unpack_entry")
    looks(files.Maps, "read")
    looks(Shelf, "batch")
    with open_log(tmp_path) as log:
        assert len(log.topics()) == 20
        assert log["t3"].offsets()[0][1] + log["t3"].offsets()[1][1] == 6
        log["t3"].append([{"n": 7}])
        assert log["t3"].reader(start="latest").at_end
        assert log.statistics().rows == 121
    assert looked == []


@pytest.mark.embedded
def test_a_random_read_looks_at_one_batch_however_many_there_are(log: Log, plain: Topic) -> None:
    for n in range(200):
        plain.append([{"n": n}])
    read: list[int] = []
    original = Shelf.batch

    def batch(shelf: Shelf, topic: Any, partition: int, placed: Any, wanted: Any = None) -> Any:
        read.append(placed.offset)
        return original(shelf, topic, partition, placed, wanted)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shelf, "batch", batch)
        for offset in (0, 57, 199):
            [found] = plain.reader(start=offset).poll(max_rows=1)
            assert found.data["n"].to_pylist() == [offset]
    assert read == [0, 57, 199]


def test_a_number_of_a_topic_is_known_while_the_topic_is_there(log: Log) -> None:
    number = log.create_topic("one", {"x": pl.Int64}).number
    assert log.numbered(number)
    assert not log.numbered(number + 1)
    log.delete_topic("one")
    log.create_topic("one", {"x": pl.Int64})
    assert not log.numbered(number)
