"""Dead letters: looked at, put back once each and no more, purged; by one, by many at once, and by those who are killed."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import mamba_stream as mamba
from mamba_stream.log import Log, Transaction, open_log
from mamba_stream.messaging import bounds, redrive
from mamba_stream.messaging.letterbook import count_letters
from mamba_stream.messaging.letters import letter, letters
from mamba_stream.messaging.redrive import purge
from tests import forking
from tests.messaging.desk import SECOND, HandClock, Sent, member, message_topic, messages, rows

DEAD = "work.dead"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        message_topic(opened, partitions=2)
        yield opened


_sessions = itertools.count(1)


def bury(
    log: Log, clock: HandClock, *sent: Any, topic: str = "work", partition: int = 0, **terms: Any
) -> None:
    """Sends these messages, and has a group give them up."""
    log[topic].append(
        rows([each if isinstance(each, Sent) else Sent(each) for each in sent]), partition=partition
    )
    give_up(log, clock, topic, **terms)


def give_up(log: Log, clock: HandClock, topic: str = "work", **terms: Any) -> None:
    group = member(log, next(_sessions), clock, topic=topic, **terms)
    while leases := group.take(10_000):
        for message in messages(leases):
            message.reject(f"no use for {message.value!r:.30}")
        group.settle(leases)


def left(log: Log, name: str = DEAD, **options: Any) -> list[Any]:
    return [each.value for each in letters(log, name, **options)]


def back(log: Log, clock: HandClock, topic: str = "work") -> list[Any]:
    """What the group gets, acknowledged."""
    group, found = member(log, next(_sessions), clock, topic=topic), []
    while leases := group.take(10_000):
        found += messages(leases)
        for message in found[-sum(len(lease.left) for lease in leases) :]:
            message.ack()
        group.settle(leases)
    return found


class Only:
    """Lets these values pass."""

    def __init__(self, *wanted: bytes) -> None:
        self._wanted = wanted

    def mask(self, batch: pa.RecordBatch) -> Any:
        return np.array([value in self._wanted for value in batch.column("value").to_pylist()], bool)


def test_letters_tell_what_was_sent_and_why_it_could_not_be_done(log: Log, clock: HandClock) -> None:
    bury(log, clock, Sent({"a": 1}, key="k", headers={"region": "eu"}, priority=3), partition=1)
    [found] = letters(log, DEAD)
    assert (found.partition, found.offset, found.state) == (0, 0, "left")
    assert (found.topic, found.origin, found.group, found.attempts) == ("work", (1, 0), "group", 1)
    assert (found.value, found.key, found.headers, found.priority) == ({"a": 1}, "k", {"region": "eu"}, 3)
    assert found.cause == "no use for {'a': 1}"
    assert found.at.timestamp() * 1e6 == clock.now()
    assert letter(log, DEAD, 0, 0) == found
    [counts] = count_letters(log)
    assert (counts.topic, counts.left, counts.redriven, counts.purged) == (DEAD, 1, 0, 0)


def test_a_letter_goes_back_as_a_new_message_that_is_what_it_was(log: Log, clock: HandClock) -> None:
    past = clock.now() - SECOND
    bury(log, clock, Sent("x", key="k", headers={"h": "v"}, deliver_at=past), partition=1)
    done = redrive.redrive(log, DEAD)
    assert (done.letters, done.stayed, done.left) == (1, {}, 0)
    [message] = back(log, clock)
    assert (message.partition, message.offset, message.attempt) == (1, 1, 1)
    assert (message.value, message.key, message.headers) == ("x", "k", {"h": "v"})
    assert message.time == messages_time(log)
    [found] = letters(log, DEAD, every=True)
    assert found.state == "redriven"


def messages_time(log: Log) -> Any:
    return log["work"].scan().collect()["time"][0]


def test_letters_go_back_once_however_often_they_are_redriven(log: Log, clock: HandClock) -> None:
    bury(log, clock, *range(10))
    assert redrive.redrive(log, DEAD).letters == 10
    again = redrive.redrive(log, DEAD)
    assert (again.letters, again.left) == (0, 0)
    assert sorted(message.value for message in back(log, clock)) == [*range(10)]


def test_a_letter_that_dies_again_is_another_letter(log: Log, clock: HandClock) -> None:
    bury(log, clock, "x")
    for _ in range(3):
        assert redrive.redrive(log, DEAD).letters == 1
        give_up(log, clock)
    assert [(each.value, each.state) for each in letters(log, DEAD, every=True)] == [
        ("x", "redriven")
    ] * 3 + [("x", "left")]


def test_only_what_was_meant_goes_back(log: Log, clock: HandClock) -> None:
    bury(log, clock, *"abcdef")
    assert left(log, where=Only(b"b", b"e")) == ["b", "e"]
    assert redrive.redrive(log, DEAD, where=Only(b"b", b"e", b"f"), limit=2).left == 4
    assert left(log) == ["a", "c", "d", "f"]
    assert redrive.redrive(log, DEAD, places=[(0, 3), (0, 4), (0, 0)]).letters == 2
    assert left(log) == ["c", "f"]
    assert redrive.redrive(log, DEAD, limit=0).letters == 0
    assert redrive.redrive(log, DEAD, limit=1).left == 1
    assert left(log) == ["f"]


def test_rules_on_headers_and_on_the_cause_find_letters(log: Log, clock: HandClock) -> None:
    bury(log, clock, Sent("a", headers={"region": "eu"}), Sent("b", headers={"region": "us"}), Sent("c"))
    assert left(log, where=mamba.FilterRule().add_condition("region", "us")) == ["b"]
    rule = mamba.FilterRule(pl.col("_dead").struct.field("cause").str.contains("'c'"))
    assert left(log, where=rule) == ["c"]


def test_letters_of_typed_topics_go_back_to_their_partition(log: Log, clock: HandClock) -> None:
    schema = {"n": pl.Int64, "who": pl.String, "at": pl.Datetime("us", "UTC")}
    typed = log.create_topic("typed", schema, partitions=4, key="who", time="at")
    frame = pl.DataFrame(
        {"n": range(20), "who": [f"w{n % 7}" for n in range(20)], "at": [n * SECOND for n in range(20)]}
    )
    typed.append(frame.cast(schema))
    before = typed.scan().collect().sort("n")
    homes = {row["who"]: batch.partition for batch in typed.read() for row in batch.data.to_pylist()}
    give_up(log, clock, "typed")
    assert [each.value["n"] for each in letters(log, "typed.dead")] != []
    assert redrive.redrive(log, "typed.dead").letters == 20
    after = typed.scan().collect()
    assert after.height == 40
    assert after.unique().sort("n").equals(before)
    for batch in typed.read():
        assert {homes[row["who"]] for row in batch.data.to_pylist()} <= {batch.partition}


def test_one_topic_may_hold_the_letters_of_several(log: Log, clock: HandClock) -> None:
    message_topic(log, "other")
    bury(log, clock, 1, 2, dead_letter="all.dead")
    bury(log, clock, 3, topic="other", dead_letter="all.dead")
    assert redrive.redrive(log, "all.dead").letters == 3
    assert [m.value for m in back(log, clock)] == [1, 2]
    assert [m.value for m in back(log, clock, "other")] == [3]


def test_letters_whose_topic_is_gone_stay_and_can_go_elsewhere(log: Log, clock: HandClock) -> None:
    message_topic(log, "other")
    bury(log, clock, 1, 2, dead_letter="all.dead")
    bury(log, clock, 3, topic="other", dead_letter="all.dead")
    log.delete_topic("work")
    done = redrive.redrive(log, "all.dead")
    assert (done.letters, done.left) == (1, 2)
    assert done.stayed == {"topic 'work', from which they came, was deleted": 2}
    assert redrive.redrive(log, "all.dead", to="other").letters == 2
    assert [m.value for m in back(log, clock, "other")] == [3, 1, 2]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda log: log["work"].end(), "was ended"),
        (lambda log: (log.delete_topic("work"), log.create_topic("work", {"n": int})), "with other columns"),
        (lambda log: (log.delete_topic("work"), message_topic(log)), "has no partition 1 any more"),
    ],
)
def test_letters_that_cannot_go_back_stay_with_the_reason(
    log: Log, clock: HandClock, spoil: Any, why: str
) -> None:
    bury(log, clock, "x", partition=1)
    spoil(log)
    done = redrive.redrive(log, DEAD)
    assert (done.letters, done.left) == (0, 1)
    [(reason, count)] = done.stayed.items()
    assert why in reason and count == 1
    assert left(log) == ["x"]


def test_put_elsewhere_messages_go_where_their_keys_say(log: Log, clock: HandClock) -> None:
    other = message_topic(log, "other", partitions=4)
    bury(log, clock, *(Sent(n, key=f"k{n}") for n in range(20)))
    redrive.redrive(log, DEAD, to="other")
    with mamba.Producer(log, linger="0s") as producer:
        homes = {n: producer.send("other", n, key=f"k{n}").result().partition for n in range(20)}
    for batch in other.read():
        kinds = batch.data.column("kind").to_pylist()
        for value, kind in zip(batch.data.column("value").to_pylist(), kinds, strict=True):
            assert homes[mamba.messaging.schema.decode_value(value, kind)] == batch.partition


def test_put_elsewhere_a_priority_that_nobody_sent_there_is_announced(log: Log, clock: HandClock) -> None:
    message_topic(log, "other")
    with mamba.Producer(log) as producer:
        producer.send("other", "first", priority=2)
    bury(log, clock, Sent("urgent", priority=8), Sent("plain"))
    redrive.redrive(log, DEAD, to="other")
    assert [m.value for m in back(log, clock, "other")] == ["urgent", "first", "plain"]


def test_a_bounded_topic_takes_back_what_it_has_room_for(log: Log, clock: HandClock) -> None:
    topic = message_topic(log, "small")
    member(log, next(_sessions), clock, topic="small").begin({0: 0})
    bury(log, clock, *range(5), topic="small")
    bounds.write(log, topic, bounds.Bound(max_messages=3, when_full="reject"))
    done = redrive.redrive(log, "small.dead")
    assert (done.letters, done.stayed) == (3, {"topic 'small' is full": 2})
    assert [m.value for m in back(log, clock, "small")] == [0, 1, 2]
    assert redrive.redrive(log, "small.dead").letters == 2


def test_purged_letters_are_gone_and_the_front_of_the_topic_is_freed(log: Log, clock: HandClock) -> None:
    bury(log, clock, *"abcdef")
    redrive.redrive(log, DEAD, where=Only(b"b"))
    done = purge(log, DEAD, where=Only(b"a", b"d"))
    assert (done.letters, done.left) == (2, 3)
    assert log[DEAD].offsets() == {0: (2, 6)}
    assert left(log) == ["c", "e", "f"]
    [counts] = count_letters(log)
    assert (counts.left, counts.redriven, counts.purged) == (3, 0, 1)
    with pytest.raises(mamba.NotFound, match=r"has no letter 1: its offsets are 2\.\.5"):
        letter(log, DEAD, 0, 1)
    assert letter(log, DEAD, 0, 3).state == "purged"
    assert redrive.redrive(log, DEAD, places=[(0, 3)]).letters == 0
    assert purge(log, DEAD).letters == 3
    assert log[DEAD].offsets() == {0: (6, 6)}
    assert purge(log, DEAD) == redrive.Purged(0, 0)
    bury(log, clock, "later")
    # Also what was put back before the purge, and died again.
    assert left(log) == ["b", "later"]


def test_records_stay_small_and_go_with_what_they_are_about(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(log, clock, *range(9_000))
    space = f"letters/{log[DEAD].number}"
    assert redrive.redrive(log, DEAD, limit=8_500).left == 500
    records = log.records(space)
    assert records.keys() == {"0/0", "0/1", "0/2"}
    assert max(map(len, records.values())) < 1_100
    purge(log, DEAD, places=[(0, 8_500)])
    assert log.records(space).keys() == {"0", "0/2"}
    assert log[DEAD].offsets() == {0: (8_501, 9_000)}
    assert count_letters(log)[0].left == 499


def test_letters_that_retention_took_are_neither_left_nor_put_back(log: Log, clock: HandClock) -> None:
    bury(log, clock, *"abcd")
    found = letters(log, DEAD)
    log[DEAD].trim(2)
    assert [each.value for each in found] == ["c", "d"]
    assert count_letters(log)[0].left == 2
    assert redrive.redrive(log, DEAD).letters == 2
    with pytest.raises(mamba.NotFound, match="has no letter 0"):
        redrive.redrive(log, DEAD, places=[(0, 0)])


def test_a_topic_that_is_not_one_of_dead_letters_is_refused(log: Log, clock: HandClock) -> None:
    bury(log, clock, "x")
    for use in (
        lambda: letters(log, "work"),
        lambda: letter(log, "work", 0, 0),
        lambda: redrive.redrive(log, "work"),
        lambda: purge(log, "work"),
    ):
        with pytest.raises(
            mamba.InvalidInput, match=r"'work' is not one of dead letters.*; there are work\.dead"
        ):
            use()
    with pytest.raises(mamba.TopicNotFound, match=r"did you mean 'work\.dead'"):
        redrive.redrive(log, "works.dead")
    log.create_topic("numbers", {"n": int})
    with pytest.raises(mamba.InvalidInput, match="its columns are not those of the letters"):
        redrive.redrive(log, DEAD, to="numbers")


# --- several at once


def test_letters_that_others_put_back_or_purged_meanwhile_are_left_alone(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(log, clock, *"abcdef")
    commit = Transaction.commit
    others = [
        lambda: redrive.redrive(log, DEAD, where=Only(b"a")),
        lambda: purge(log, DEAD, where=Only(b"a", b"b", b"d")),
    ]

    def late(self: Transaction) -> None:
        if others:
            monkeypatch.setattr(Transaction, "commit", commit)
            others.pop(0)()
            monkeypatch.setattr(Transaction, "commit", late)
        commit(self)

    monkeypatch.setattr(Transaction, "commit", late)
    assert redrive.redrive(log, DEAD).letters == 3
    monkeypatch.undo()
    assert Counter(m.value for m in back(log, clock)) == Counter("acef")


def test_a_letter_that_was_purged_and_trimmed_meanwhile_does_not_come_back(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The record about it is gone again by then, as if nothing had ever happened to it.
    monkeypatch.setattr(redrive, "CHUNK", 8)
    bury(log, clock, *range(8))
    commit = Transaction.commit

    def late(self: Transaction) -> None:
        monkeypatch.setattr(Transaction, "commit", commit)
        assert purge(log, DEAD).letters == 8
        assert log.records(f"letters/{log[DEAD].number}").keys() == {"0"}
        commit(self)

    monkeypatch.setattr(Transaction, "commit", late)
    assert redrive.redrive(log, DEAD).letters == 0
    assert back(log, clock) == []


def test_threads_that_redrive_at_once_put_each_letter_back_once(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "_STEP", 7)
    bury(log, clock, *range(200))
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(redrive.redrive(log, DEAD).letters)) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(counts) == 200
    assert sorted(m.value for m in back(log, clock)) == [*range(200)]


CHILD = """
import sys
import mamba_stream as mamba
from mamba_stream.messaging import redrive
redrive._STEP = 5
with mamba.open(sys.argv[1]) as log:
    print("here", flush=True)
    redrive.redrive(log, "work.dead")
"""


def test_redrives_that_are_killed_in_the_middle_put_each_letter_back_once(
    log: Log, clock: HandClock, environment: dict[str, str]
) -> None:
    count = 600
    bury(log, clock, *range(count))
    kills = 0
    while (before := count_letters(log)[0].left) and kills < 6:
        with forking.Process(
            [sys.executable, "-c", CHILD, log.place], env=environment, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"here\n"
            while count_letters(log)[0].left > before - 40 and child.poll() is None:
                log.wait(log.lsn(), 0.05)
            child.kill()
        log.settle()
        kills += child.returncode != 0
    assert kills >= 3
    assert redrive.redrive(log, DEAD).left == 0
    assert sorted(m.value for m in back(log, clock)) == [*range(count)]
