"""Committing: who arrives together shares a sync, who is refused is refused alone, and what failed did not happen."""

from __future__ import annotations

import errno
import linecache
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import polars as pl
import pyarrow as pa
import pytest

from mamba_stream.core.changes import ChangeSet
from mamba_stream.errors import (
    CommitUnknown,
    DiskFull,
    LogClosed,
    LogFailed,
    LogUnavailable,
    PreconditionFailed,
    TopicEnded,
)
from mamba_stream.log import Log, Topic, committer, directory, files, format, open_log
from mamba_stream.log.appended import Appended
from mamba_stream.log.index import Index
from tests.log.pictures import picture, rows_of, unsound

pytestmark = pytest.mark.embedded


class Together:
    """Calls that arrive while nobody can commit, and so form one group."""

    def __init__(self, log: Log) -> None:
        self.committer = log._store.committer
        self.answers: list[Any] = []

    def run(self, *calls: Callable[[], Any]) -> list[Any]:
        self.answers = [None] * len(calls)

        def call(at: int) -> None:
            try:
                self.answers[at] = calls[at]()
            except BaseException as error:
                self.answers[at] = error

        threads = [threading.Thread(target=call, args=(at,)) for at in range(len(calls))]
        with self.committer._turn:
            for at, thread in enumerate(threads):
                thread.start()
                while len(self.committer._arrived) <= at:
                    assert thread.is_alive()
                    thread.join(0.001)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.answers


def test_calls_that_arrive_together_share_one_commit(log: Log, plain: Topic) -> None:
    before = log.statistics()
    answers = Together(log).run(*[lambda n=n: plain.append([{"n": n}] * 2) for n in range(8)])
    after = log.statistics()
    assert answers == [{0: (2 * n, 2 * n + 2)} for n in range(8)]
    assert after.commits - before.commits == 1
    assert after.changes - before.changes == 8
    assert after.lsn - before.lsn == 8
    assert after.appended_rows - before.appended_rows == 16


def test_one_who_is_refused_does_not_disturb_the_others(log: Log, plain: Topic) -> None:
    log.create_topic("ended", {"n": int}).end()
    answers = Together(log).run(
        lambda: plain.append([{"n": 0}]),
        lambda: plain.append([{"n": 1}], expect={0: 9}),
        lambda: log["ended"].append([{"n": 2}]),
        lambda: plain.append([{"n": 3}], expect={0: 1}),
    )
    assert [type(answer) for answer in answers] == [
        Appended, PreconditionFailed, TopicEnded, Appended
    ]  # fmt: skip
    assert [row for _, _, row in rows_of(plain)] == [(0,), (3,)]
    assert log.statistics().refused == 2


def test_only_one_of_those_who_expect_the_same_end_is_let_in(log: Log, plain: Topic) -> None:
    answers = Together(log).run(*[lambda n=n: plain.append([{"n": n}], expect={0: 0}) for n in range(6)])
    assert answers[0] == {0: (0, 1)}
    assert all(isinstance(answer, PreconditionFailed) for answer in answers[1:])


