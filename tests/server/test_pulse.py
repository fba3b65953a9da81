"""One thread listens to the log for all who wait."""

from __future__ import annotations

import threading

import pytest

from mamba_stream.errors import LogClosed
from mamba_stream.log import Log
from mamba_stream.server.pulse import Pulse

FOREVER = 3_600.0


def waits(pulse: Pulse, lsn: int, found: list[int], **options) -> threading.Thread:
    thread = threading.Thread(target=lambda: found.append(pulse.wait(lsn, FOREVER, **options)), daemon=True)
    thread.start()
    return thread


def until_waiting(pulse: Pulse, count: int) -> None:
    while pulse._waiting < count:
        threading.Event().wait(0.001)


def joined(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(30)
    return not any(thread.is_alive() for thread in threads)


def test_all_who_wait_hear_of_a_commit_from_one_thread(log: Log):
    topic, found = log.create_topic("t", {"n": int}), []
    pulse = Pulse(log._store)
    threads = [waits(pulse, log.lsn(), found) for _ in range(20)]
    until_waiting(pulse, 20)
    assert [thread.name for thread in threading.enumerate()].count("mamba-stream pulse") == 1
    topic.append([{"n": 1}])
    assert joined(*threads)
    assert found == [2] * 20


def test_what_happened_before_and_a_wait_that_is_over_are_answered_at_once(log: Log):
    pulse = Pulse(log._store)
    assert pulse.wait(0, 0.01) == pulse.wait(0, 0) == 0
    log.create_topic("t", {"n": int})
    assert pulse.wait(0, FOREVER) == 1


def test_no_commit_is_missed_by_who_looks_again_and_again(log: Log):
    topic, pulse, seen = log.create_topic("t", {"n": int}), Pulse(log._store), [1]

    def follow() -> None:
        while seen[-1] < 201:
            seen.append(pulse.wait(seen[-1], FOREVER))

    threads = [threading.Thread(target=follow, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(200):
        topic.append([{"n": n}])
    assert joined(*threads)


def test_waits_end_when_the_server_stops_and_do_not_begin_then(log: Log):
    pulse, found = Pulse(log._store), []
    thread = waits(pulse, 0, found)
    until_waiting(pulse, 1)
    pulse.stop()
    assert joined(thread)
    assert pulse.wait(0, FOREVER) == 0


def test_the_wait_of_a_client_that_is_gone_ends_by_itself(log: Log):
    pulse, found, gone = Pulse(log._store), [], threading.Event()
    thread = waits(pulse, 0, found, gone=gone.is_set)
    until_waiting(pulse, 1)
    gone.set()
    assert joined(thread)


def test_who_waits_is_told_of_a_log_that_fails(log: Log, monkeypatch: pytest.MonkeyPatch):
    pulse, store, calls = Pulse(log._store), log._store, []

    def fail(lsn, timeout):
        calls.append(lsn)
        raise LogClosed("it is closed")

    monkeypatch.setattr(store, "wait", fail)
    with pytest.raises(LogClosed):
        pulse.wait(0, FOREVER)
    monkeypatch.undo()
    log.create_topic("t", {"n": int})
    assert pulse.wait(0, FOREVER) == 1


def test_who_waits_hears_at_once_of_what_it_is_told(log: Log):
    log.create_topic("t", {"n": int})
    pulse, found = Pulse(log._store), []
    thread = waits(pulse, log.lsn() + 1, found)
    until_waiting(pulse, 1)
    # The log has no such commit: nobody could have heard of it but from this.
    pulse.tell(log.lsn() + 2)
    assert joined(thread)
    assert found == [log.lsn() + 2]


def test_a_commit_between_the_look_and_the_wait_is_not_waited_for(log: Log, monkeypatch):
    topic = log.create_topic("t", {"n": int})
    pulse, found = Pulse(log._store), []
    other = waits(pulse, log.lsn(), [], gone=lambda: bool(found))
    until_waiting(pulse, 1)
    look, looks = log._store.lsn, []

    def looked() -> int:
        lsn = look()
        if threading.current_thread().name != "mamba-stream pulse" and not looks:
            looks.append(lsn)
            topic.append([{"n": 1}])
            # It is known before whoever looked comes to wait for it.
            while pulse._lsn <= lsn:
                threading.Event().wait(0.001)
        return lsn

    monkeypatch.setattr(log._store, "lsn", looked)
    monkeypatch.setattr("mamba_stream.server.pulse._LOOK_UP", FOREVER)
    thread = waits(pulse, look(), found)
    assert joined(thread)
    assert found == [look()]
    pulse.stop()
    assert joined(other)
