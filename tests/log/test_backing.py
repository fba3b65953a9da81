"""Backups and what comes back of them: whole, of one moment, at the cost of what changed; and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lmdb
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import (
    AlreadyExists,
    DataCorrupted,
    DiskFull,
    InvalidInput,
    LogInUse,
    LogUnavailable,
    NotFound,
)
from mamba_stream.log import Log, backups, open_log, recovery, restore, restoring
from mamba_stream.log.doctor import Report, examine
from mamba_stream.log.examination import examine as examine_here
from mamba_stream.log.findings import Finding
from mamba_stream.log.index import Index
from tests.log.handclock import HandClock
from tests.log.pictures import picture
from tests.served import serving

obstore_store = pytest.importorskip("obstore.store")

pytestmark = pytest.mark.embedded


@pytest.fixture
def filled(log: Log) -> Log:
    """A log with sealed and open files, a group, a record, a producer."""
    topic = log.create_topic("t", {"ts": pl.Datetime("us"), "n": pl.Int64}, partitions=2, key="n", time="ts")
    topic.append([{"n": n} for n in range(1000)])
    log.seal()
    topic.append([{"n": n} for n in range(1000)], producer="p", sequence=3)
    log.create_topic("other", {"s": pl.String}, compression="zstd").append([{"s": "x"}] * 50)
    with log.transaction() as tx:
        tx.commit_offsets("g", {("t", 0): 3})
        tx.put_record("space", "key", b"value")
    return log


@pytest.fixture(autouse=True)
def examined_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the doctor says of a restored log is found in this process: most of the time would go there."""

    def examined(log: Path) -> Report:
        found: list[Finding] = []
        examine_here(log, found.append)
        return Report(log, tuple(found), {}, True)

    monkeypatch.setattr(restoring, "examine", examined)


def targets(tmp_path: Path) -> dict[str, Callable[[], Any]]:
    memory, local = obstore_store.MemoryStore(), tmp_path / "objects"
    local.mkdir()
    store = obstore_store.LocalStore(str(local))
    return {"directory": lambda: tmp_path / "kept", "memory": lambda: memory, "local": lambda: store}


