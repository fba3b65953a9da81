"""Quotas on a clock that is moved: what comes through in the long run is the rate, whatever is asked for when."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, strategies as st

from mamba_stream.errors import InvalidInput, QuotaExceeded
from mamba_stream.server.quotas import NO_QUOTA, Quota, Quotas, check_topics
from tests.server.clocks import HandClock


def test_bytes_come_back_as_time_passes_and_the_error_says_when():
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(received=1_000)
    quotas.spend("ann", quota, received=1_000)
    with pytest.raises(
        QuotaExceeded, match=r"user 'ann' has sent more than 1,000 bytes a second: go on in"
    ) as caught:
        quotas.spend("ann", quota, received=1)
    clock.move(caught.value.retry_after)
    quotas.spend("ann", quota, received=1)


def test_a_batch_larger_than_the_bucket_goes_through_and_delays_what_comes_after_it():
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(sent=100)
    quotas.spend("ann", quota, sent=1_000)
    with pytest.raises(QuotaExceeded, match="has had more than 100 bytes") as caught:
        quotas.spend("ann", quota, sent=1)
    assert caught.value.retry_after == 9.0
    clock.move(8.9)
    with pytest.raises(QuotaExceeded):
        quotas.spend("ann", quota, sent=1)
    clock.move(0.2)
    quotas.spend("ann", quota, sent=1)


def test_ways_and_users_are_counted_apart_and_who_has_no_quota_is_not_counted():
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(received=10, sent=10)
    quotas.spend("ann", quota, received=10)
    quotas.spend("ann", quota, sent=10)
    quotas.spend("bob", quota, received=10)
    for _ in range(3):
        quotas.spend("eve", NO_QUOTA, received=1 << 40, sent=1 << 40)
    with pytest.raises(QuotaExceeded):
        quotas.spend("bob", quota, received=10)


@given(
    st.integers(1, 10_000),
    st.floats(0.1, 10),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5_000)), max_size=60),
)
def test_never_more_than_the_burst_and_the_rate_and_one_batch_comes_through(rate, burst, asked):
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(received=rate, burst=burst)
    begun, taken, largest = clock.seconds, 0, 0
    for wait, size in asked:
        clock.move(wait)
        try:
            quotas.spend("ann", quota, received=size)
        except QuotaExceeded as error:
            assert error.retry_after > 0
            continue
        taken, largest = taken + size, max(largest, size)
        assert taken <= rate * burst + rate * (clock.seconds - begun) + largest + 1e-6 * taken


@given(st.integers(1, 1_000), st.lists(st.integers(1, 3_000), min_size=1, max_size=30))
def test_whoever_waits_as_told_gets_everything_through_at_the_rate(rate, sizes):
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(sent=rate)
    begun = clock.seconds
    for size in sizes:
        while True:
            try:
                quotas.spend("ann", quota, sent=size)
                break
            except QuotaExceeded as error:
                clock.move(error.retry_after)
    # All but the last were paid for, less what was there at the beginning: nobody waits longer than that takes.
    assert clock.seconds - begun <= max(0, sum(sizes[:-1]) / rate - 1) + 0.002 * len(sizes)


def test_a_changed_quota_holds_at_once_and_a_clock_that_stands_still_gives_nothing():
    clock = HandClock()
    quotas = Quotas(clock)
    quotas.spend("ann", Quota(received=1_000_000), received=1)
    quotas.spend("ann", Quota(received=10), received=10)
    with pytest.raises(QuotaExceeded):
        quotas.spend("ann", Quota(received=10), received=1)


def test_many_threads_together_get_no_more_than_one_would():
    quotas, quota = Quotas(HandClock()), Quota(received=1_000)
    taken = []

    def spend():
        for _ in range(500):
            try:
                quotas.spend("ann", quota, received=10)
                taken.append(10)
            except QuotaExceeded:
                pass

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1_000


def test_connections_are_counted_by_their_addresses_and_forgotten_when_they_are_silent():
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(connections=2)
    for _ in range(3):
        quotas.connect("ann", quota, "ipv4:10.0.0.1:5000")
        quotas.connect("ann", quota, "ipv4:10.0.0.1:5001")
    with pytest.raises(QuotaExceeded, match="has 2 connections, as many as it may") as caught:
        quotas.connect("ann", quota, "ipv4:10.0.0.1:5002")
    assert caught.value.retry_after == 60.0
    quotas.connect("bob", quota, "ipv4:10.0.0.1:5002")
    clock.move(30)
    quotas.connect("ann", quota, "ipv4:10.0.0.1:5001")
    clock.move(31)
    quotas.connect("ann", quota, "ipv4:10.0.0.1:5002")
    with pytest.raises(QuotaExceeded):
        quotas.connect("ann", quota, "ipv4:10.0.0.1:5003")


def test_who_is_gone_is_forgotten():
    clock = HandClock()
    quotas, quota = Quotas(clock), Quota(received=10)
    quotas.spend("ann", quota, received=1_000)
    quotas.keep({"bob": NO_QUOTA})
    quotas.spend("ann", quota, received=10)


def test_topics_are_counted_before_they_are_made():
    check_topics("ann", NO_QUOTA, 1_000_000, 1)
    check_topics("ann", Quota(topics=3), 1, 2)
    with pytest.raises(QuotaExceeded, match="has made 2 topics that are still there, and may have 3"):
        check_topics("ann", Quota(topics=3), 2, 2)
    with pytest.raises(QuotaExceeded):
        check_topics("ann", Quota(topics=0), 0, 1)
    # What there is stays, and may be used.
    check_topics("ann", Quota(topics=0), 2, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"received": 0}, {"sent": -1}, {"connections": 0}, {"topics": -1}, {"burst": 0.0}, {"burst": 1e9}],
)
def test_a_quota_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput, match=f"quota {next(iter(wrong))}="):
        Quota(**wrong)