def test_a_group_is_cut_where_it_grows_too_large(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mamba_stream.log.committer.GROUP_BYTES", 3 * 320)
    before = log.statistics().commits
    answers = Together(log).run(*[lambda n=n: plain.append([{"n": n}]) for n in range(7)])
    assert sorted(answer[0][0] for answer in answers) == list(range(7))
    assert 3 <= log.statistics().commits - before < 7


def broken(code: int, after: int = 0) -> Callable[..., Any]:
    """A system call that fails, after so many that do not."""
    calls = iter(range(after))

    def call(fd: int, *rest: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(code, os.strerror(code))
        return os_fdatasync(fd)

    return call


os_fdatasync = os.fdatasync


@pytest.mark.synced
def test_a_full_disk_fails_the_append_and_nothing_else(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.append([{"n": 0}])
    before = picture(log)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken(errno.ENOSPC))
        for _ in range(2):
            with pytest.raises(DiskFull, match="nothing was committed"):
                plain.append([{"n": 1}])
        assert picture(log) == before
    assert plain.append([{"n": 2}]) == {0: (1, 2)}
    assert [row for _, _, row in rows_of(plain)] == [(0,), (2,)]


@pytest.mark.synced
def test_a_full_disk_under_the_index_fails_the_append_and_nothing_else(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.append([{"n": 0}])
    before = picture(log)
    size = sum(path.stat().st_size for path in (log.path / "files").iterdir())

    def attempt(index: Index, change: Any) -> Any:
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.ENOSPC)}")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "_attempt", attempt)
        with pytest.raises(DiskFull, match="nothing was committed"):
            plain.append([{"n": 1}])
    assert picture(log) == before
    assert sum(path.stat().st_size for path in (log.path / "files").iterdir()) <= size, (
        "the room is given back"
    )
    assert plain.append([{"n": 2}]) == {0: (1, 2)}


@pytest.mark.synced
def test_an_io_error_under_the_index_is_a_full_disk_only_where_the_disk_is_full(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # LMDB says so of a write of which the disk took a part.
    plain.append([{"n": 0}])
    before = picture(log)

    def attempt(index: Index, change: Any) -> Any:
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.EIO)}")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "_attempt", attempt)
        patched.setattr(directory, "full", lambda path: True)
        with pytest.raises(DiskFull, match="nothing was committed"):
            plain.append([{"n": 1}])
    assert picture(log) == before
    assert plain.append([{"n": 2}]) == {0: (1, 2)}
    with monkeypatch.context() as patched:
        patched.setattr(Index, "_attempt", attempt)
        with pytest.raises(CommitUnknown):
            plain.append([{"n": 3}])


def test_a_full_disk_in_the_page_that_publishes_a_commit_leaves_it_unknown(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = log._store.index._env

    class Panicked:
        """LMDB does this once it failed there."""

        def begin(self, **_: Any) -> Any:
            raise lmdb.PanicError("mdb_txn_begin: Update of meta page failed")

    def attempt(index: Index, change: Any) -> Any:
        index._env = Panicked()
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.ENOSPC)}")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "_attempt", attempt)
        with pytest.raises(CommitUnknown, match="may or may not"):
            plain.append([{"n": 1}])
    log._store.index._env = real
    with pytest.raises(LogFailed, match="reopen"):
        plain.append([{"n": 2}])


@pytest.mark.synced
def test_an_io_error_under_the_rows_stops_the_handle_and_reopening_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path / "log")
    topic = log.create_topic("plain", {"n": int})
    topic.append([{"n": 0}])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken(errno.EIO))
        with pytest.raises(LogFailed, match=r"nothing was committed. Reopen the log"):
            topic.append([{"n": 1}])
    for use in (lambda: topic.append([{"n": 2}]), lambda: topic.offsets(), lambda: log.topics()):
        with pytest.raises(LogFailed):
            use()
    log.close()
    with open_log(tmp_path / "log") as again:
        assert again["plain"].append([{"n": 3}]) == {0: (1, 2)}
        assert [row for _, _, row in rows_of(again["plain"])] == [(0,), (3,)]
    assert unsound(tmp_path / "log") == []


@pytest.mark.synced
def test_an_io_error_under_the_index_leaves_the_outcome_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path / "log")
    topic = log.create_topic("plain", {"n": int})
    topic.append([{"n": 0}])

    def attempt(index: Index, change: Any) -> Any:
        raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.EIO)}")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "_attempt", attempt)
        with pytest.raises(CommitUnknown, match="may or may not have happened: reopen"):
            topic.append([{"n": 1}])
    with pytest.raises(LogUnavailable):
        topic.append([{"n": 2}])
    log.close()
    with open_log(tmp_path / "log") as again:
        assert len(rows_of(again["plain"])) in (1, 2)
    assert unsound(tmp_path / "log") == []


@pytest.mark.synced
def test_those_who_shared_a_failed_commit_are_told_the_same(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken(errno.ENOSPC))
        answers = Together(log).run(*[lambda n=n: plain.append([{"n": n}]) for n in range(4)])
    assert all(isinstance(answer, DiskFull) for answer in answers)
    assert plain.offsets() == {0: (0, 0)}


