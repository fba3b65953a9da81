"""The six figures beside a count by hand; speeds and latencies are those of lately."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.log import Log, open_log
from mamba_stream.messaging.books import LogBook
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.latency import Latencies
from mamba_stream.messaging.members import CLIENTS, Client, Member, Registration, alive
from mamba_stream.messaging.statistics import GroupStatistics, TopicStatistics, queue_statistics
from tests import forking
from tests.messaging.desk import SECOND, HandClock, Sent, member, message_topic, rows

SENT = Sent("x" * 50)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        yield opened


def later(log: Log, seconds: float) -> HandClock:
    """A clock that shows so many seconds after the last append to the topic."""
    clock = HandClock()
    clock.time = max(batch.append_time for batch in log["work"].read()) + int(seconds * SECOND)
    return clock


def topic(log: Log, name: str = "work", clock: HandClock | None = None) -> TopicStatistics:
    return next(each for each in queue_statistics(log, clock=clock).topics if each.topic == name)


def group(log: Log, name: str = "group") -> GroupStatistics:
    return next(each for each in queue_statistics(log).groups if each.group == name)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    bell = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        bell.wait(0.02)
    raise AssertionError("it did not come true")


def client(log: Log, **facts: object) -> Client:
    """Somebody who is there for an hour, and tells this."""
    registration = Registration(LogBook(log), Client(**facts), 3600 * SECOND)
    registration.enter(SystemClock().now())
    known = registration.client
    registration.renew(
        SystemClock().now(), counters=known.counters, rates=facts.get("rates"), latency=facts.get("latency")
    )
    return registration.client


def test_an_empty_log_has_no_figures(log: Log) -> None:
    clock = HandClock()
    found = queue_statistics(log, clock=clock)
    assert (found.topics, found.groups) == ((), ())
    assert found.at.timestamp() * SECOND == clock.now()


def test_a_topics_figures_are_what_was_counted_by_hand(log: Log) -> None:
    message_topic(log, partitions=2)
    log.create_topic("_hidden", {"n": int}, internal=True).append([{"n": 1}])
    for partition in (0, 1):
        for _ in range(3):
            log["work"].append(rows([SENT] * 100), partition=partition)
    clock = HandClock()
    behind, ahead = member(log, 1, clock, group="behind"), member(log, 2, clock, group="ahead")
    behind.begin({0: 0, 1: 0})
    ahead.begin({0: 250, 1: 300})
    for lease in ahead.take(20):
        for message in lease.messages():
            message.ack()
        ahead.settle([lease])
    client(log, kind="subscriber", group="ahead", reads="shared", interest=Interest(("work",)))
    client(log, kind="consumer", reads="alone", interest=Interest(("w*",)))
    client(log, kind="consumer", reads="alone", interest=Interest(("other",)))
    client(log, kind="producer", interest=Interest(("other", "work")))
    [found] = queue_statistics(log).topics
    assert (found.topic, found.messages, found.backlog) == ("work", 600, 600)
    assert (found.consumers, found.producers) == (2, 1)
    assert found.bytes == sum(log["work"].sizes().values())
    assert found.per_second == 10.0
    assert (found.latency_p50, found.latency_p99) == (None, None)
    assert (group(log, "ahead").backlog, group(log, "behind").backlog) == (30, 600)
    assert (group(log, "ahead").consumers, group(log, "ahead").producers) == (1, 1)
    assert group(log, "ahead").bytes == found.bytes * 30 // 600


def test_the_speed_of_a_topic_is_that_of_the_last_minute(log: Log) -> None:
    message_topic(log)
    log["work"].append(rows([SENT] * 120))
    assert topic(log, clock=later(log, 0)).per_second == topic(log, clock=later(log, 50)).per_second == 2.0
    assert topic(log, clock=later(log, 70)).per_second == 0.0


def test_a_topic_without_groups_has_no_backlog(log: Log) -> None:
    message_topic(log)
    log["work"].append(rows([SENT]))
    assert topic(log).backlog is None
    log["work"].trim(1)
    assert (topic(log).messages, topic(log).bytes) == (0, 0)


def test_the_latencies_of_several_clients_are_those_of_all_their_messages(log: Log) -> None:
    chance = np.random.default_rng(5)
    message_topic(log)
    everything: list[int] = []
    for scale, count in ((1_000, 900), (50_000, 90), (3_000_000, 10)):
        durations = (chance.exponential(scale, count) + 1).astype(int).tolist()
        everything += durations
        latencies = Latencies()
        for duration in durations:
            latencies.add(duration)
        facts = {"rates": {"acknowledged": count / 60}, "latency": latencies.since({})}
        client(log, kind="subscriber", group="group", reads="shared", interest=Interest(("work",)), **facts)
    for found in (topic(log), group(log)):
        for told, share in ((found.latency_p50, 0.5), (found.latency_p99, 0.99)):
            exact = float(np.quantile(everything, share, method="inverted_cdf")) / 1e6
            assert told is not None and exact <= told <= exact * 1.26
    assert group(log).per_second == pytest.approx(1000 / 60)
    assert group(log).consumers == 3


def test_a_client_whose_lease_ended_does_not_count(log: Log) -> None:
    message_topic(log).append(rows([SENT]))
    client(log, kind="subscriber", reads="alone", interest=Interest(("work",)))
    client(log, kind="producer", interest=Interest(("work",)))
    assert (topic(log).consumers, topic(log).producers) == (1, 1)
    found = topic(log, clock=later(log, 7200))
    assert (found.consumers, found.producers) == (0, 0)


def test_the_group_of_a_job_has_a_backlog_too(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64}).append([{"n": 1}])
    pipeline = mamba.pipeline(
        "doubling", mamba.stream("numbers").select(double=pl.col("n") * 2).to("doubled")
    )
    mamba.run(pipeline, log=log, until="now")
    log["numbers"].append([{"n": 2}, {"n": 3}])
    assert group(log, "job.doubling").backlog == 2


# --- what clients tell


def test_a_members_rates_are_those_of_the_last_minute(log: Log) -> None:
    clock = HandClock()
    told = Member(LogBook(log), clock, kind="subscriber", lease="1h", renew="10m")
    latencies = Latencies()

    def minute(messages: int, seconds: int = 60) -> Client:
        """So many messages, evenly; and what the record says then."""
        nonlocal count
        for _ in range(seconds):
            clock.advance(1)
            count += messages / seconds
            latencies.add(1_000, times=max(1, int(messages / seconds)))
            told.report({"acknowledged": count, "latency_sum": count}, {"work": latencies})
        told.change(Interest(), "")
        return told.client

    count = 0.0
    assert minute(600).rates == {"acknowledged": pytest.approx(10, rel=0.05)}
    assert sum(told.client.latency.values()) == 600
    assert minute(60).rates == {"acknowledged": pytest.approx(1, rel=0.2)}
    assert sum(told.client.latency.values()) == pytest.approx(60, abs=10)
    # Who falls silent slows down, and comes to rest.
    clock.advance(30)
    told.change(Interest(), "")
    assert 0 < told.client.rates["acknowledged"] < 1
    clock.advance(60)
    told.change(Interest(), "")
    assert (told.client.rates, told.client.latency) == ({}, {})
    # A counter that begins anew does not run backwards.
    clock.advance(1)
    told.report({"acknowledged": 1})
    told.change(Interest(), "")
    assert told.client.rates.get("acknowledged", 0) >= 0
    told.close()


@pytest.mark.parametrize("topics", [2, 17])
def test_latencies_of_a_client_of_several_topics_are_told_by_topic_as_far_as_there_is_room(
    log: Log, topics: int
) -> None:
    names = ["slow", "quick", *(f"idle-{number}" for number in range(topics - 2))]
    for name in names:
        message_topic(log, name)
    took = {name: Latencies() for name in names}
    took["slow"].add(8_000_000, times=10)
    took["quick"].add(1_000, times=1_000)
    reader = Member(
        LogBook(log),
        SystemClock(),
        kind="subscriber",
        reads="alone",
        interest=Interest(("slow", "quick", "idle-*")),
    )
    reader.report({}, took)
    reader.change(Interest(("slow", "quick", "idle-*")), "alone")
    slow, quick = topic(log, "slow").latency_p99, topic(log, "quick").latency_p99
    assert slow is not None and quick is not None
    if topics == 2:
        assert 8 <= slow < 24
        assert 0.001 <= quick < 0.003
    else:
        assert slow == quick < 0.003
    reader.close()


def test_what_is_too_much_to_tell_costs_the_rates_not_the_lease(log: Log) -> None:
    clock = HandClock()
    told = Member(LogBook(log), clock, kind="subscriber", lease="1h", renew="10m", name="x" * 1_700)
    latencies = Latencies()
    for power in range(40):
        latencies.add(1 << power, times=100_000)
    clock.advance(5)
    told.report({"acknowledged": 5}, {"work": latencies})
    told.change(Interest(), "")
    assert (told.client.rates, told.client.latency) == ({}, {})
    assert told.client.counters == {"acknowledged": 5}
    told.close()


def test_many_buckets_become_few_wider_ones_that_still_bound_what_is_in_them() -> None:
    latencies = Latencies()
    durations = [int(1.1**power) + 1 for power in range(250)]
    for duration in durations:
        latencies.add(duration)
    few = latencies.since({}, most=48)
    assert len(few) <= 48
    assert sum(few.values()) == 250
    again = Latencies(few)
    for share in (0.1, 0.5, 0.9, 0.99, 1.0):
        exact = float(np.quantile(durations, share, method="inverted_cdf")) / 1e6
        assert exact <= again.quantile(share) <= exact * 2.6


def test_subscribers_and_producers_at_work_are_seen_from_another_process(
    log: Log, environment: dict[str, str]
) -> None:
    code = """
