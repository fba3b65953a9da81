"""Upkeep in the background: done while somebody wants it, and by nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mamba_stream.core.clock import SystemClock
from mamba_stream.core.diskmarks import DiskMarks
from mamba_stream.core.sizes import Share, Size
from mamba_stream.dsl.opening import open_log
from mamba_stream.errors import DiskFull, LogClosed
from mamba_stream.log import Log, Topic, caretaking, sealing
from mamba_stream.log.caretaking import BUDGET, Caretaker
from mamba_stream.log.pacing import Pace
from mamba_stream.log.store import Store
from mamba_stream.log.upkeep import Maintained

pytestmark = pytest.mark.embedded


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def carers() -> int:
    return sum(thread.name == "mamba-stream upkeep" for thread in threading.enumerate())


def test_what_the_log_needs_is_done_meanwhile(log: Log, plain: Topic) -> None:
    log.alter_topic("plain", retention="1us")
    plain.append([{"n": 1}])
    store = log._store
    assert isinstance(store, Store)
    with store.tended(every=0.01):
        wait_for(lambda: plain.offsets() == {0: (1, 1)})
    assert log.statistics().trimmed_rows == 1
    assert carers() == 0


def test_what_is_stored_is_looked_at_meanwhile_and_damage_is_said(
    log: Log, plain: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    plain.append([{"n": 1}])
    [path] = (log.path / "files").glob("*.commit")
    whole = path.read_bytes()
    place = log._store.shelf.entries(plain._row, 0, 0, 1)[0].entry
    path.write_bytes(whole[: place.length - 60] + b"\xff" + whole[place.length - 59 :])
    store = log._store
    assert isinstance(store, Store)
    with store.tended(every=0.01, scrub=1 << 30):
        wait_for(lambda: "stored bytes are damaged: topic 'plain'" in caplog.text)
    # One round through all of the log is enough for a while.
    assert log.statistics().scrub_findings == 1
    path.write_bytes(whole)


def test_who_looks_for_damage_elsewhere_has_none_looked_for_here(log: Log, plain: Topic) -> None:
    plain.append([{"n": 1}])
    store = log._store
    assert isinstance(store, Store)
    with store.tended(every=0.01, scrub=0):
        wait_for(lambda: log.statistics().upkeep_runs >= 3)
    assert log.statistics().scrubbed_batches == 0


def test_one_thread_does_it_for_all_and_ends_with_the_last(log: Log) -> None:
    with log.tended():
        with log.tended():
            assert carers() == 1
        assert carers() == 1
    assert carers() == 0


def test_a_log_may_be_left_to_others(log: Log) -> None:
    with open_log(log.path, upkeep=False) as other, other.tended():
        assert carers() == 0


def test_files_that_are_small_and_young_are_left_to_their_writers(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.append([{"n": 1}])
    store = log._store
    assert isinstance(store, Store)
    with store.tended(every=0.01):
        wait_for(lambda: log.statistics().upkeep_runs >= 2)
    assert log.statistics().segments == 0
    monkeypatch.setattr(sealing, "YOUNG", 0)
    store.committer.roll()
    with store.tended(every=0.01):
        wait_for(lambda: log.statistics().segments == 1)


def test_a_mark_of_the_disk_that_is_reached_has_upkeep_begin_at_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = log._store
    assert isinstance(store, Store)
    with store.tended(every=3600):
        assert log.statistics().upkeep_runs == 0
        monkeypatch.setattr(store.room, "marks", DiskMarks(soft=Share(0.0001), largest=Size(1 << 60)))
        assert store.room.look() is not None
        wait_for(lambda: log.statistics().upkeep_runs == 1)


def test_on_a_disk_that_is_nearly_full_rounds_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretaking, "_SHORT_OF_ROOM", 0.001)
    answers = iter([Maintained(done=False, short_of_room=True)] * 3)
    asked: list[int] = []

    def maintain(budget: int, pace: Pace) -> Maintained:
        asked.append(budget)
        return next(answers, Maintained())

    keeper = Caretaker(maintain, lambda: 0, SystemClock(), every=3600)
    keeper.start()
    keeper.hurry()
    wait_for(lambda: len(asked) == 4)
    keeper.stop()
    assert len(asked) == 4


def test_what_fails_is_tried_again_and_a_log_that_was_closed_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = iter([DiskFull("full"), Maintained(done=False), Maintained(), LogClosed("closed")])
    asked: list[int] = []

    def maintain(budget: int, pace: Pace) -> Maintained:
        asked.append(budget)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    keeper = Caretaker(maintain, lambda: 0, SystemClock(), every=0.001)
    keeper.start()
    wait_for(lambda: len(asked) == 4)
    keeper.stop()
    assert asked == [BUDGET] * 4
    assert "upkeep: full" in caplog.text
