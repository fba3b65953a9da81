"""The index: what is committed together is there together, however large it gets, whoever writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import lmdb
import pytest

from mamba_stream.core.diskmarks import DiskMarks
from mamba_stream.errors import (
    DataCorrupted,
    LogClosed,
    LogFailed,
    LogUnavailable,
    MambaStreamError,
    NotCommitted,
)
from mamba_stream.log import open_log
from mamba_stream.log.index import Index
from mamba_stream.log.registrar import IndexRegistrar
from mamba_stream.log.room import Room
from mamba_stream.log.views import Draft
from mamba_stream.testing.clocks import Clock
from tests.log.neighbour import finished, script

SMALL = 1 << 16


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path, SMALL)
    yield opened
    opened.close()


def keys(index: Index) -> set[bytes]:
    with index.view() as view:
        return {key for key, _ in view.items(b"")}


def test_what_a_change_raises_undoes_it(index: Index) -> None:
    def change(draft: Draft) -> None:
        draft.put(b"a", b"1")
        raise KeyError("no")

    with pytest.raises(KeyError):
        index.update(change)
    index.update(lambda draft: draft.put(b"b", b"2"))
    assert keys(index) == {b"b"}


def test_the_map_grows_by_itself_under_large_changes(index: Index) -> None:
    for number in range(20):
        index.update(lambda draft, n=number: draft.put(b"%04d" % n, bytes(SMALL // 4)))
    assert len(keys(index)) == 20
    assert index.size() > SMALL


def test_threads_grow_the_map_together(index: Index) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            index.update(lambda draft, n=number: draft.put(b"%d-%d" % (writer, n), bytes(SMALL // 8)))
            assert b"%d-%d" % (writer, number) in keys(index)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(keys(index)) == 40


def test_a_map_that_another_process_grew_is_adopted(index: Index, tmp_path: Path) -> None:
    index.update(lambda draft: draft.put(b"mine", b""))
    grow = """
import sys
from pathlib import Path
from mamba_stream.log.index import Index
index = Index(Path(sys.argv[1]), 1 << 16)
for number in range(20):
    index.update(lambda draft: draft.put(b"%04d" % number, bytes(1 << 14)))
index.close()
"""
    finished(script(grow, tmp_path))
    assert len(keys(index)) == 21
    index.update(lambda draft: draft.put(b"again", b""))
    assert len(keys(index)) == 22


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = Index(tmp_path, SMALL)
    index.close()
    index.close()
    with pytest.raises(LogClosed, match="open it again"), index.view():
        pass
    with pytest.raises(LogClosed):
        index.update(lambda draft: None)


def test_a_failed_index_refuses_everything_from_then_on(index: Index) -> None:
    index.fail(LogFailed("the disk is gone; reopen the log"))
    with pytest.raises(LogFailed, match="reopen"):
        index.update(lambda draft: None)
    with pytest.raises(LogFailed), index.view():
        pass


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"no database" * 2_000)
    with pytest.raises(DataCorrupted, match="doctor"):
        Index(tmp_path, SMALL)


DIE = """
import os, sys
import lmdb
env = lmdb.open(sys.argv[1], max_readers=1024)
reading = env.begin()
reading.get(b"x")
os._exit(0)
"""


def test_places_of_readers_that_died_are_freed(index: Index, tmp_path: Path) -> None:
    finished(script(DIE, tmp_path))
    assert index.reclaim() == 1


@pytest.mark.parametrize(("seconds", "left"), [(29, 1), (31, 0)])
def test_whoever_writes_frees_them_now_and_then(
    index: Index, tmp_path: Path, seconds: int, left: int
) -> None:
    clock = Clock()
    registrar = IndexRegistrar(index, tmp_path, clock, Room(tmp_path, DiskMarks(), clock))
    finished(script(DIE, tmp_path))
    clock.advance(timedelta(seconds=seconds))
    registrar.apply([], 0)
    assert index.reclaim() == left


def test_errors_of_the_database_are_of_our_tree(index: Index) -> None:
    with pytest.raises(MambaStreamError):
        index.update(lambda draft: draft.put(b"k" * 600, b""))


@pytest.mark.embedded
def test_a_commit_that_cannot_look_at_what_waits_for_the_disk_has_not_happened(tmp_path: Path) -> None:
    """Too many look into the index at that moment: a later one is none the worse."""
    with open_log(tmp_path / "log") as log:
        topic = log.create_topic("t", {"n": int})
        topic.append([{"n": 0}], durability="os")
        recent = log._shared.index._recent
        held = []
        with pytest.raises(lmdb.ReadersFullError):
            while True:
                held.append(recent.begin())
        with pytest.raises(NotCommitted, match="nothing was committed"):
            topic.append([{"n": 1}])
        with pytest.raises(LogUnavailable):
            topic.offsets()
        held.clear()
        assert topic.append([{"n": 2}]) == {0: (1, 2)}
        assert topic.scan().collect()["n"].to_list() == [0, 2]