import sys
import mamba_stream as mamba
done = 0
with mamba.open(sys.argv[1]) as log, mamba.Producer(log) as producer:
    subscriber = mamba.Subscriber("work", log, group="group", start="earliest")
    def handle(message):
        global done
        done += 1
        producer.send("results", message.value)
    subscriber.subscribe(handle)
    print("here", flush=True)
    subscriber.run()
"""
    message_topic(log)
    message_topic(log, "results")
    command = [sys.executable, "-c", code, log.place]
    with forking.Process(command, env=environment, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"here\n"
            before = SystemClock().now()
            log["work"].append(rows([SENT] * 600))
            wait_for(lambda: log["results"].offsets()[0][1] == 600)
            # They tell within a few seconds.
            wait_for(lambda: group(log).latency_p99 is not None and topic(log, "results").producers == 1)
            found = group(log)
            assert (found.backlog, found.consumers, found.topics) == (0, 1, ("work",))
            assert found.per_second > 0
            assert found.latency_p50 is not None and found.latency_p99 is not None
            # None took longer than all of it, give or take what a bucket is wide.
            longest = (SystemClock().now() - before) / SECOND
            assert 0 < found.latency_p50 <= found.latency_p99 <= longest * 1.26
            work, results = topic(log), topic(log, "results")
            assert (work.consumers, work.producers, work.backlog, work.messages) == (1, 0, 0, 600)
            assert (results.consumers, results.backlog) == (0, None)
        finally:
            child.kill()
    wait_for(lambda: group(log).consumers == 0)


def test_a_producer_that_is_gone_in_a_moment_is_not_told_of(log: Log) -> None:
    with mamba.Producer(log) as producer:
        producer.create_topic("work")
        producer.send("work", "x").result()
        assert log.records("clients") == {}
    assert log.records("clients") == {}


def test_a_producer_tells_which_topics_it_sends_to_and_goes_when_it_is_closed(log: Log) -> None:
    with mamba.Producer(log) as producer:
        for name in ("a", "b"):
            producer.create_topic(name)
            producer.send(name, "x").result()
        wait_for(lambda: topic(log, "b").producers == 1)
        assert topic(log, "a").producers == 1
        [told] = alive(log.records(CLIENTS), SystemClock().now()).values()
        assert (told.kind, told.interest.topics, told.counters["sent"]) == ("producer", ("a", "b"), 2)
    assert topic(log, "b").producers == 0
