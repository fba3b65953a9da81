"""Bounded topics: what they hold at most, what counts as consumed, and what happens to what comes beyond."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream import InvalidInput, NotCommitted, Producer, QueueFull
from mamba_stream.log import Log, Topic, open_log
from mamba_stream.messaging import bounds
from mamba_stream.messaging.pending import Pending, bits_of, pack
from mamba_stream.messaging.schema import MESSAGES, TIME
from tests import forking
from tests.messaging.flaky import until
from tests.messaging.test_producer import rows


def commit(log: Log, group: str, topic: str, **offsets: int) -> None:
    with log.transaction() as tx:
        tx.commit_offsets(group, {(topic, int(p[1:])): offset for p, offset in offsets.items()})


def held(log: Log, topic: str = "t") -> int:
    """How many messages some group still needs."""
    done = bounds.consumed(log, log[topic])
    return sum(end - done[p] for p, (_, end) in log[topic].offsets().items())


def share(log: Log, topic: Topic, group: str, cursors: dict[str, int], runs: list[Pending]) -> None:
    with log.transaction() as tx:
        tx.put_record(bounds.groups_namespace(topic), group, b"1")
        for key, cursor in cursors.items():
            tx.put_record(f"cursor/{group}/{topic.number}", key, msgpack.packb([cursor, 0]))
        for number, run in enumerate(runs):
            tx.put_record(f"pending/{group}/{topic.number}", f"{number:016x}.0", pack(run))


@pytest.fixture
def producer(log: Log) -> Any:
    with Producer(log, linger="1h") as found:
        yield found


# --- what is consumed ------------------------------------------------------------------------------------------------


def test_without_a_group_nothing_is_consumed(log: Log, producer: Producer):
    topic = producer.create_topic("t", 2)
    producer.send_many("t", ["x"] * 10, partition=0).result()
    assert bounds.consumed(log, topic) == {0: 0, 1: 0}


def test_what_all_groups_of_consumers_have_passed_is_consumed(log: Log, producer: Producer):
    topic = producer.create_topic("t", 2)
    producer.create_topic("other", 2)
    for partition in (0, 1):
        producer.send_many("t", ["x"] * 10, partition=partition).result()
    commit(log, "a", "t", p0=7, p1=3)
    assert bounds.consumed(log, topic) == {0: 7, 1: 3}
    commit(log, "b", "t", p0=4)
    assert bounds.consumed(log, topic) == {0: 4, 1: 0}
    commit(log, "c", "other", p0=0)
    assert bounds.consumed(log, topic) == {0: 4, 1: 0}
    topic.trim({0: 5})
    assert bounds.consumed(log, topic) == {0: 5, 1: 0}


def test_what_a_sharing_group_has_open_is_not_consumed(log: Log, producer: Producer):
    topic = producer.create_topic("t", 2)
    for partition in (0, 1):
        producer.send_many("t", ["x"] * 20, partition=partition).result()
    share(log, topic, "g", {"0.0": 15}, [])
    assert bounds.consumed(log, topic) == {0: 15, 1: 0}
    offsets = np.array([6, 9], np.int64)
    share(log, topic, "g", {"1.0": 20}, [Pending(0, 4, bits_of(offsets, 4), 1), Pending(1, 0, b"", 1)])
    assert bounds.consumed(log, topic) == {0: 6, 1: 20}
    commit(log, "a", "t", p0=20, p1=2)
    assert bounds.consumed(log, topic) == {0: 6, 1: 2}


def test_a_priority_that_a_group_has_not_begun_is_not_consumed(log: Log, producer: Producer):
    topic = producer.create_topic("t", 1)
    producer.send_many("t", ["x"] * 10).result()
    producer.send("t", "urgent", priority=5).result()
    producer.send_many("t", ["x"] * 9).result()
    share(log, topic, "g", {"0.0": 20}, [])
    assert bounds.consumed(log, topic) == {0: 10}
    share(log, topic, "g", {"0.5": 18}, [])
    assert bounds.consumed(log, topic) == {0: 18}


def test_groups_of_another_kind_can_be_counted(log: Log, producer: Producer):
    topic = producer.create_topic("t", 1)
    producer.send_many("t", ["x"] * 10).result()
    assert bounds.consumed(log, topic, floors=(lambda log, topic: [{0: 3}, {0: 8}],)) == {0: 3}


# --- reject ----------------------------------------------------------------------------------------------------------


def test_a_topic_that_rejects_takes_what_fits_and_says_so_of_the_rest(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=5, when_full="reject")
    sent = [producer.send("t", n) for n in range(8)]
    assert [handle.exception(30) is None for handle in sent] == [True] * 5 + [False] * 3
    with pytest.raises(QueueFull, match="holds at most 5 messages, and rejects"):
        sent[6].result()
    producer.flush()
    commit(log, "g", "t", p0=2)
    assert producer.send("t", 8).result().offset == 5
    assert producer.send("t", 9).result().offset == 6
    with pytest.raises(QueueFull):
        producer.send("t", 10).result()
    assert log["t"].offsets() == {0: (2, 7)}
    assert issubclass(QueueFull, NotCommitted)


def test_a_bound_that_comes_while_somebody_sends_holds_from_then_on(log: Log, producer: Producer):
    topic = producer.create_topic("t")
    assert producer.send_many("t", ["1", "2"]).result() and producer.send("t", "3").result()
    bounds.write(log, topic, bounds.Bound(4, None, "reject"))
    assert producer.send("t", "4").result()
    with pytest.raises(QueueFull, match="holds at most 4 messages"):
        producer.send("t", "5").result()
    with pytest.raises(QueueFull), producer.transaction() as tx:
        tx.send("t", "6")
    bounds.write(log, topic, None)
    assert producer.send("t", "7").result()
    assert held(log) == 5


def test_a_full_topic_is_heard_of_at_the_next_send_too(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=1, when_full="reject")
    producer.send_many("t", ["a", "b", "c"])
    with pytest.raises(QueueFull, match="2 messages were not taken"):
        producer.flush()
    producer.flush()


def test_a_transaction_fits_whole_or_not_at_all(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=3, when_full="reject")
    producer.create_topic("other", 1)
    producer.send("t", 0).result()
    with pytest.raises(QueueFull), producer.transaction() as tx:
        tx.send_many("t", [1, 2, 3])
        tx.send("other", "x")
    assert [row["value"] for row in rows(log)] == [0]
    assert log["other"].offsets() == {0: (0, 0)}
    with producer.transaction() as tx:
        tx.send_many("t", [1, 2])
    assert held(log) == 3


def test_other_topics_do_not_suffer(log: Log, producer: Producer):
    producer.create_topic("full", 1, max_messages=1, when_full="reject")
    producer.create_topic("t", 1)
    producer.send("full", 0).result()
    refused, taken = producer.send("full", 1), producer.send("t", 1)
    assert taken.result().offset == 0
    assert isinstance(refused.exception(), QueueFull)


# --- block -----------------------------------------------------------------------------------------------------------


def test_a_topic_that_blocks_lets_messages_wait_in_order_while_others_go_on(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=3)
    producer.create_topic("other", 1)
    sent = [producer.send("t", n) for n in range(5)]
    assert sent[2].result(30).offset == 2
    assert producer.send("other", "x").result(30).offset == 0
    more = [producer.send("t", n) for n in range(5, 8)]
    assert producer.send("other", "y").result(30).offset == 1
    assert not sent[3].done() and held(log) == 3
    for offset in range(1, 6):
        commit(log, "g", "t", p0=offset)
        until(lambda offset=offset: log["t"].offsets()[0][1] == offset + 3, log)
        assert held(log) == 3
    assert [handle.result(30).offset for handle in (*sent, *more)] == list(range(8))
    assert [row["value"] for row in rows(log)] == [5, 6, 7] or log["t"].offsets()[0][0] <= 5


def test_a_transaction_waits_for_room_too(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=3)
    producer.send_many("t", [0, 1]).result()
    done = threading.Event()

    def transact() -> None:
        with producer.transaction() as tx:
            tx.send_many("t", [2, 3])
        done.set()

    thread = threading.Thread(target=transact)
    thread.start()
    until(lambda: producer._outbox._waiting, log)
    assert not done.is_set() and held(log) == 2
    commit(log, "g", "t", p0=1)
    assert done.wait(30)
    thread.join()
    assert held(log) == 3


def test_what_can_never_fit_is_refused_rather_than_waited_for(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=3)
    with pytest.raises(QueueFull, match="can never fit"), producer.transaction() as tx:
        tx.send_many("t", [1, 2, 3, 4])
    producer.create_topic("small", 1, max_bytes=100)
    with pytest.raises(QueueFull, match="can never fit"):
        producer.send("small", b"x" * 1000).result()


@settings(max_examples=15)
@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.sampled_from(["block", "reject"]),
)
def test_a_bound_is_kept_among_producers_that_send_at_once(most: int, sizes: list[int], when_full: Any):
    import tempfile

    with tempfile.TemporaryDirectory() as place, open_log(place) as log:
        with Producer(log) as first:
            first.create_topic("t", 2, max_messages=most, when_full=when_full)
        commit(log, "g", "t", p0=0, p1=0)
        producers = [Producer(log, linger="0s") for _ in range(3)]
        over = threading.Event()
        worst = []

        def consume() -> None:
            lsn = -1
            while not over.is_set():
                worst.append(held(log))
                ends = log["t"].offsets()
                if any(end > begin for begin, end in ends.values()):
                    commit(log, "g", "t", **{f"p{p}": end for p, (_, end) in ends.items()})
                lsn = log.wait(lsn, 0.02)

        consumer = threading.Thread(target=consume)
        consumer.start()
        sent = []
        for k, size in enumerate(sizes):
            for who, sender in enumerate(producers):
                # An earlier one that was refused is heard of here, and says nothing of this one.
                with contextlib.suppress(QueueFull):
                    sender.flush()
                sent.append(sender.send_many("t", [[who, k, n] for n in range(size)]))
        failed = [handle.exception(60) for handle in sent]
        over.set()
        consumer.join()
        for producer in producers:
            producer.close()
        assert max(worst) <= most
        assert all(isinstance(error, QueueFull) for error in failed if error is not None)
        if when_full == "block":
            assert not any(failed)
            assert sum(end for _, end in log["t"].offsets().values()) == 3 * sum(sizes)


def test_a_script_that_ends_while_its_topic_is_full_waits_and_says_so(
    log: Log, producer: Producer, environment: dict[str, str]
):
    producer.create_topic("t", 1, max_messages=1)
    script = """
