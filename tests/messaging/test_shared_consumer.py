"""Consumers that share messages one by one, with each other and with subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mamba_stream as mamba
from mamba_stream.log import Log, open_log
from tests.messaging.desk import Sent, message_topic, rows


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        message_topic(opened)
        yield opened


def send(log: Log, *sent: Sent | object) -> None:
    log["work"].append(rows([each if isinstance(each, Sent) else Sent(each) for each in sent]))


def consumer(log: Log, **options: Any) -> mamba.Consumer:
    made = mamba.Consumer(log, group="crew", shared=True, backoff=("1ms", "1ms"), **options)
    made.subscribe("work")
    return made


def test_each_message_goes_to_one_and_asking_for_the_next_acknowledges(log: Log) -> None:
    send(log, *range(20))
    with consumer(log) as one, consumer(log) as two:
        first, second = one.consume(), two.consume()
        taken = [next(each).value for _ in range(4) for each in (first, second)]
        assert len(set(taken)) == 8
        taken += [message.value for message in one.consume(until="empty", timeout="100ms")]
        two.close()
        taken += [message.value for message in one.consume(until="empty")]
    # What was in hand when it was left came again.
    assert set(taken) == set(range(20))
    with consumer(log) as later:
        assert list(later.consume(until="empty")) == []


def test_leaving_the_loop_by_an_exception_delivers_the_message_again(log: Log) -> None:
    send(log, "a", "b")
    with consumer(log) as receiving:
        with pytest.raises(RuntimeError):
            for _ in receiving.consume():
                raise RuntimeError
        again = [(message.value, message.attempt) for message in receiving.consume(until="empty")]
    assert sorted(again) == [("a", 2), ("b", 1)]


def test_messages_are_settled_one_by_one(log: Log) -> None:
    send(log, "done", "again", "never", "later")
    told: list[tuple[str, int]] = []
    with consumer(log) as receiving:
        for message in receiving.consume(until="empty"):
            told.append((message.value, message.attempt))
            if message.value == "again" and message.attempt == 1:
                message.nack("0s")
            elif message.value == "never":
                message.reject("no")
            else:
                message.ack()
    assert sorted(told) == [("again", 1), ("again", 2), ("done", 1), ("later", 1), ("never", 1)]
    assert log["work.dead"].scan().collect()["value"].to_list() == [b"never"]


def test_polled_messages_are_done_when_it_polls_again(log: Log) -> None:
    send(log, *range(10), Sent("k1", key="k"), Sent("k2", key="k"))
    with consumer(log) as receiving:
        first = receiving.poll("1s", max_messages=100)
        values = [message.value for message in first]
        # The second of a key is not handed out beside the first.
        assert "k2" not in values
        rest = [message.value for message in receiving.poll("1s")]
        receiving.poll()
        assert values + rest == [*range(10), "k1", "k2"]
        assert receiving.statistics().acknowledged <= 12
    with consumer(log) as later:
        assert later.poll() == []


def test_a_transaction_settles_its_message(log: Log) -> None:
    message_topic(log, "out")
    send(log, 1, 2)
    with consumer(log) as receiving:
        for message in receiving.consume(until="empty"):
            with message.transaction() as tx:
                tx.append("out", rows([Sent(message.value * 10)]))
            with pytest.raises(mamba.StaleLease):
                message.ack()
    assert log["out"].offsets() == {0: (0, 2)}


def test_what_only_partitions_have_is_refused(log: Log) -> None:
    with consumer(log) as receiving:
        for wrong in (
            lambda: receiving.seek("earliest"),
            lambda: receiving.pause(),
            lambda: receiving.position(),
            lambda: receiving.assign({"work": [0]}),
            lambda: receiving.set_filter_rule(mamba.FilterRule()),
        ):
            with pytest.raises(mamba.InvalidInput, match="shares"):
                wrong()
    with pytest.raises(mamba.InvalidInput, match="attempts=0"):
        mamba.Consumer(log, shared=True, attempts=0)


def test_a_filter_rule_decides_what_there_is_for_the_group(log: Log) -> None:
    send(log, Sent("a", headers={"to": "me"}), Sent("b", headers={"to": "you"}), Sent("c"))
    rule = mamba.FilterRule()
    rule.add_condition("to", "me")
    receiving = mamba.Consumer(log, group="crew", shared=True)
    receiving.set_filter_rule(rule)
    receiving.subscribe("work")
    assert [message.value for message in receiving.consume(until="empty")] == ["a"]
    receiving.close()


def test_what_cannot_be_settled_so_is_in_hand_as_before(log: Log) -> None:
    send(log, "a")
    with consumer(log) as receiving:
        [message] = receiving.poll("1s")
        for wrong in (lambda: message.nack("5 bananas"), lambda: message.nack(5), lambda: message.extend("")):
            with pytest.raises(mamba.InvalidInput):
                wrong()
        message.nack("0s")
        assert [again.attempt for again in receiving.poll("5s")] == [2]
    with consumer(log) as later:
        # What is lost in between would be waited for, for ever.
        assert [message.value for message in later.consume(until="empty")] == ["a"]
