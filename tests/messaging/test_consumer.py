"""Consumers: what they receive, when it counts as done, and how a group shares its partitions."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import mamba_stream as mamba
from mamba_stream import Consumer, Log
from mamba_stream.errors import (
    ColumnNotFound,
    DiskFull,
    InvalidInput,
    InvalidName,
    MambaStreamError,
    PartitionNotFound,
    PreconditionFailed,
    StaleLease,
)
from mamba_stream.messaging import membership
from mamba_stream.messaging.members import CLIENTS, alive
from mamba_stream.messaging.schema import MESSAGES
from tests.messaging.desk import HandClock
from tests.messaging.receiving import messages
from tests.messaging.waits import Passing


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with mamba.open(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def letters(log: Log) -> mamba.Topic:
    """A message topic of two partitions: a to e in the first, v to z in the second."""
    topic = log.create_topic("letters", MESSAGES, partitions=2)
    topic.append(messages("abc"), partition=0)
    topic.append(messages("de"), partition=0)
    topic.append(messages("vwxyz"), partition=1)
    return topic


def values(consumer: Consumer, **arguments) -> list:
    return [message.value for message in consumer.consume(until="empty", **arguments)]


def eventually(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


class Only:
    """A filter rule as consumers know it: which rows of a batch have one of these values."""

    def __init__(self, *wanted: str) -> None:
        self._wanted = [each.encode() for each in wanted]

    def mask(self, batch: pa.RecordBatch) -> np.ndarray | None:
        return pc.is_in(batch.column("value"), pa.array(self._wanted, pa.large_binary())).to_numpy(
            zero_copy_only=False
        )


# --- alone


def test_everything_is_received_in_the_order_of_each_partition(log, letters):
    with Consumer(log) as consumer:
        consumer.subscribe("letters")
        received = [(m.partition, m.offset, m.value) for m in consumer.consume(until="empty")]
    assert sorted(received) == [(0, n, "abcde"[n]) for n in range(5)] + [(1, n, "vwxyz"[n]) for n in range(5)]
    assert [offset for partition, offset, _ in received if partition == 0] == [0, 1, 2, 3, 4]


def test_a_typed_topics_rows_are_dicts(log):
    log.create_topic("t", {"n": pl.Int64, "s": pl.String}).append([{"n": 1, "s": "x"}])
    with Consumer(log) as consumer:
        consumer.subscribe("t")
        assert values(consumer) == [{"n": 1, "s": "x"}]


def test_the_end_is_not_the_end_unless_told_so(log, letters):
    with Consumer(log) as consumer:
        consumer.subscribe("letters")
        received = consumer.consume()
        for _ in range(10):
            next(received)
        timer = threading.Timer(0.05, lambda: letters.append(messages(["late"])))
        timer.start()
        assert next(received).value == "late"
        timer.join()
        assert list(consumer.consume(timeout="10ms", max_messages=5)) != []


def test_a_topic_that_does_not_exist_yet_is_waited_for(log):
    with Consumer(log) as consumer:
        consumer.subscribe("soon")
        assert consumer.poll() == []
        assert values(consumer) == []
        timer = threading.Timer(0.02, lambda: log.create_topic("soon", MESSAGES).append(messages(["x"])))
        timer.start()
        assert next(consumer.consume()).value == "x"
        timer.join()


def test_new_topics_join_a_pattern_from_their_beginning(log):
    for pattern in ("orders.*", re.compile(r"orders[.]\w+"), ["orders.*", "other"]):
        log.create_topic("orders.eu", MESSAGES).append(messages(["old"]))
        log.create_topic("unrelated", MESSAGES, exist_ok=True).append(messages(["no"]))
        with Consumer(log, start="latest") as consumer:
            consumer.subscribe(pattern)
            assert values(consumer) == []
            log.create_topic("orders.us", MESSAGES).append(messages(["new"]))
            assert next(consumer.consume()).value == "new"
        log.delete_topic("orders.eu")
        log.delete_topic("orders.us")


def test_a_start_in_time_is_where_that_time_is_reached(log):
    topic = log.create_topic("t", {"at": pl.Datetime("us"), "n": pl.Int64}, time="at")
    topic.append([{"at": datetime(2026, 1, day), "n": day} for day in range(1, 6)])
    with Consumer(log, start=datetime(2026, 1, 3)) as consumer:
        consumer.subscribe("t")
        assert [value["n"] for value in values(consumer)] == [3, 4, 5]


def test_manual_assignment_reads_those_partitions_only(log, letters):
    with Consumer(log) as consumer:
        consumer.assign({"letters": [1]})
        assert values(consumer) == list("vwxyz")
        assert consumer.assignment() == [("letters", 1)]


def test_subscribing_again_replaces_what_was_read(log, letters):
    log.create_topic("other", MESSAGES).append(messages(["o"]))
    with Consumer(log) as consumer:
        consumer.subscribe("letters")
        assert len(values(consumer)) == 10
        consumer.subscribe("other")
        assert values(consumer) == ["o"]
        assert len(alive(log.records(CLIENTS), time.time_ns() // 1000)) == 1


@pytest.mark.parametrize("group", [None, "g"])
def test_a_topic_deleted_under_a_consumer_is_no_more_and_the_others_go_on(log, letters, group):
    other = log.create_topic("other", MESSAGES)
    other.append(messages(["o"]))
    with Consumer(log, group=group) as consumer:
        consumer.subscribe(["letters", "other"])
        assert len(values(consumer)) == 11
        log.delete_topic("letters")
        other.append(messages(["p"]))
        assert next(consumer.consume()).value == "p"
        log.create_topic("letters", MESSAGES).append(messages(["new"]))
        assert sorted(m.value for m in consumer.consume(max_messages=2)) == ["new", "p"]


@pytest.mark.parametrize("group", [None, "g"])
def test_a_deleted_topic_does_not_keep_a_loop_from_its_end(log, letters, group):
    log.create_topic("other", MESSAGES).append(messages(["o"]))
    with Consumer(log, group=group) as consumer:
        consumer.subscribe(["letters", "other"])
        assert len(values(consumer)) == 11
        log.delete_topic("letters")
        assert values(consumer) == []
        consumer.seek("earliest")
        assert consumer.assignment() == [("other", 0)]
        assert values(consumer) == ["o"]


def test_a_log_that_is_closed_first_is_no_trouble(tmp_path):
    log = mamba.open(tmp_path / "log")
    consumer = Consumer(log, group="g")
    consumer.subscribe("t")
    consumer.poll()
    log.close()
    consumer.close()


def test_rows_that_were_trimmed_away_are_counted_and_passed_over(log, letters):
    with Consumer(log, max_rows=1) as consumer:
        consumer.subscribe("letters")
        assert len(consumer.poll(max_messages=1)) == 1
        letters.trim({0: 4, 1: 4})
        assert sorted(values(consumer))[-2:] == ["e", "z"]
        facts = consumer.statistics()
        assert facts.received + facts.trimmed == 10


# --- what counts as done


def test_asking_for_the_next_acknowledges_the_one_before(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        received = consumer.consume()
        next(received)
        assert consumer.position() == {("letters", 0): 0}
        next(received)
        assert consumer.position() == {("letters", 0): 1}


@pytest.mark.parametrize("leave", ["break", "raise"])
def test_leaving_the_loop_does_not_acknowledge_the_one_at_hand(log, letters, leave):
    def work(consumer):
        for message in consumer.consume():
            if message.value == "c":
                if leave == "break":
                    break
                raise RuntimeError

    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        try:
            work(consumer)
        except RuntimeError:
            assert leave == "raise"
        again = consumer.poll()
        assert [(m.value, m.attempt) for m in again] == [("c", 2), ("d", 1), ("e", 1)]
    assert log.group_offsets("g") == {("letters", 0): 2}


def test_a_loop_that_comes_to_its_end_has_acknowledged_its_last_message(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        assert [m.value for m in consumer.consume(max_messages=5)] == list("abcde")
        assert sum(consumer.position().values()) == 5


def test_asking_again_acknowledges_what_was_polled(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        assert len(consumer.poll(max_messages=2)) == 2
        assert consumer.position() == {("letters", 0): 0}
        assert [m.value for m in consumer.poll(max_messages=2)] == ["c", "d"]
        assert consumer.position() == {("letters", 0): 2}
    assert log.group_offsets("g") == {("letters", 0): 2}


def test_a_poll_waits_for_the_first_message_and_no_longer_than_it_is_told(log):
    topic = log.create_topic("t", MESSAGES)
    with Consumer(log) as consumer:
        consumer.subscribe("t")
        assert consumer.poll("20ms") == []
        timer = threading.Timer(0.05, lambda: topic.append(messages(["x"])))
        timer.start()
        assert [m.value for m in consumer.poll("30s")] == ["x"]
        timer.join()


def test_the_position_moves_over_what_is_done_without_a_gap(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        a, b, c, d, _ = consumer.poll()
        b.ack()
        d.ack()
        assert consumer.position() == {("letters", 0): 0}
        a.ack()
        assert consumer.position() == {("letters", 0): 2}
        c.ack()
        assert consumer.position() == {("letters", 0): 4}
        consumer.commit()
        assert consumer.committed() == {("letters", 0): 4}


def test_messages_may_be_acknowledged_from_any_thread_in_any_order(log):
    log.create_topic("t", MESSAGES).append(messages(range(4_000)))
    with Consumer(log, group="g", commit="1ms") as consumer:
        consumer.subscribe("t")
        polled = consumer.poll(max_messages=4_000)

        def work(first: int) -> None:
            for message in reversed(polled[first::4]):
                message.ack()

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert consumer.position() == {("t", 0): 4_000}
        consumer.commit()
        assert consumer.committed() == {("t", 0): 4_000}


def test_an_ack_twice_is_refused(log, letters):
    with Consumer(log) as consumer:
        consumer.subscribe("letters")
        first, second, *_ = consumer.poll()
        second.ack()
        for message in (first, second):
            if message is first:
                message.ack()
            with pytest.raises(StaleLease, match="acknowledged before"):
                message.ack()
        for message in consumer.consume(until="empty"):
            message.ack()


def test_a_nack_delivers_again_from_that_message_on_and_keeps_those_before(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        a, b, c, *_ = consumer.poll()
        b.nack()
        with pytest.raises(StaleLease, match="to be delivered again"):
            c.ack()
        a.ack()
        assert [(m.value, m.attempt) for m in consumer.poll()] == [("b", 2), ("c", 2), ("d", 2), ("e", 2)]
        assert consumer.position() == {("letters", 0): 1}


def test_a_nack_in_the_loop_gives_the_same_message_next(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        received = []
        for message in consumer.consume(until="empty"):
            received.append((message.value, message.attempt))
            if message.value == "b" and message.attempt < 3:
                message.nack()
    assert received == [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("c", 1), ("d", 1), ("e", 1)]
    assert log.group_offsets("g") == {("letters", 0): 5}


def test_a_nack_with_a_delay_holds_its_partition_back_and_no_other(log, letters):
    clock = HandClock()
    with Consumer(Passing(log, clock), clock=clock) as consumer:
        consumer.subscribe("letters")
        received, times = [], []
        for message in consumer.consume(timeout="30s", max_messages=11):
            received.append(message.value)
            times.append(clock.now())
            if message.value == "a" and message.attempt == 1:
                message.nack("300ms")
    assert received in (["a", *"vwxyz", *"abcde"], [*"vwxyz", "a", *"abcde"])
    # Nothing else was waited for, and it no longer than until then.
    assert [at - times[0] for at in times] == [0] * 6 + [300_000] * 5


def test_a_seek_does_not_wait_for_a_delay_of_before(log, letters):
    with Consumer(log) as consumer:
        consumer.assign({"letters": [0]})
        consumer.poll(max_messages=2)[1].nack(delay="1h")
        assert consumer.poll() == []
        consumer.seek({("letters", 0): 3})
        assert [m.value for m in consumer.poll()] == ["d", "e"]


def test_rejecting_needs_shared_consumption_and_says_so(log, letters):
    with Consumer(log) as consumer:
        consumer.subscribe("letters")
        message = next(consumer.consume())
        with pytest.raises(InvalidInput, match="dead_letter="):
            message.reject("bad")
        message.extend("1m")


def test_acknowledged_messages_are_committed_by_time_not_by_message(log):
    topic = log.create_topic("t", MESSAGES)
    topic.append(messages(range(2_000)))
    with Consumer(log, group="g", commit="1h") as consumer:
        consumer.subscribe("t")
        for message in consumer.consume(until="empty"):
            if message.offset == 1_999:
                assert log.group_offsets("g") == {}
    assert log.group_offsets("g") == {("t", 0): 2_000}
    with Consumer(log, group="quick", commit="1us") as consumer:
        consumer.subscribe("t")
        received = consumer.consume()
        for _ in range(50):
            next(received)
        assert log.group_offsets("quick") == {("t", 0): 49}


@pytest.mark.parametrize("ask", ["consume", "poll"])
def test_who_sends_to_a_small_bounded_topic_does_not_wait_for_the_next_commit_by_time(log, ask):
    def receive() -> None:
        with Consumer(log, group="g", commit="1h") as consumer:
            consumer.subscribe("small")
            if ask == "consume":
                done.extend(message.value for message in consumer.consume(max_messages=6))
            while len(done) < 6:
                done.extend(message.value for message in consumer.poll("10ms"))

    done: list = []
    with mamba.Producer(log) as producer:
        producer.create_topic("small", 1, max_messages=2)
        thread = threading.Thread(target=receive)
        thread.start()
        for number in range(6):
            producer.send("small", number).result(timeout=60)
    thread.join()
    assert done == [*range(6)]


def test_what_is_done_in_topics_without_a_bound_is_committed_by_time_only(log, letters):
    with Consumer(log, group="g", commit="1h") as consumer:
        consumer.subscribe("letters")
        assert len(values(consumer)) == 10
        assert consumer.poll() == []
        assert log.group_offsets("g") == {}


def test_without_automatic_commits_only_asking_commits(log, letters):
    with Consumer(log, group="g", commit=None) as consumer:
        consumer.assign({"letters": [0]})
        polled = consumer.poll(max_messages=3)
        consumer.commit(polled[:2])
        assert consumer.committed() == {("letters", 0): 2}
        polled[2].ack()
    assert log.group_offsets("g") == {("letters", 0): 2}


def test_a_consumer_that_nobody_closes_leaves_when_it_is_forgotten(log, letters):
    consumer = Consumer(log, group="g")
    consumer.subscribe("letters")
    values(consumer)
    del consumer
    gc.collect()
    assert log.group_offsets("g") == {("letters", 0): 5, ("letters", 1): 5}
    assert log.records(CLIENTS) == {}


def test_a_forgotten_consumer_does_not_stop_a_thread_that_holds_the_logs_locks(log, letters, monkeypatch):
    monkeypatch.setattr("mamba_stream.messaging.consumer._FORGOTTEN", 0.05)
    consumer = Consumer(log, group="g")
    consumer.subscribe("letters")
    values(consumer)
    # Its thread is about to renew its lease, and collects garbage.
    with consumer._feed._member._turn:
        waiting, go = consumer._feed._member, threading.Event()
        close = waiting.close
        monkeypatch.setattr(waiting, "close", lambda: (go.wait(30), close()))
        del consumer
        gc.collect()
        go.set()
    eventually(lambda: log.records(CLIENTS) == {})
    assert log.group_offsets("g") == {("letters", 0): 5, ("letters", 1): 5}


def test_a_consumer_that_cannot_begin_to_read_leaves_no_member_behind(log, letters, monkeypatch):
    with Consumer(log, group="g") as consumer:
        with monkeypatch.context() as patched:
            patched.setattr("mamba_stream.messaging.consumer.Membership", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                consumer.subscribe("letters")
        assert log.records(CLIENTS) == {}
        consumer.subscribe("letters")
        assert len(values(consumer)) == 10


@pytest.mark.parametrize(
    "call", [lambda c: next(c.consume()), lambda c: c.poll()[0]], ids=["consume", "poll"]
)
def test_a_second_loop_ends_the_first_which_says_so(log, letters, call):
    with Consumer(log) as consumer:
        consumer.assign({"letters": [0]})
        outer = consumer.consume()
        next(outer).ack()
        assert next(outer).value == "b"
        assert call(consumer).value == "b"
        with pytest.raises(InvalidInput, match="one loop at a time"):
            next(outer)
        assert consumer.position() != {("letters", 0): 3}
        assert list(outer) == []


def test_what_was_polled_by_somebody_interrupted_is_not_done(log, letters, monkeypatch):
    with Consumer(log) as consumer:
        consumer.assign({"letters": [0]})
        take = consumer._feed.take

        def interrupted():
            if consumer._feed.lanes["letters", 0].portions:
                raise KeyboardInterrupt
            return take()

        monkeypatch.setattr(consumer._feed, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            consumer.poll()
        monkeypatch.undo()
        assert [m.value for m in consumer.poll()] == list("abcde")


# --- transactions


def test_a_transaction_commits_outputs_and_the_offset_together(log, letters):
    out = log.create_topic("out", {"s": pl.String})
    with Consumer(log, group="g", commit=None) as consumer:
        consumer.assign({"letters": [0]})
        for message in consumer.consume(until="empty"):
            with message.transaction() as tx:
                tx.append("out", [{"s": message.value.upper()}])
            assert log.group_offsets("g") == {("letters", 0): message.offset + 1}
    assert out.scan().collect()["s"].to_list() == list("ABCDE")


def test_a_transaction_that_fails_commits_nothing_and_the_message_comes_again(log, letters):
    out = log.create_topic("out", {"s": pl.String})
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        with pytest.raises(ZeroDivisionError):
            for message in consumer.consume():
                with message.transaction() as tx:
                    tx.append("out", [{"s": "no"}])
                    1 / 0  # noqa: B018
        assert next(consumer.consume()).value == "a"
        with pytest.raises(PreconditionFailed):
            for message in consumer.consume():
                with message.transaction() as tx:
                    tx.require_record("x", "y", b"not there")
    assert out.offsets() == {0: (0, 0)}
    assert log.group_offsets("g") == {("letters", 0): 0}


def test_a_transaction_out_of_order_is_refused(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.assign({"letters": [0]})
        first, second, *_ = consumer.poll()
        with pytest.raises(InvalidInput, match="before it are not done"), second.transaction():
            pass
        with pytest.raises(StaleLease, match="acknowledged before"), first.transaction():
            first.ack()


def test_a_consumer_that_lost_its_partition_cannot_commit_a_transaction(log, letters):
    out = log.create_topic("out", {"s": pl.String})
    with Consumer(log, group="g") as slow:
        slow.assign({"letters": [0]})
        received = slow.consume()
        message = next(received)
        steal(log, "g", letters.number, 0)
        with pytest.raises(StaleLease, match="another consumer"), message.transaction() as tx:
            tx.append("out", [{"s": "twice"}])
        with pytest.raises(StaleLease):
            message.ack()
    assert out.offsets() == {0: (0, 0)}
    assert log.group_offsets("g") == {}


def steal(log: Log, group: str, topic: int, partition: int) -> None:
    """As if the lease of the owner had ended, and somebody else had taken its partition."""
    from mamba_stream.messaging.books import LogBook
    from mamba_stream.messaging.interest import Interest
    from mamba_stream.messaging.membership import LogTopics, Membership

    for client in alive(log.records(CLIENTS), time.time_ns() // 1000):
        with log.transaction() as tx:
            tx.delete_record(CLIENTS, client)
    name = next(name for name in log.topics() if log[name].number == topic)
    other = Membership(LogBook(log), LogTopics(log), group, "other")
    other.step(0, Interest((name,)), lambda slot: None, [(name, partition)])
    assert other.owned == {(topic, partition)}


# --- groups


def test_a_new_group_starts_at_the_earliest_and_goes_on_where_it_was(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.subscribe("letters")
        assert sorted(values(consumer)) == sorted("abcdevwxyz")
    letters.append(messages(["f"]), partition=0)
    with Consumer(log, group="g", start="earliest") as consumer:
        consumer.subscribe("letters")
        assert values(consumer) == ["f"]


def test_where_a_group_began_does_not_move_although_nothing_came(log, letters):
    with Consumer(log, group="g", start="latest") as consumer:
        consumer.subscribe("letters")
        assert values(consumer) == []
        assert log.group_offsets("g") == {("letters", 0): 5, ("letters", 1): 5}


def test_a_topic_that_came_later_is_read_from_its_beginning_by_whoever_comes_after_a_crash(log, letters):
    def member() -> Consumer:
        consumer = Consumer(log, group="g", start="latest", commit=None)
        consumer.subscribe(["letters", "later"])
        return consumer

    with member() as first:
        assert values(first) == []
        log.create_topic("later", MESSAGES).append(messages("ab"))
        first._feed.look_soon()
        assert values(first) == ["a", "b"]
    # As one that was killed, it has committed nothing of what it did.
    with member() as second:
        assert values(second) == ["a", "b"]


def test_partitions_are_divided_and_handed_over_with_their_offsets(log):
    topic = log.create_topic("t", MESSAGES, partitions=4)
    for partition in range(4):
        topic.append(messages([f"{partition}/{n}" for n in range(10)]), partition=partition)
    with Consumer(log, group="g") as one:
        one.subscribe("t")
        first = values(one)
        assert len(first) == 40
        with Consumer(log, group="g") as two:
            two.subscribe("t")
            eventually(lambda: [len(each.poll()) or len(each.assignment()) for each in (one, two)] == [2, 2])
            assert not set(one.assignment()) & set(two.assignment())
            for partition in range(4):
                topic.append(messages([f"{partition}/10"]), partition=partition)
            assert sorted(values(one) + values(two)) == [f"{partition}/10" for partition in range(4)]
        eventually(lambda: one.poll() or len(one.assignment()) == 4)
        assert one.statistics().taken == 0
    assert log.group_offsets("g") == {("t", partition): 11 for partition in range(4)}


def test_in_the_middle_of_a_loop_a_partition_is_given_up_between_two_messages(log):
    topic = log.create_topic("t", MESSAGES, partitions=2)
    for partition in range(2):
        topic.append(messages(range(5_000)), partition=partition)
    with Consumer(log, group="g") as one, Consumer(log, group="g") as two:
        one.subscribe("t")
        received = one.consume()
        mine = [next(received)]
        two.subscribe("t")
        theirs: list = []
        while not theirs:
            one._feed.look_soon()
            mine.append(next(received))
            theirs += two.poll(max_messages=1)
        place = (theirs[0].topic, theirs[0].partition)
        done = [message.offset for message in mine if message.partition == place[1]]
        assert theirs[0].offset == (max(done) + 1 if done else 0), (
            "it goes on exactly where the first one stopped"
        )
        assert place not in one.assignment()


def test_a_consumer_that_stalls_loses_its_partitions_and_is_refused_when_it_comes_back(log, letters):
    with Consumer(log, group="g", session_timeout="200ms", max_poll_interval="100ms") as slow:
        slow.assign({"letters": [0]})
        polled = slow.poll(max_messages=3)
        with Consumer(log, group="g") as other:
            other.assign({"letters": [0]})
            received = other.poll("30s")
            assert [m.value for m in received] == list("abcde")
            with pytest.raises(StaleLease, match="letters/0"):
                slow.commit(polled[:2])
            with pytest.raises(StaleLease, match="belongs to another consumer now"):
                polled[2].ack()
            assert slow.poll() == []
            assert slow.statistics().taken == 1
            other.commit(received)
        assert [m.value for m in slow.poll("100ms")] == []
    assert log.group_offsets("g") == {("letters", 0): 5}


@pytest.mark.parametrize("then", ["reads", "commits", "leaves"])
def test_what_others_did_meanwhile_is_not_done_again_where_a_look_around_fails_halfway(
    log, letters, monkeypatch, then
):
    with Consumer(log, group="g") as stalled:
        stalled.assign({"letters": [0]})
        assert [m.value for m in stalled.poll(max_messages=2)] == ["a", "b"]
        first = next(stalled.consume())
        steal(log, "g", letters.number, 0)
        with log.transaction() as tx:
            tx.commit_offsets("g", {("letters", 0): 4})
        # The other one is gone by now: the partition is taken back, and then the disk is full.
        monkeypatch.setattr(membership, "sweep", full)
        stalled._feed.look_soon()
        with pytest.raises(DiskFull):
            stalled.assignment()
        monkeypatch.undo()
        assert stalled._feed._membership.owned == {(letters.number, 0)}
        if then == "commits":
            with pytest.raises(StaleLease, match="letters/0"), first.transaction():
                pass
            with pytest.raises(StaleLease, match="another consumer"):
                first.ack()
        if then != "leaves":
            stalled._feed.look_soon()
            assert [m.value for m in stalled.poll()] == ["e"]
    assert log.group_offsets("g") == {("letters", 0): 4}


def full(*_: object) -> None:
    raise DiskFull("no space left")


def test_one_that_is_overtaken_before_it_knows_where_to_begin_can_commit_nothing(log, letters, monkeypatch):
    """It begins where the other one has come: nothing was passed over, though its generation is the lower one."""
    offsets = log.group_offsets

    def overtaken(group):
        monkeypatch.undo()
        steal(log, "g", letters.number, 0)
        with log.transaction() as tx:
            tx.commit_offsets("g", {("letters", 0): 3})
        return offsets(group)

    with Consumer(log, group="g") as slow:
        slow.assign({"letters": [0]})
        monkeypatch.setattr(log, "group_offsets", overtaken)
        assert [m.value for m in slow.poll()] == ["d", "e"]
        assert slow._feed._membership.generation((letters.number, 0)) == 1
        with pytest.raises(StaleLease):
            slow.commit(slow.poll())
    assert log.group_offsets("g") == {("letters", 0): 3}


def test_one_that_stalls_and_whom_nobody_replaced_goes_on_as_if_nothing_had_been(log, letters):
    with Consumer(log, group="g", session_timeout="50ms", max_poll_interval="50ms") as consumer:
        consumer.assign({"letters": [0]})
        received = consumer.consume()
        assert next(received).value == "a"
        eventually(lambda: not log.records(CLIENTS))
        assert [next(received).value for _ in range(4)] == list("bcde")
        assert consumer.statistics().taken == 0
    assert log.group_offsets("g") == {("letters", 0): 4}


def test_a_slow_handler_is_not_taken_for_stuck_while_it_goes_on(log):
    log.create_topic("t", MESSAGES).append(messages(range(10)))
    clock = HandClock()
    with Consumer(log, group="g", session_timeout="40ms", max_poll_interval="400ms", clock=clock) as consumer:
        consumer.subscribe("t")
        for _ in consumer.consume(until="empty"):
            clock.advance(0.3)
            # Whoever looks after its lease has seen how late it is.
            eventually(lambda: consumer._feed._member.client.until > clock.now() or not log.records(CLIENTS))
            assert len(log.records(CLIENTS)) == 1
        assert consumer.statistics().taken == 0


# --- going elsewhere


def test_seeking_by_offset_by_word_and_by_time(log):
    topic = log.create_topic("t", {"at": pl.Datetime("us"), "n": pl.Int64}, time="at", partitions=2)
    for partition in range(2):
        topic.append([{"at": datetime(2026, 1, day), "n": day} for day in range(1, 6)], partition=partition)
    with Consumer(log, group="g") as consumer:
        consumer.subscribe("t")
        assert len(values(consumer)) == 10
        consumer.seek({("t", 1): 3})
        assert [value["n"] for value in values(consumer)] == [4, 5]
        consumer.seek("earliest")
        assert len(values(consumer)) == 10
        consumer.seek(datetime(2026, 1, 4, tzinfo=UTC))
        assert consumer.position() == {("t", 0): 3, ("t", 1): 3}
        consumer.commit()
        assert consumer.committed() == {("t", 0): 3, ("t", 1): 3}
        consumer.seek("latest")
        assert values(consumer) == []
        for wrong in (6, -1):
            with pytest.raises(InvalidInput):
                consumer.seek({("t", 1): wrong})
        with pytest.raises(PartitionNotFound, match="it reads t/0, t/1"):
            consumer.seek({("t", 2): 0})


def test_what_was_at_hand_before_a_seek_cannot_be_acknowledged(log, letters):
    with Consumer(log) as consumer:
        consumer.assign({"letters": [0]})
        first, *_ = consumer.poll(max_messages=2)
        consumer.seek({("letters", 0): 4})
        with pytest.raises(StaleLease, match="went elsewhere"):
            first.ack()
        received = []
        for message in consumer.consume(until="empty"):
            received.append(message.value)
            if received == ["e"]:
                consumer.seek({("letters", 0): 3})
        assert received == ["e", "d", "e"]


def test_paused_partitions_are_kept_and_give_nothing_until_resumed(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.subscribe("letters")
        consumer.pause([("letters", 0)])
        assert values(consumer) == list("vwxyz")
        assert len(consumer.assignment()) == 2
        consumer.resume()
        received = []
        for message in consumer.consume(until="empty"):
            received.append(message.value)
            if message.value == "c":
                consumer.pause()
        assert received == list("abc")
        consumer.resume()
        assert values(consumer) == list("de")


def test_what_comes_after_everything_was_paused_is_paused_too(log):
    log.create_topic("orders.eu", MESSAGES).append(messages("a"))
    with Consumer(log) as consumer:
        consumer.subscribe("orders.*")
        consumer.pause()
        log.create_topic("orders.us", MESSAGES).append(messages("b"))
        consumer._feed.look_soon()
        assert values(consumer) == []
        assert len(consumer.assignment()) == 2
        consumer.resume([("orders.us", 0)])
        assert values(consumer) == ["b"]
        consumer.resume()
        assert values(consumer) == ["a"]


def test_a_partition_that_was_paused_and_went_is_not_paused_when_it_comes_back_after_a_resume(log):
    topic = log.create_topic("t", MESSAGES, partitions=2)
    with Consumer(log, group="g") as one:
        one.subscribe("t")
        one.pause(one.assignment())
        with Consumer(log, group="g") as two:
            two.subscribe("t")
            eventually(lambda: not one.poll() and two.poll("1ms") == [] and len(two.assignment()) == 1)
            one.resume()
        eventually(lambda: one.poll() == [] and len(one.assignment()) == 2)
        for partition in range(2):
            topic.append(messages([partition]), partition=partition)
        assert sorted(values(one)) == [0, 1]


# --- filters


def test_rows_that_a_rule_fails_on_are_not_passed_over(log, letters):
    class Fails(Only):
        failed = False

        def mask(self, batch):
            if b"d" in batch.column("value").to_pylist() and not self.failed:
                self.failed = True
                raise ZeroDivisionError

    with Consumer(log, group="g", max_rows=1) as consumer:
        consumer.set_filter_rule(Fails())
        consumer.assign({"letters": [0]})
        received = []
        with pytest.raises(ZeroDivisionError):
            received.extend(m.value for m in consumer.consume())
        assert consumer.position() == {("letters", 0): 3}
        assert values(consumer) == list("de")


@pytest.fixture
def readings(log: Log) -> mamba.Topic:
    topic = log.create_topic("readings.cellar", {"degrees": pl.Float64})
    topic.append([{"degrees": degrees} for degrees in (11.5, 21.0)])
    return topic


WARM = mamba.FilterRule().add_condition("degrees", 20, op=">", on="column")
TYPO = mamba.FilterRule().add_condition("degree", 20, op=">", on="column")
UNJUDGED = (
    "topic 'readings.cellar': the rule .*'degree'.*no such column, did you mean 'degrees'.*Correct the rule"
)


@pytest.mark.parametrize("shared", [False, True])
def test_a_rule_that_cannot_judge_a_named_topic_is_refused_where_it_is_subscribed_to(log, readings, shared):
    with Consumer(log, group="g", shared=shared) as consumer:
        consumer.set_filter_rule(TYPO)
        with pytest.raises(ColumnNotFound, match=UNJUDGED):
            consumer.subscribe("readings.cellar")
        consumer.set_filter_rule(WARM)
        consumer.subscribe("readings.cellar")
        assert values(consumer) == [{"degrees": 21.0}]


def test_a_rule_that_cannot_judge_what_is_read_is_refused_where_it_is_set_and_the_one_before_holds(
    log, readings
):
    with Consumer(log) as consumer:
        consumer.set_filter_rule(WARM)
        consumer.subscribe("readings.*")
        assert values(consumer) == [{"degrees": 21.0}]
        with pytest.raises(ColumnNotFound, match=UNJUDGED):
            consumer.set_filter_rule(TYPO)
        readings.append([{"degrees": 9.0}, {"degrees": 30.0}])
        assert values(consumer) == [{"degrees": 30.0}]


@pytest.mark.parametrize("shared", [False, True])
def test_a_named_topic_that_comes_and_cannot_be_judged_is_an_error_until_it_goes(log, letters, shared):
    with Consumer(log, group="g", shared=shared) as consumer:
        consumer.set_filter_rule(mamba.FilterRule().add_condition("priority", 0, on="column"))
        consumer.subscribe(["letters", "later"])
        assert len(values(consumer)) == 10
        log.create_topic("later", {"n": pl.Int64}).append([{"n": 1}])
        for _ in range(2):
            with pytest.raises(ColumnNotFound, match="topic 'later'.*'priority'"):
                eventually(consumer.poll)
        log.delete_topic("later")
        letters.append(messages(["f"]), partition=0)
        assert values(consumer) == ["f"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_topic_that_only_a_pattern_matches_and_that_cannot_be_judged_is_left_out_with_a_warning(
    log, readings, shared, caplog
):
    log.create_topic("readings.log", MESSAGES).append(messages(["a stranger"]))
    with Consumer(log, group="g", shared=shared) as consumer:
        consumer.set_filter_rule(WARM)
        consumer.subscribe("readings.*")
        assert values(consumer) == [{"degrees": 21.0}]
        readings.append([{"degrees": 22.0}])
        assert values(consumer) == [{"degrees": 22.0}]
        assert [r.getMessage().count("'readings.log'") for r in caplog.records] == [1]
        if not shared:
            assert consumer.assignment() == [("readings.cellar", 0)]
            assert consumer.statistics().rebalances == 1
            # A rule that judges both has both.
            consumer.set_filter_rule(None)
            assert values(consumer) == ["a stranger"]


def test_rows_that_a_rule_does_not_accept_never_become_messages_and_count_as_done(log, letters):
    with Consumer(log, group="g") as consumer:
        consumer.set_filter_rule(Only("b", "y"))
        consumer.subscribe("letters")
        assert sorted(values(consumer)) == ["b", "y"]
        assert consumer.statistics().filtered == 8
    assert log.group_offsets("g") == {("letters", 0): 5, ("letters", 1): 5}


def test_a_rule_set_on_the_way_holds_from_the_next_message_on(log, letters):
    with Consumer(log) as consumer:
        consumer.assign({"letters": [0]})
        received = []
        for message in consumer.consume(until="empty"):
            received.append((message.offset, message.value))
            consumer.set_filter_rule(Only("e"))
        assert received == [(0, "a"), (4, "e")]
        consumer.set_filter_rule(None)
        consumer.seek("earliest")
        assert len(values(consumer)) == 5


# --- facts, and what is refused


def test_its_record_tells_who_it_is_and_what_it_did(log, letters):
    with Consumer(log, group="g", name="mailer", session_timeout="30ms") as consumer:
        consumer.subscribe("letters")
        values(consumer)
        facts = consumer.statistics()
        assert (facts.received, facts.acknowledged, facts.rebalances) == (10, 10, 1)
        assert facts.latency["latency_count"] == 10
        consumer._feed._report()

        def told():
            found[:] = alive(log.records(CLIENTS), time.time_ns() // 1000).values()
            return found and found[0].counters.get("acknowledged") == 10

        found = []
        eventually(told)
        (client,) = found
        assert (client.kind, client.name, client.group, client.reads) == (
            "consumer",
            "mailer",
            "g",
            "balanced",
        )
        assert client.interest.topics == ("letters",)
        assert client.counters["received"] == 10 and client.counters["p99"] > 0


def test_a_directory_will_do_and_is_closed_with_the_consumer(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("t", MESSAGES).append(messages(["x"]))
    with Consumer(tmp_path / "log") as consumer:
        consumer.subscribe("t")
        assert values(consumer) == ["x"]
    consumer.close()
    with pytest.raises(MambaStreamError, match="closed"):
        consumer.poll()


def test_a_loop_ends_when_its_consumer_is_closed_in_it(log, letters):
    consumer = Consumer(log, group="g")
    consumer.subscribe("letters")
    received = []
    for message in consumer.consume():
        received.append(message)
        consumer.close()
    assert len(received) == 1
    with pytest.raises(StaleLease):
        received[0].ack()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": "newest"}, "choose 'earliest'"),
        ({"start": 3}, "choose 'earliest'"),
        ({"commit": 1}, "commit has no unit"),
        ({"max_rows": 0}, "from 1 on"),
        ({"session_timeout": "0s"}, "longer than nothing"),
        ({"max_poll_interval": "soon"}, "not a duration"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(log, arguments, words):
    with pytest.raises(InvalidInput, match=words):
        Consumer(log, **arguments)


def test_what_cannot_be_asked_for_is_refused_in_words(log, letters):
    with pytest.raises(InvalidName):
        Consumer(log, group="a b")
    with pytest.raises(InvalidName, match="longer than 150"):
        Consumer(log, group="g" * 151)
    with Consumer(log) as consumer:
        with pytest.raises(InvalidInput, match="subscribe"):
            consumer.poll()
        for wrong, words in [
            ([], "at least one"),
            (3, "names no topic"),
            ("a b", "contains"),
            ([3], "is a str"),
        ]:
            with pytest.raises(InvalidInput, match=words):
                consumer.subscribe(wrong)
        with pytest.raises(InvalidInput, match="too many"):
            consumer.subscribe([f"topic-with-a-long-name-{number}" for number in range(100)])
        with pytest.raises(PartitionNotFound, match="no partition 2"):
            consumer.assign({"letters": [2]})
        for wrong in ({}, "letters", {"letters": ["0"]}):
            with pytest.raises(InvalidInput):
                consumer.assign(wrong)
        consumer.subscribe("letters")
        with pytest.raises(InvalidInput, match="needs a group"):
            consumer.commit()
        for arguments in ({"until": "later"}, {"max_messages": 0}, {"timeout": 1}):
            with pytest.raises(InvalidInput):
                consumer.consume(**arguments)


def test_batches_of_a_million_rows_are_decoded_a_piece_at_a_time(log):
    topic = log.create_topic("t", {"n": pl.Int64})
    topic.append(pl.DataFrame({"n": range(50_000)}))
    with Consumer(log) as consumer:
        consumer.subscribe("t")
        sizes = set()
        total = 0
        for message in consumer.consume(until="empty"):
            sizes.add(message._block.data.num_rows)
            total += message.value["n"]
    assert total == sum(range(50_000))
    assert max(sizes) <= 8192
