"""Upkeep rests while others commit, and only then."""

from __future__ import annotations

import threading

import pytest

from mamba_stream.log import Log, Topic, pacing
from mamba_stream.log.pacing import Pace
from tests.log.handclock import HandClock
from tests.log.pictures import rows_of

pytestmark = pytest.mark.embedded


class Rests(threading.Event):
    """Notes for how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.asked.append(timeout)
        return self.is_set()


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Rests:
    rests = Rests()
    monkeypatch.setattr(pacing.threading, "Event", lambda: rests)
    return rests


def test_it_rests_in_proportion_to_its_work_as_long_as_somebody_commits(rests: Rests) -> None:
    clock, commits = HandClock(), [5]
    pace = Pace(lambda: commits[0], clock)
    for worked, committed in ((0.01, 0), (0.002, 1), (0.002, 0), (0.02, 0), (0.02, 3), (9.0, 1)):
        clock.at += int(worked * 1e6)
        commits[0] += committed
        pace()
    # After ten milliseconds nobody had committed; after two that is not asked yet; then somebody had, and so on.
    shares = [0.004 * 4, 0.02 * 4, 0.25]
    assert rests.asked == pytest.approx(shares, abs=1e-5)
    assert pace.rested == pytest.approx(sum(shares), abs=1e-5)


def test_somebody_who_waits_for_the_end_has_it_hurry(rests: Rests) -> None:
    clock, commits = HandClock(), [0]
    pace = Pace(lambda: commits[0], clock)
    pace.hurry()
    clock.at += 1_000_000
    commits[0] += 1
    pace()
    assert pace.rested == 0


def test_a_run_within_a_budget_gives_way_to_those_who_commit(
    log: Log, plain: Topic, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        plain.append([{"n": n}])
    monkeypatch.setattr(pacing, "_MOMENT", 0)
    lsn = iter(range(100))
    monkeypatch.setattr(log._store, "lsn", lambda: next(lsn))
    assert log.maintain(budget="1GB").merged_batches == 39
    assert rests.asked, "as far as this is seen somebody commits all the time"
    plain.append([{"n": 40}])
    rests.asked.clear()
    log.maintain()
    assert rests.asked == [], "who asks for all of it waits for the end"
    assert [row for _, _, row in rows_of(plain)] == [(n,) for n in range(41)]