import sys
import mamba_stream as mamba
producer = mamba.Producer(sys.argv[1])
producer.send("t", 1)
producer.send("t", 2)
"""
    process = forking.Process(
        [sys.executable, "-W", "error", "-c", script, log.place],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert "1 messages wait for room in topic 't'" in process.stderr.readline()
        commit(log, "g", "t", p0=1)
        assert process.wait(30) == 0
    assert log["t"].offsets()[0][1] == 2


# --- drop the oldest -------------------------------------------------------------------------------------------------


def test_a_topic_that_drops_the_oldest_holds_the_newest(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_messages=5, when_full="drop_oldest")
    for n in range(4):
        producer.send_many("t", [n * 3, n * 3 + 1, n * 3 + 2]).result()
    assert [row["value"] for row in rows(log)] == [7, 8, 9, 10, 11]
    producer.send_many("t", list(range(12, 30))).result()
    assert [row["value"] for row in rows(log)] == [25, 26, 27, 28, 29]


def test_the_oldest_are_those_appended_first_whatever_their_partition(log: Log, producer: Producer):
    producer.create_topic("t", 3, max_messages=6, when_full="drop_oldest")
    for n, partition in enumerate([2, 0, 0, 1, 2, 1, 1, 0, 2]):
        producer.send("t", n, partition=partition).result()
    assert sorted(row["value"] for row in rows(log)) == [3, 4, 5, 6, 7, 8]


def test_bytes_are_bounded_too(log: Log, producer: Producer):
    producer.create_topic("t", 1, max_bytes=20_000, when_full="drop_oldest")
    for n in range(60):
        producer.send("t", bytes([n]) * 1000).result()
    assert sum(log["t"].sizes().values()) < 30_000
    found = [row["value"][0] for row in rows(log)]
    assert found == list(range(60 - len(found), 60)) and 3 < len(found) < 20
    producer.create_topic("r", 1, max_bytes=20_000, when_full="reject")
    with pytest.raises(QueueFull, match="20000 bytes"):
        for n in range(60):
            producer.send("r", bytes([n]) * 1000).result()


# --- making one ------------------------------------------------------------------------------------------------------


def test_a_bound_belongs_to_the_topic_and_can_be_changed(log: Log, producer: Producer):
    topic = producer.create_topic("t", 1, max_messages=5, when_full="reject")
    assert bounds.read(log, topic) == bounds.Bound(5, None, "reject")
    assert producer.create_topic("t").number == topic.number
    assert bounds.read(log, topic) == bounds.Bound(5, None, "reject")
    producer.create_topic("t", max_messages=2)
    assert bounds.read(log, topic) == bounds.Bound(2, None, "block")
    bounds.write(log, topic, None)
    assert bounds.read(log, topic) is None
    other = log.create_topic("plain", MESSAGES, time=TIME)
    assert bounds.read(log, other) is None


@pytest.mark.parametrize(
    "options",
    [
        {"max_messages": 0},
        {"max_bytes": "1MB"},
        {"max_messages": 5, "when_full": "drop"},
        {"max_messages": True},
    ],
)
def test_a_bound_that_cannot_be_right_is_refused_at_once(log: Log, producer: Producer, options: Any):
    with pytest.raises(InvalidInput):
        producer.create_topic("t", **options)
    assert log.topics() == []
