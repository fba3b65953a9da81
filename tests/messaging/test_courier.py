"""How much a process takes, and how much of that it has at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamba_stream.errors import ServerUnavailable
from mamba_stream.log import Log, open_log
from mamba_stream.messaging import courier
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.message import Message
from tests.messaging.desk import SECOND, HandClock, Sent, member, message_topic, rows
from tests.server.running import until


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        message_topic(opened)
        yield opened


@pytest.fixture
def taking(log: Log, clock: HandClock) -> Iterator[Courier]:
    made = Courier(clock, 30 * SECOND)
    made.add(member(log, 1, clock))
    yield made
    made.close()


def handed(taking: Courier) -> list[Message]:
    found = []
    while (message := taking.next()) is not None:
        found.append(message)
        message.ack()
        taking.finished(message)
    return found


def test_what_is_here_at_once_is_bounded_by_bytes(
    log: Log, taking: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(courier, "_LEAST", 1_000)
    taking._appetite = 1_000
    log["work"].append(rows([Sent(bytes(1_000)) for _ in range(50)]))
    assert taking.fetch()
    first = len(taking._queue)
    assert 5 <= first <= 12
    for _ in range(5):
        taking.fetch()
    assert len(taking._queue) <= 12
    done = handed(taking)
    while taking.fetch():
        done += handed(taking)
    assert len(done) == 50


def test_who_finds_nothing_takes_no_more_than_others_when_something_comes(log: Log, taking: Courier) -> None:
    for _ in range(20):
        assert not taking.fetch()
    log["work"].append(rows([Sent(n) for n in range(1_000)]))
    assert taking.fetch()
    assert len(taking._queue) == 4
    # Quick ones are taken in larger numbers, also after a while of nothing.
    handed(taking)
    taking.fetch()
    assert len(taking._queue) == 16


def test_who_turns_slow_takes_fewer_although_some_are_left(
    log: Log, taking: Courier, clock: HandClock
) -> None:
    log["work"].append(rows([Sent(n) for n in range(10_000)]))
    taking._appetite = 1_024
    assert taking.fetch()
    waiting = []
    for _ in range(3):
        clock.advance(10)
        while len(taking._queue) > taking._appetite // 2:
            message = taking.next()
            assert message is not None
            message.ack()
            taking.finished(message)
        taking.fetch()
        waiting.append(taking._appetite)
    assert waiting == [512, 256, 128]


def test_only_who_got_messages_of_late_waits_for_the_next_to_come_by_themselves(
    log: Log, clock: HandClock, taking: Courier
) -> None:
    def waits() -> bool:
        return taking.wait(log.lsn(), 0.0)

    assert not taking.fetch() and not waits()
    log["work"].append(rows([Sent(1)]))
    assert taking.fetch() and waits()
    clock.advance(0.9)
    assert waits()
    clock.advance(0.2)
    assert not waits()


def test_a_wait_is_for_one_topic_alone(log: Log, clock: HandClock, taking: Courier) -> None:
    message_topic(log, "more")
    log["work"].append(rows([Sent(1)]))
    assert taking.fetch() and taking.wait(log.lsn(), 0.0)
    more = member(log, 1, clock, topic="more")
    taking.add(more)
    assert not taking.wait(log.lsn(), 0.0)
    taking.remove(more)
    assert taking.wait(log.lsn(), 0.0)


def test_what_stopped_the_keeping_of_leases_is_told_once_and_then_they_are_kept_again(
    log: Log, clock: HandClock, taking: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    log["work"].append(rows([Sent(n) for n in range(3)]))
    assert taking.fetch()
    first, second = taking.next(), taking.next()
    assert first is not None and second is not None
    [group] = taking._groups
    away = threading.Event()

    def refuse(leases: object) -> None:
        away.set()
        raise ServerUnavailable("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(group, "settle", refuse)
        first.ack()
        taking.finished(first)
        assert away.wait(20)
        assert taking._keeper is not None
        taking._keeper.join(20)
    with pytest.raises(ServerUnavailable):
        taking.check()
    taking.check()
    # Also what was settled before is written now, by itself.
    until(lambda: not any(lease.changed for _, lease in taking._leases), "what was settled to be written")
    second.ack()
    taking.finished(second)
    until(lambda: not any(lease.changed for _, lease in taking._leases), "what was settled to be written")
    assert [left for _, lease in taking._leases for left in lease.left] == [2]
