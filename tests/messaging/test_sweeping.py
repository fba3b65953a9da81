"""What groups noted of topics that were deleted goes with the next member; what is somebody's, or a user's, stays."""

from __future__ import annotations

import threading

import pytest

import mamba_stream as mamba
from mamba_stream.log import Log
from mamba_stream.messaging.redrive import redrive
from mamba_stream.messaging.sweeping import sweep_deleted
from tests.messaging.desk import HandClock, Sent, member, message_topic, rows, values


def spaces(log: Log) -> list[str]:
    return [
        space
        for space in log.namespaces()
        if space.split("/")[0] in ("cursor", "pending", "groups", "letters")
    ]


def test_the_next_member_removes_what_is_left_of_a_deleted_topic(log: Log) -> None:
    for name in ("gone", "kept"):
        message_topic(log, name).append(rows([Sent(0, key="a"), Sent(1), Sent(2)]))
    with mamba.Subscriber(
        ["gone", "kept"], log, group="g", start="earliest", backoff=("1h", "1h")
    ) as subscriber:

        def fail(message: mamba.Message) -> None:
            if message.value == 2:
                subscriber.stop()
            if message.value == 1:
                raise ValueError

        subscriber.subscribe(fail)
        subscriber.run()
        subscriber.run()
    gone, kept = log["gone"].number, log["kept"].number
    assert {f"cursor/g/{n}" for n in (gone, kept)} | {f"pending/g/{n}" for n in (gone, kept)} <= {
        *spaces(log)
    }
    log.delete_topic("gone")
    log.create_topic("other", {"n": int})
    with mamba.Subscriber("other", log, group="g", start="earliest") as subscriber:
        subscriber.subscribe(print)
        subscriber.run(until="empty")
    other = log["other"].number
    assert spaces(log) == sorted(
        [f"cursor/g/{kept}", f"cursor/g/{other}", f"groups/{kept}", f"groups/{other}", f"pending/g/{kept}"]
    )


def test_what_somebody_has_in_hand_is_left_to_him_until_his_lease_ends(log: Log) -> None:
    clock = HandClock()
    message_topic(log).append(rows([Sent(0)]))
    at_work = member(log, 1, clock, visibility=10_000_000)
    at_work.begin({0: 0})
    [lease] = at_work.take(10)
    number = log["work"].number
    log.delete_topic("work")
    sweep_deleted(log, "group", clock.now())
    assert spaces(log) == [f"pending/group/{number}"]
    assert at_work.holds(lease)
    clock.advance(11)
    sweep_deleted(log, "group", clock.now())
    assert spaces(log) == []


def test_what_became_of_dead_letters_goes_with_them(log: Log) -> None:
    message_topic(log).append(rows([Sent(0)]))
    with mamba.Subscriber("work", log, group="g", start="earliest", attempts=1) as subscriber:
        subscriber.subscribe(lambda message: message.reject())
        subscriber.run(until="empty")
    redrive(log, "work.dead")
    letters = f"letters/{log['work.dead'].number}"
    assert letters in spaces(log)
    sweep_deleted(log, "g", 0)
    assert letters in spaces(log)
    log.delete_topic("work.dead")
    sweep_deleted(log, "g", 0)
    assert letters not in spaces(log)


@pytest.mark.parametrize(
    ("space", "key"),
    [
        ("letters/2026", "anna"),
        ("letters/2026", "7"),
        ("letters/2026", "7/1"),
        ("cursor/g/900", "0"),
        ("pending/g/900", "x"),
    ],
)
def test_records_that_users_keep_are_not_touched(log: Log, space: str, key: str) -> None:
    with log.transaction() as transaction:
        transaction.put_record(space, key, b"12")
    sweep_deleted(log, "g", 0)
    assert log.record(space, key) == b"12"


def test_a_new_group_of_many_topics_begins_in_few_commits(log: Log) -> None:
    for number in range(300):
        message_topic(log, f"topic-{number}", partitions=2)
    before = log.statistics().commits
    with mamba.Subscriber("topic-*", log, group="g", start="earliest") as subscriber:
        subscriber.subscribe(print)
        subscriber.run(until="empty")
        assert log.statistics().commits - before < 10
    assert len(spaces(log)) == 600


def test_two_members_of_a_new_group_begin_it_together(log: Log) -> None:
    clock = HandClock()
    topics = [f"topic-{number}" for number in range(20)]
    for name in topics:
        message_topic(log, name).append(rows([Sent(name)]))
    members = [[member(log, session, clock, topic=name) for name in topics] for session in (1, 2)]
    start = threading.Barrier(2)

    def begin(groups: list) -> None:
        start.wait()
        for group in groups:
            group.begin({0: 0})

    threads = [threading.Thread(target=begin, args=(groups,)) for groups in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [value for groups in members for group in groups for value in values(group.take(10))]
    assert sorted(taken) == sorted(topics)
