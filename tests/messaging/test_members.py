"""Clients register, stay as long as they live, and are swept when they do not."""

from __future__ import annotations

import threading
import time

import pytest

from mamba_stream.errors import DiskFull, InvalidInput, ServerUnavailable
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.members import CLIENTS, Client, Member, Registration, alive, sweep
from tests.messaging.receiving import SECOND, MemoryBook, MovedClock

LEASE = 10 * SECOND


def eventually(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def registered(book: MemoryBook, now: int, **facts) -> Registration:
    registration = Registration(book, Client(kind="consumer", **facts), LEASE)
    registration.enter(now)
    return registration


def test_a_client_is_alive_until_its_lease_ends():
    book = MemoryBook()
    client = registered(book, 0, group="g").client
    assert alive(book.records(CLIENTS), LEASE - 1) == {client.id: client}
    assert alive(book.records(CLIENTS), LEASE) == {}


def test_a_renewal_moves_the_end_and_tells_what_is_new():
    book = MemoryBook()
    registration = registered(book, 0)
    registration.renew(LEASE - 1, interest=Interest(("a",)), counters={"received": 3})
    (client,) = alive(book.records(CLIENTS), 2 * LEASE - 2).values()
    assert (client.interest.topics, client.counters, client.since) == (("a",), {"received": 3}, 0)


def test_sessions_are_numbered_in_the_order_of_arrival_even_when_two_arrive_at_once():
    book = MemoryBook()
    others: list[Registration] = []
    book.before.append(lambda: others.append(registered(book, 0)))
    last = registered(book, 0)
    assert [client.session for client in (others[0].client, last.client)] == [1, 2]
    assert others[0].client.id < last.client.id


def test_who_is_over_is_swept_and_nobody_else():
    book = MemoryBook()
    registered(book, 0)
    late = registered(book, 5 * SECOND).client
    sweep(book, book.records(CLIENTS), LEASE)
    assert list(book.records(CLIENTS)) == [late.id]


def test_a_clock_that_goes_back_does_not_keep_the_dead_alive_until_it_is_there_again():
    hour = 3600 * SECOND
    book = MemoryBook()
    registered(book, hour)
    living = registered(book, hour)
    assert len(alive(book.records(CLIENTS), hour - LEASE)) == 2, (
        "it went back by so little that it is waited for"
    )
    living.renew(0)
    assert list(alive(book.records(CLIENTS), 0)) == [living.client.id]
    sweep(book, book.records(CLIENTS), 0)
    assert list(book.records(CLIENTS)) == [living.client.id]


def test_a_lease_renewed_behind_the_sweepers_back_is_not_swept():
    book = MemoryBook()
    registration = registered(book, 0)
    seen = book.records(CLIENTS)
    registration.renew(LEASE)
    sweep(book, seen, LEASE)
    assert list(book.records(CLIENTS)) == [registration.client.id]


def test_who_was_swept_comes_back_under_its_name():
    book = MemoryBook()
    registration = registered(book, 0)
    sweep(book, book.records(CLIENTS), LEASE)
    registration.renew(LEASE + 1)
    assert list(alive(book.records(CLIENTS), LEASE + 2)) == [registration.client.id]


def test_a_record_of_a_version_to_come_is_let_alone():
    book = MemoryBook()
    book.kept[CLIENTS, "x"] = b"\xc1"
    assert alive(book.records(CLIENTS), 0) == {}
    sweep(book, book.records(CLIENTS), 1 << 62)
    assert list(book.records(CLIENTS)) == ["x"]


def test_a_thread_renews_the_lease_with_the_counters_until_it_is_closed():
    book, clock = MemoryBook(), MovedClock()
    member = Member(book, clock, kind="producer", lease="10s", renew="1ms")
    member.report({"sent": 7})
    clock.pass_by(9)
    eventually(lambda: alive(book.records(CLIENTS), clock.now() + 9 * SECOND))
    eventually(lambda: member.client.counters == {"sent": 7})
    member.close()
    member.close()
    assert book.records(CLIENTS) == {}


def test_one_that_does_no_work_for_too_long_leaves_until_it_is_revived():
    book, clock = MemoryBook(), MovedClock()
    beats = [0]
    member = Member(book, clock, kind="consumer", renew="1ms", pulse=lambda: beats[0], patience="60s")
    clock.pass_by(59)
    beats[0] += 1
    eventually(lambda: member.client.until > clock.now())
    clock.pass_by(59)
    eventually(lambda: member.client.until > clock.now())
    assert len(book.records(CLIENTS)) == 1
    clock.pass_by(2)
    eventually(lambda: not book.records(CLIENTS))
    member.revive()
    assert list(alive(book.records(CLIENTS), clock.now())) == [member.id]
    member.close()


def test_one_that_asked_for_time_is_not_taken_for_stuck():
    book, clock = MemoryBook(), MovedClock()
    member = Member(book, clock, kind="consumer", renew="1ms", pulse=lambda: 0, patience="60s")
    member.excuse(600)
    clock.pass_by(599)
    eventually(lambda: member.client.until > clock.now())
    clock.pass_by(2)
    eventually(lambda: not book.records(CLIENTS))
    member.close()


def test_a_renewal_that_fails_is_tried_again_and_does_not_end_the_thread():
    book, clock = MemoryBook(), MovedClock()
    member = Member(book, clock, kind="producer", renew="1ms")

    def full() -> None:
        raise DiskFull("no room")

    book.before.append(full)
    eventually(lambda: not book.before)
    clock.pass_by(5)
    eventually(lambda: member.client.until > clock.now() + 9 * SECOND and member.failure is None)
    member.close()


@pytest.mark.parametrize("entered", [True, False])
def test_a_server_that_was_away_knows_again_who_is_there(entered):
    book, clock = MemoryBook(), MovedClock()

    def away() -> None:
        raise ServerUnavailable("nobody answers")

    if not entered:
        book.before.append(away)
    member = Member(book, clock, kind="consumer", renew="1ms", delay=None if entered else "1ms")
    if entered:
        book.before.append(away)
    eventually(lambda: not book.before)
    clock.pass_by(60)
    sweep(book, book.records(CLIENTS), clock.now())
    eventually(lambda: [*alive(book.records(CLIENTS), clock.now())] == [member.id] != [""])
    eventually(lambda: member.failure is None)
    member.close()


def test_counters_that_do_not_fit_into_a_record_are_refused():
    member = Member(MemoryBook(), MovedClock(), kind="producer")
    with pytest.raises(InvalidInput, match="more than 2048"):
        member.report({f"counter {number}" * 5: number for number in range(100)})
    member.close()


def test_a_lease_that_ends_before_it_is_renewed_is_refused():
    with pytest.raises(InvalidInput, match="would end before it is renewed"):
        Member(MemoryBook(), MovedClock(), kind="producer", lease="1s", renew="2s")