@pytest.mark.synced
def test_when_the_leader_is_interrupted_the_others_know_that_they_do_not_know(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", interrupted)
        answers = Together(log).run(*[lambda n=n: plain.append([{"n": n}]) for n in range(3)])
    assert sorted(type(answer).__name__ for answer in answers) == [
        "CommitUnknown",
        "CommitUnknown",
        "Interrupted",
    ]
    assert plain.append([{"n": 9}]) == {0: (0, 1)}
    assert rows_of(plain) == [(0, 0, (9,))]


def test_what_is_written_in_pieces_is_written_whole(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def short(fd: int, parts: list[Any], position: int) -> int:
        """Writes at most seven bytes of the first part."""
        return real(fd, [memoryview(parts[0])[:7]], position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", short)
        plain.append(pl.DataFrame({"n": range(20)}))
    assert [row for _, _, row in rows_of(plain)] == [(n,) for n in range(20)]


def test_a_commit_file_that_is_full_is_followed_by_another(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FULL", 1000)
    for n in range(9):
        plain.append([{"n": n}])
    assert log.statistics().commit_files >= 2
    assert [row for _, _, row in rows_of(plain)] == [(n,) for n in range(9)]


def test_space_comes_back_while_the_log_stays_open(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FULL", 1000)
    monkeypatch.setattr("mamba_stream.log.recovery.TRASH_DELAY", 0)
    for n in range(60):
        _, end = plain.append([{"n": n}])[0]
        plain.trim(end)
        assert len(list((log.path / "files").iterdir())) <= 3
    assert plain.offsets() == {0: (60, 60)}


def test_internal_topics_have_commit_files_of_their_own(log: Log, plain: Topic) -> None:
    hidden = log.create_topic("_hidden", {"n": int}, internal=True)
    with log.transaction() as tx:
        tx.append("plain", [{"n": 1}])
        tx.append("_hidden", [{"n": 2}])
    assert log.statistics().commit_files == 2
    hidden.trim(1)
    assert rows_of(plain) == [(0, 0, (1,))]


def test_a_change_without_rows_writes_no_file(log: Log) -> None:
    log._store.commit(ChangeSet())
    assert list((log.path / "files").iterdir()) == []
    assert log.lsn() == 1


def test_a_closed_log_commits_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    topic = log.create_topic("plain", {"n": int})
    committer = log._store.committer
    log.close()
    with pytest.raises(LogClosed, match="open it again"):
        topic.append([{"n": 1}])
    with pytest.raises(LogClosed):
        committer.commit(ChangeSet())


def test_a_commit_that_comes_while_the_log_closes_does_not_keep_the_index_open(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    index, committer = log._store.index, log._store.committer
    close = index.close

    def late() -> None:
        with pytest.raises(LogClosed):
            committer.commit(ChangeSet())
        close()

    index.close = late  # type: ignore[method-assign]
    log.close()
    with pytest.raises(lmdb.Error, match="closed"):
        index._env.stat()


def test_what_nobody_took_is_written_over(log: Log, plain: Topic) -> None:
    plain.append([{"n": 0}], producer="p", sequence=0)
    before = sum(path.stat().st_size for path in (log.path / "files").iterdir())
    lsn, commits = log.lsn(), log.statistics().commits
    for _ in range(3):
        plain.append([{"n": 0}], producer="p", sequence=0)
        with pytest.raises(PreconditionFailed):
            plain.append([{"n": 1}], expect={0: 7})
    assert sum(path.stat().st_size for path in (log.path / "files").iterdir()) == before
    assert (log.lsn(), log.statistics().commits) == (lsn, commits)
    assert plain.append([{"n": 2}]) == {0: (1, 2)}
    assert [row for _, _, row in rows_of(plain)] == [(0,), (2,)]


class Interrupt(BaseException):
    pass


def interrupted(call: Callable[[], Any], at: int) -> tuple[threading.Thread, list[bool]]:
    """A thread that makes the call and is interrupted at so many lines of the committer; whether it was."""
    seen: set[tuple[int, int]] = set()
    done: list[bool] = []

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != committer.__file__:
            return trace
        line = linecache.getline(committer.__file__, frame.f_lineno).strip()
        again = (id(frame), frame.f_lineno) in seen
        seen.add((id(frame), frame.f_lineno))
        # Python looks for signals at calls, but for none on its way out of a ``with``.
        leaves = again and line.startswith("with ")
        if event == "line" and not leaves and ("(" in line or line.startswith("with ")):
            done.append(False)
            if len(done) == at:
                done.append(True)
                raise Interrupt(line)
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            call()
        except (Interrupt, CommitUnknown):
            pass
        finally:
            sys.settrace(None)

    return threading.Thread(target=run, daemon=True), done


@pytest.mark.parametrize("waits", [False, True], ids=["leading", "waiting"])
def test_a_thread_may_be_interrupted_anywhere_and_the_others_go_on(
    log: Log, plain: Topic, waits: bool
) -> None:
    """Wherever a ``KeyboardInterrupt`` comes: nobody waits for ever, and what was acknowledged is there."""
    acknowledged = 0
    for at in range(1, 400):
        victim, hit = interrupted(lambda: plain.append([{"n": 0}]), at)
        answers: list[object] = []

        def neighbour(answers: list[object] = answers) -> None:
            try:
                answers.append(plain.append([{"n": 1}]))
            except CommitUnknown as error:
                answers.append(error)

        others = [threading.Thread(target=neighbour, daemon=True) for _ in range(2)]
        line = log._store.committer
        threads = [others[0], victim, others[1]] if waits else [victim, *others]
        with line._turn:
            for number, thread in enumerate(threads):
                thread.start()
                while thread.is_alive() and len(line._arrived) <= number and not (hit and hit[-1]):
                    thread.join(0.0005)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), f"waits for ever after an interrupt at line {at}"
        acknowledged += sum(isinstance(answer, dict) for answer in answers)
        if not hit[-1]:
            break
    else:
        pytest.fail("the committer has fewer lines than that")
    assert at > 10
    assert sum(row == (1,) for _, _, row in rows_of(plain)) >= acknowledged
    assert plain.append([{"n": 2}])


def awaited(log: Log, plain: Topic, last: threading.Thread, pace: float) -> list[Any]:
    """What two are answered that wait for a third, for a quarter of the pace, and then it comes."""
    line = log._store.committer
    answers: list[Any] = []

    def neighbour() -> None:
        try:
            answers.append(plain.append([{"n": 1}]))
        except CommitUnknown as error:
            answers.append(error)

    line._expected, line._pace = 3, pace
    threads = [threading.Thread(target=neighbour, daemon=True) for _ in range(2)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(line._arrived) <= number and thread.is_alive():
            thread.join(0.0005)
    last.start()
    for thread in (last, *threads):
        thread.join(20)
        assert not thread.is_alive()
    return answers


def test_whoever_completes_a_group_leads_it(log: Log, plain: Topic) -> None:
    before = log.statistics().commits
    found: list[Any] = []
    last = threading.Thread(target=lambda: found.append(plain.append([{"n": 2}])))
    answers = awaited(log, plain, last, pace=1000)
    assert found == [{0: (0, 1)}]
    assert sorted(answer[0] for answer in answers) == [(1, 2), (2, 3)]
    assert log.statistics().commits - before == 1


def test_whoever_completes_a_group_may_be_interrupted_anywhere(log: Log, plain: Topic) -> None:
    acknowledged = 0
    for at in range(1, 200):
        victim, hit = interrupted(lambda: plain.append([{"n": 0}]), at)
        answers = awaited(log, plain, victim, pace=1)
        acknowledged += sum(isinstance(answer, dict) for answer in answers)
        if not hit[-1]:
            break
    else:
        pytest.fail("the committer has fewer lines than that")
    assert at > 10
    assert sum(row == (1,) for _, _, row in rows_of(plain)) >= acknowledged


def test_a_small_batch_that_cannot_be_encoded_fails_alone(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is encoded by whoever commits it, for others too."""
    topic = log.create_topic("t", {"n": pl.Int64})
    real = format.encode

    def encode(batch: pa.RecordBatch, *rest: Any) -> Any:
        if batch.column(0)[0].as_py() == 13:
            raise MemoryError("no room for thirteen")
        return real(batch, *rest)

    monkeypatch.setattr(format, "encode", encode)
    failed: list[int] = []

    def append(number: int) -> None:
        try:
            topic.append([{"n": number}])
        except MemoryError:
            failed.append(number)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [13]
    assert sorted(topic.scan().collect()["n"]) == [10, 11, 12, 14, 15, 16, 17]
    assert log.statistics().refused == 1