@pytest.fixture(params=["directory", "memory", "local"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return targets(tmp_path)[request.param]()


def rows(log: Log) -> dict[str, Any]:
    return {name: log[name].scan().collect().to_dicts() for name in log.topics()}


def test_what_comes_back_is_the_log_as_it_was(filled: Log, target: Any, tmp_path: Path) -> None:
    lsn, before = filled.lsn(), picture(filled)
    done = filled.backup(target)
    assert (done.lsn, done.missing) == (lsn, ())
    assert done.copied == done.size
    filled["t"].append([{"n": 1}])
    back = restore(target, tmp_path / "back")
    assert (back.lsn, back.size, back.findings) == (lsn, done.size, ())
    with open_log(tmp_path / "back") as log:
        assert picture(log) == before
        # It goes on: also what a producer sends again is known.
        assert log["t"].append([{"n": n} for n in range(1000)], producer="p", sequence=3)
        assert picture(log) == before
        log["t"].append([{"n": 1}])
        log.seal()
    assert examine(tmp_path / "back").sound


def test_a_backup_costs_what_changed(filled: Log, target: Any, tmp_path: Path) -> None:
    filled["t"].append([{"n": n} for n in range(200_000)])
    first = filled.backup(target)
    again = filled.backup(target)
    assert again.copied == 0
    filled["t"].append([{"n": 5}] * 100)
    more = filled.backup(target)
    assert 0 < more.copied < first.size // 4
    assert [one.lsn for one in backups(target)] == sorted(one.lsn for one in backups(target))
    assert restore(target, tmp_path / "back").lsn == filled.lsn()
    with open_log(tmp_path / "back") as log:
        assert rows(log) == rows(filled)


def test_a_moment_is_chosen_by_its_commit_or_its_time(filled: Log, target: Any, tmp_path: Path) -> None:
    found = []
    for number in range(3):
        filled["other"].append([{"s": str(number)}])
        found.append((filled.backup(target), len(rows(filled)["other"])))
    for number, (done, count) in enumerate(found):
        following = found[number + 1][0].lsn - 1 if number < 2 else 1 << 40
        when = datetime.fromtimestamp(done.time / 1e6, UTC)
        for turn, to in enumerate(
            (done.lsn, following, when, when.replace(tzinfo=None), when.isoformat(), str(done.lsn))
        ):
            place = tmp_path / f"{number}-{turn}"
            back = mamba.restore(target, place, to=to)
            assert back.lsn == done.lsn
            assert back.next_lsn == (found[number + 1][0].lsn if number < 2 else None)
            assert back.next_time == (found[number + 1][0].time if number < 2 else None)
            with open_log(place) as log:
                assert len(rows(log)["other"]) == count
    with pytest.raises(
        NotFound, match=f"no backup from before that: the oldest of 3 is of commit {found[0][0].lsn}"
    ):
        restore(target, tmp_path / "early", to=1)
    with pytest.raises(NotFound):
        restore(target, tmp_path / "early", to=datetime.now(UTC) - timedelta(days=1))
    for wrong in ("yesterday", 1.5, b"x", -1):
        with pytest.raises(InvalidInput, match="give the number of a commit"):
            restore(target, tmp_path / "early", to=wrong)  # type: ignore[arg-type]


def test_what_is_committed_while_a_backup_begins_is_not_in_one_of_an_earlier_time(
    clocked: Log, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = clocked.create_topic("t", {"n": int})
    topic.append([{"n": 0}])
    copy = Index.copy_to

    def late(self: Index, path: Path) -> None:
        clock.at += 1_000
        topic.append([{"n": 1}])
        copy(self, path)

    monkeypatch.setattr(Index, "copy_to", late)
    done = clocked.backup(tmp_path / "kept")
    [_, batch] = topic.read()
    assert done.time >= batch.append_time
    restore(tmp_path / "kept", tmp_path / "back")
    with open_log(tmp_path / "back") as back:
        assert back["t"].offsets() == {0: (0, 2)}


def test_old_backups_go_and_take_only_what_nobody_needs(filled: Log, target: Any, tmp_path: Path) -> None:
    for number in range(5):
        filled["other"].append([{"s": str(number)}])
        if number == 2:
            filled.seal()
        done = filled.backup(target, keep=2)
        assert done.pruned == (1 if number > 1 else 0)
    assert len(backups(target)) == 2
    for number, one in enumerate(backups(target)):
        assert restore(target, tmp_path / str(number), to=one.lsn).findings == ()
    with open_log(tmp_path / "1") as log:
        assert rows(log) == rows(filled)
    with pytest.raises(InvalidInput, match="keep=0"):
        filled.backup(target, keep=0)


def test_what_is_sealed_and_removed_while_it_is_copied_stays_for_it(
    filled: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "TRASH_DELAY", 0)
    from mamba_stream.log import backing

    before = rows(filled)
    real = backing._Backup._copy

    def copy(self: Any, *arguments: Any) -> Any:
        filled["other"].trim({0: 50})
        filled.delete_topic("t")
        filled.seal()
        filled.seal()
        return real(self, *arguments)

    monkeypatch.setattr(backing._Backup, "_copy", copy)
    filled.backup(tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "back")
    with open_log(tmp_path / "back") as log:
        assert rows(log) == before
    assert not (filled.path / "backup" / "now").exists()


def test_what_is_removed_between_a_segment_and_its_table_of_contents_is_looked_for_again(
    filled: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "TRASH_DELAY", 0)
    real, removed = os.link, []

    def link(source: Path, target: Path) -> None:
        if source.suffix == ".toc" and not removed:
            removed.append(source)
            filled.delete_topic("t")
            while source.exists():
                filled.seal()
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert filled.backup(tmp_path / "kept").missing == ()
    assert removed
    assert restore(tmp_path / "kept", tmp_path / "back").findings == ()
    with open_log(tmp_path / "back") as log:
        assert rows(log) == rows(filled)


def test_a_segment_without_its_table_of_contents_is_backed_up_without(tmp_path: Path) -> None:
    with open_log(tmp_path / "hurt") as log:
        log.create_topic("a", {"n": pl.Int64}).append([{"n": n} for n in range(100)])
        log.seal()
        [table] = (tmp_path / "hurt" / "files").glob("*.toc")
        table.unlink()
        assert log.backup(tmp_path / "kept").missing == ()
    restore(tmp_path / "kept", tmp_path / "back")
    with open_log(tmp_path / "back") as log:
        assert len(rows_of(log, "a")) == 100


def test_commits_that_waited_for_the_disk_are_in_it(filled: Log, tmp_path: Path) -> None:
    filled["other"].append([{"s": "late"}], durability="os")
    filled.backup(tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "back")
    with open_log(tmp_path / "back") as log:
        assert rows(log) == rows(filled)
        log["other"].append([{"s": "later"}], durability="os")
        assert rows(log)["other"][-1] == {"s": "later"}


def test_a_restored_log_is_another_one(filled: Log, tmp_path: Path) -> None:
    filled.backup(tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "back")
    with open_log(tmp_path / "back") as log:
        mine, theirs = log._store.meta, filled._store.meta  # type: ignore[attr-defined]
        assert mine.uuid != theirs.uuid
        assert mine.origins == (theirs.uuid,)
        with pytest.raises(InvalidInput, match="the backups of another log"):
            log.backup(tmp_path / "kept")


def test_a_backup_onto_the_log_itself_is_refused(filled: Log, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink(filled.path, tmp_path / "link")
    open_log(tmp_path / "log2").close()
    for wrong in ("log", "log/inside", "link", "link/inside", "log2", "."):
        with pytest.raises(InvalidInput, match="cannot lie in"):
            filled.backup(tmp_path / wrong)
    with pytest.raises(InvalidInput, match="is a file"):
        filled.backup(tmp_path / "file")
    for wrong_kind in (7, None, ""):
        with pytest.raises(InvalidInput):
            filled.backup(wrong_kind)
    assert examine(filled.path).sound


def test_a_restore_over_anything_is_refused(filled: Log, tmp_path: Path) -> None:
    filled.backup(tmp_path / "kept")
    before = picture(filled)
    for wrong in (filled.path, tmp_path / "kept", tmp_path):
        with pytest.raises(AlreadyExists, match="holds something"):
            restore(tmp_path / "kept", wrong)
    assert picture(filled) == before
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "kept", tmp_path / "empty")
    with pytest.raises(NotFound, match="holds no backup"):
        restore(tmp_path / "nowhere", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_damage_to_a_backup_is_told_and_nothing_is_restored(filled: Log, tmp_path: Path) -> None:
    filled.backup(tmp_path / "kept")
    for path in [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for changed in (
            data[:-1],
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        ):
            path.write_bytes(changed)
            with pytest.raises(DataCorrupted, match="damaged"):
                restore(tmp_path / "kept", tmp_path / "back")
        path.unlink()
        with pytest.raises((DataCorrupted, NotFound)):
            restore(tmp_path / "kept", tmp_path / "back")
        path.write_bytes(data)
    assert restore(tmp_path / "kept", tmp_path / "back").findings == ()
    assert {path.name for path in tmp_path.iterdir() if "restoring" in path.name} == set()


def test_a_damaged_backup_keeps_nobody_from_the_others(filled: Log, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first = filled.backup(kept)
    filled["t"].append([{"n": 1}])
    second = filled.backup(kept)
    (kept / second.name).write_bytes(b"rubbish")
    (kept / "backups" / "notes.txt").write_bytes(b"of whoever keeps the backups")
    with pytest.raises(DataCorrupted, match="damaged"):
        restore(kept, tmp_path / "back")
    back = restore(kept, tmp_path / "back", to=first.lsn)
    assert (back.lsn, back.next_lsn, back.next_time) == (first.lsn, second.lsn, second.time)
    filled["t"].append([{"n": 2}])
    third = filled.backup(kept, keep=2)
    assert 0 < third.copied < third.size
    assert restore(kept, tmp_path / "now").lsn == third.lsn
    # One that is damaged is not one of those that are kept.
    assert third.pruned == 0
    assert restore(kept, tmp_path / "then", to=first.lsn).lsn == first.lsn
    for done in (first, third):
        (kept / done.name).write_bytes(b"")
    with pytest.raises(DataCorrupted, match="damaged"):
        filled.backup(kept)


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, LogUnavailable), (errno.ENOSPC, DiskFull)])
def test_a_copy_of_the_index_that_cannot_be_opened_is_told_in_words(
    filled: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    kept, back, reason = tmp_path / "kept", tmp_path / "back", os.strerror(code)
    filled.backup(kept)
    filled["t"].append([{"n": 1}])

    def failing(path: str, **options: object) -> None:
        raise lmdb.Error(f"{path}: {reason}")

    with monkeypatch.context() as patched:
        patched.setattr(lmdb, "open", failing)
        with pytest.raises(kind, match=reason):
            filled.backup(kept)
        with pytest.raises(kind, match=reason):
            restore(kept, back)
    assert len(backups(kept)) == 1
    assert not back.exists()
    filled.backup(kept)
    with open_log(restore(kept, back).path) as log:
        assert rows(log) == rows(filled)


def test_a_backup_that_is_refused_leaves_alone_what_another_log_is_writing(
    filled: Log, tmp_path: Path
) -> None:
    with open_log(tmp_path / "other") as other:
        other.backup(tmp_path / "kept")
    half = tmp_path / "kept" / "files" / ".new-0123"
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"half of it")
    with pytest.raises(InvalidInput, match="another log"):
        filled.backup(tmp_path / "kept")
    assert half.exists()


def test_a_damaged_log_is_backed_up_as_it_is_and_said_to_be(tmp_path: Path) -> None:
    with open_log(tmp_path / "hurt") as log:
        log.create_topic("a", {"n": pl.Int64}).append([{"n": n} for n in range(100)])
        log.seal()
        log.create_topic("b", {"n": pl.Int64}).append([{"n": n} for n in range(100)])
        [segment] = (tmp_path / "hurt" / "files").glob("*.arrows")
        segment.unlink()
        done = log.backup(tmp_path / "kept")
        assert done.missing == (segment.name,)
    back = restore(tmp_path / "kept", tmp_path / "back")
    assert [f.topic for f in back.findings if f.offset is not None] == ["a"]
    with open_log(tmp_path / "back") as log:
        assert len(rows_of(log, "b")) == 100


def rows_of(log: Log, topic: str) -> list[Any]:
    return log[topic].scan().collect().to_dicts()


def test_one_backup_goes_at_a_time_and_a_servers_log_is_backed_up_beside_it(
    filled: Log, tmp_path: Path
) -> None:
    held = filled.lock("backup", "backup")
    assert held is not None
    with pytest.raises(LogInUse, match="is being backed up by process"):
        filled.backup(tmp_path / "kept")
    held.release()
    filled.backup(tmp_path / "kept")
    with (
        serving(filled.path) as address,
        mamba.open(address) as log,
        pytest.raises(InvalidInput, match="back it up where it is"),
    ):
        log.backup(tmp_path / "kept")
