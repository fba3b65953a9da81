"""A deleted topic is gone at once, and what is left of it goes in steps: nobody waits long, and no step leaves a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from mamba_stream.dsl.opening import open_log
from mamba_stream.errors import TopicNotFound
from mamba_stream.log import Log, Topic, dropping, maintaining, rows
from mamba_stream.log.store import Store
from mamba_stream.log.views import Draft
from tests.log.handclock import HandClock
from tests.log.pictures import rows_of, unsound

pytestmark = pytest.mark.embedded


@pytest.fixture
def log(clocked: Log, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(dropping, "AT_ONCE", 3)
    return clocked


def left(log: Log) -> int:
    """Entries of all topics, also of those that were deleted."""
    store = log._store
    assert isinstance(store, Store)
    return len(store.items(rows.ENTRY))


def filled(log: Log, name: str = "t", batches: int = 10, partitions: int = 2) -> Topic:
    topic = log.create_topic(name, {"n": int}, partitions=partitions)
    for n in range(batches):
        topic.append([{"n": n}], partition=n % partitions)
    return topic


def test_it_is_gone_at_once_and_another_of_its_name_is_another(log: Log) -> None:
    topic = filled(log)
    reader = topic.reader()
    log.delete_topic("t")
    assert left(log) == 7
    assert (log.topics(internal=True), "t" in log, log.numbered(topic.number)) == ([], False, False)
    assert log.statistics().batches == 0
    with pytest.raises(TopicNotFound):
        topic.offsets()
    with pytest.raises(TopicNotFound):
        reader.poll()
    again = filled(log, batches=2)
    assert again.offsets() == {0: (0, 1), 1: (0, 1)}
    assert sorted(row for _, _, row in rows_of(again)) == [(0,), (1,)]


def test_it_goes_with_upkeep_and_its_files_after_it(log: Log, clock: HandClock) -> None:
    filled(log)
    log.delete_topic("t")
    assert log.maintain().done
    assert (left(log), log.namespaces("_dropped")) == (0, [])
    clock.at += 120_000_000
    log.maintain()
    assert list((log.path / "files").glob("*.commit")) == []


def test_a_run_within_a_budget_says_that_there_is_more(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintaining, "_CLEARED", 1)
    filled(log, batches=30)
    log.delete_topic("t")
    assert not log.maintain(budget="1MB").done
    assert 0 < left(log) < 27
    while not log.maintain(budget="1MB").done:
        pass
    assert left(log) == 0


def test_deletions_and_trims_that_come_take_some_along(log: Log) -> None:
    other, third = filled(log, "other", 4), filled(log, "third", 4)
    filled(log)
    log.delete_topic("t")
    assert left(log) == 8 + 7
    other.trim(1)
    assert left(log) == 6 + 4
    log.delete_topic("third")
    assert left(log) == 2 + 1 + 1, "of the first one before; of its own as many as go at once"
    assert rows_of(other)
    with pytest.raises(TopicNotFound):
        third.offsets()


def test_no_commit_takes_away_more_than_it_may(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(log, "a", 20)
    filled(log, "b", 20)
    taken: list[int] = []
    delete = Draft.delete

    def counted(draft: Draft, key: bytes) -> None:
        taken[-1] += key[:1] == rows.ENTRY
        delete(draft, key)

    monkeypatch.setattr(Draft, "delete", counted)
    update = log._store.index.update
    monkeypatch.setattr(log._store.index, "update", lambda *a, **o: (taken.append(0), update(*a, **o))[1])
    log.delete_topic("a")
    log.delete_topic("b")
    log.maintain()
    assert left(log) == 0
    assert max(taken) <= 2 * dropping.AT_ONCE
    assert sum(taken) == 40


def test_whoever_opens_the_log_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropping, "AT_ONCE", 3)
    with open_log(tmp_path / "log") as log:
        filled(log)
        filled(log, "other", 3)
        log.delete_topic("t")
    before: list[int] = []
    while not before or before[-1] > 3:
        # As after a kill between two steps, of which each is a commit. The doctor knows of what is left.
        assert unsound(tmp_path / "log") == []
        with open_log(tmp_path / "log", upkeep=False) as log:
            before.append(left(log))
            assert log.topics() == ["other"]
    assert before == [7, 4, 3]


def test_a_backup_has_nothing_of_it(log: Log, tmp_path: Path) -> None:
    filled(log, batches=20)
    log.delete_topic("t")
    backed = log.backup(tmp_path / "backups")
    assert left(log) == 0
    assert not list((tmp_path / "backups" / "files").glob("*")), backed


def test_a_small_topic_leaves_nothing_to_be_done(log: Log) -> None:
    filled(log, batches=2)
    log.delete_topic("t")
    assert (left(log), log.namespaces("_dropped")) == (0, [])


def test_its_producers_go_with_it(log: Log) -> None:
    topic = filled(log, batches=2)
    for n in range(6):
        topic.append([{"n": n}], producer=f"p{n}", sequence=0, partition=0)
    store = log._store
    assert isinstance(store, Store)
    kinds = (rows.PRODUCER, rows.SEQUENCE, rows.USED)
    assert all(len(store.items(kind)) == 6 for kind in kinds)
    log.delete_topic("t")
    log.maintain()
    assert [store.items(kind) for kind in kinds] == [[], [], []]
