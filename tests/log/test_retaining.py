"""Retention: what is too old or too much goes, a batch at a time and never the wrong one, and it is said who had not read it."""

from __future__ import annotations

import logging

import pytest

from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log, Maintained, Unread, retaining
from tests.log.handclock import DAY, HandClock
from tests.log.pictures import rows_of

pytestmark = pytest.mark.embedded


@pytest.fixture
def log(clocked: Log) -> Log:
    return clocked


def test_rows_go_once_they_are_older_than_the_topic_keeps_them(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"n": int}, retention="7d", partitions=2)
    for day in range(10):
        topic.append([{"n": day}] * 2, partition=day % 2)
        clock.at += DAY
    found = log.maintain()
    assert topic.offsets() == {0: (4, 10), 1: (2, 10)}
    assert sorted(row for _, _, row in rows_of(topic)) == [(n,) for n in range(3, 10) for _ in range(2)]
    assert (found.trimmed_rows, found.unread, found.done) == (6, (), True)
    assert found.trimmed_bytes > 0
    assert log.maintain() == Maintained(), "there is nothing more to do"
    assert (log.statistics().trimmed_rows, log.statistics().upkeep_runs) == (6, 2)


def test_a_batch_stays_as_long_as_its_moment_is_kept(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"n": int}, retention="1d")
    topic.append([{"n": 1}])
    clock.at += DAY
    assert log.maintain().trimmed_rows == 0
    clock.at += 1
    assert log.maintain().trimmed_rows == 1
    assert topic.offsets() == {0: (1, 1)}


def test_the_first_rows_go_where_a_partition_takes_more_than_it_may(log: Log) -> None:
    topic = log.create_topic("t", {"n": int}, partitions=2)
    for n in range(20):
        topic.append([{"n": n}], partition=0)
    topic.append([{"n": 0}], partition=1)
    sizes = topic.sizes()
    each = sizes[0] // 20
    log.alter_topic("t", retention_bytes=5 * each)
    found = log.maintain()
    assert (found.trimmed_rows, found.trimmed_bytes) == (15, 15 * each)
    assert topic.offsets() == {0: (15, 20), 1: (0, 1)}
    log.alter_topic("t", retention_bytes=1)
    log.maintain()
    assert topic.offsets() == {0: (15, 20), 1: (0, 1)}, "the last batch stays, however large"
    topic.append([{"n": 20}], partition=0)
    log.maintain()
    assert topic.offsets() == {0: (20, 21), 1: (0, 1)}


def test_much_goes_in_several_commits(log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retaining, "_AT_ONCE", 3)
    topic = log.create_topic("t", {"n": int}, retention="1d")
    for n in range(10):
        topic.append([{"n": n}])
    clock.at += 2 * DAY
    topic.append([{"n": 10}])
    before = log.lsn()
    assert log.maintain().trimmed_rows == 10
    assert log.lsn() == before + 4
    assert rows_of(topic) == [(0, 10, (10,))]


def test_what_a_group_had_yet_to_read_goes_and_is_said(
    log: Log, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    topic = log.create_topic("t", {"n": int}, retention="1d")
    for n in range(6):
        topic.append([{"n": n}] * 2)
    with log.transaction() as tx:
        tx.commit_offsets("slow", {("t", 0): 3})
        tx.commit_offsets("quick", {("t", 0): 12})
    clock.at += 2 * DAY
    with caplog.at_level(logging.WARNING):
        found = log.maintain()
    assert found.unread == (Unread("slow", "t", 9),)
    assert log.statistics().unread_rows == 9
    assert "removed 9 rows of topic 't' that group 'slow' had not read" in caplog.text
    assert "quick" not in caplog.text


def test_rows_that_were_compacted_away_do_not_go_again(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"k": int}, key="k", compact=True, compact_after="0s", retention="7d")
    topic.append([{"k": n % 3} for n in range(30)])
    topic.append([{"k": 9}])
    clock.at += DAY
    assert log.maintain().compacted_rows == 27
    topic.append([{"k": 8}])
    with log.transaction() as tx:
        tx.commit_offsets("slow", {("t", 0): 28})
        tx.commit_offsets("slower", {("t", 0): 2})
    clock.at += 7 * DAY - 1
    found = log.maintain()
    assert found.trimmed_rows == 4
    assert set(found.unread) == {Unread("slow", "t", 3), Unread("slower", "t", 4)}


def test_a_reader_keeps_the_batches_that_it_has(log: Log, clock: HandClock) -> None:
    topic = log.create_topic("t", {"n": int}, retention="1d")
    topic.append([{"n": n} for n in range(10_000)])
    [batch] = topic.reader().poll()
    clock.at += 2 * DAY
    log.maintain()
    log.seal()
    clock.at += DAY
    assert log.maintain().removed_files > 0
    assert batch.data["n"].to_pylist() == list(range(10_000))


def test_one_at_a_time_does_it(log: Log) -> None:
    held = log.lock("upkeep", "log")
    assert held is not None
    found = log.maintain()
    assert not found.done and found.busy is not None and "process" in found.busy
    held.release()
    assert log.maintain().busy is None


def test_a_budget_is_a_size(log: Log) -> None:
    assert log.maintain(budget="100MB").done
    with pytest.raises(InvalidInput, match="give a size"):
        log.maintain(budget="much")
