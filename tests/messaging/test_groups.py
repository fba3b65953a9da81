"""Groups from outside: what is told of them beside a count by hand; moving and deleting them, while members come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.log import Log, Transaction, open_log
from mamba_stream.messaging import groups, survey
from mamba_stream.messaging.books import LogBook
from mamba_stream.messaging.groups import delete_group, describe_group, list_groups, open_runs, reset_group
from mamba_stream.messaging.members import SESSIONS, Client, Registration
from mamba_stream.messaging.priorities import PRIORITIES
from tests.messaging.desk import SECOND, HandClock, Sent, member, message_topic, messages, rows, values


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        yield opened


def send(log: Log, *sent: Any, topic: str = "work", partition: int | None = None) -> None:
    log[topic].append(
        rows([each if isinstance(each, Sent) else Sent(each) for each in sent]), partition=partition
    )


def here(log: Log, clock: HandClock, group: str = "group", **facts: Any) -> Registration:
    """A client that is in the group until its lease of ten seconds ends."""
    client = Client(kind="subscriber", group=group, host="desk", pid=7, reads="shared", **facts)
    registration = Registration(LogBook(log), client, 10 * SECOND)
    registration.enter(clock.now())
    return registration


def drain(log: Log, clock: HandClock, session: int = 90, **terms: Any) -> list[Any]:
    """The values of everything that the group still gives, each acknowledged."""
    group, found = member(log, session, clock, **terms), []
    while leases := group.take(1000):
        found += values(leases)
        for message in messages(leases):
            message.ack()
        group.settle(leases)
    return found


def by_partition(log: Log, topic: str, group: str = "readers", count: int | None = None) -> list[Any]:
    """What a consumer of the group gets until nothing is left, or so many."""
    with mamba.Consumer(log, group=group) as consumer:
        consumer.subscribe(topic)
        found = [message.value for message in consumer.consume(until="empty", max_messages=count)]
        consumer.commit()
        return found


def raced(monkeypatch: pytest.MonkeyPatch, *others: Callable[[], object]) -> None:
    """Somebody else is faster, so many times."""
    commit, line, theirs = Transaction.commit, list(others), False

    def late(self: Transaction) -> None:
        nonlocal theirs
        if line and not theirs:
            theirs = True
            line.pop(0)()
            theirs = False
        commit(self)

    monkeypatch.setattr(Transaction, "commit", late)


# --- what there is


def test_a_log_without_groups_has_none_and_says_so(log: Log) -> None:
    assert list_groups(log) == []
    with pytest.raises(mamba.NotFound, match="no group 'x' in .*; it has none"):
        describe_group(log, "x")


def test_groups_are_found_by_any_trace_of_them(log: Log, clock: HandClock) -> None:
    topic = message_topic(log)
    send(log, *"abc")
    with log.transaction() as tx:
        tx.commit_offsets("offsets", {("work", 0): 1})
        tx.put_record("owners/owners", f"{topic.number}/0", msgspec.msgpack.encode(("00000001", 3)))
    member(log, 1, clock, group="cursors").begin({0: 2})
    member(log, 2, clock, group="runs").take(1)
    here(log, clock, "members")
    found = list_groups(log, clock=clock)
    assert {each.name: each.backlog for each in found} == {
        "cursors": 1,
        "members": 0,
        "offsets": 2,
        "owners": 3,
        "runs": 3,
    }
    assert {each.name for each in found if each.members} == {"members"}
    clock.advance(11)
    assert "members" not in {each.name for each in list_groups(log, clock=clock)}


def test_an_unknown_group_is_not_found_with_the_near_one(log: Log, clock: HandClock) -> None:
    message_topic(log)
    member(log, 1, clock, group="mailers").begin({0: 0})
    for use in (
        lambda: describe_group(log, "mailer"),
        lambda: open_runs(log, "mailer"),
        lambda: reset_group(log, "mailer", "latest"),
        lambda: delete_group(log, "mailer"),
    ):
        with pytest.raises(
            mamba.NotFound, match=r"no group 'mailer' .*did you mean 'mailers'\?; it has mailers"
        ):
            use()


def test_a_shared_group_is_described_message_by_message(log: Log, clock: HandClock) -> None:
    message_topic(log, partitions=2)
    send(log, *range(10), partition=0)
    send(log, Sent("later", deliver_at=clock.now() + 60 * SECOND), "now", partition=1)
    registration = here(log, clock)
    group = member(log, registration.client.session, clock, visibility=30 * SECOND, backoff=(SECOND, SECOND))
    taken = {message.offset: message for lease in group.take(4) for message in lease.messages()}
    first = group.take(0)
    assert first == []
    some = list(taken.values())
    leases = group.take(3)
    some[0].ack()
    some[1].nack("5s")
    group.settle([some[0]._delivery])
    described = describe_group(log, "group", clock=clock)
    (who,) = described.members
    assert (who.client.host, who.client.pid, who.assignment) == ("desk", 7, ())
    by_hand = {(each.topic, each.partition): each for each in described.partitions}
    # 12 in all, one is done; 7 or 8 were handed out, of which one is done and one waits for its retry.
    assert described.backlog == 11
    handed = 4 + sum(len(lease.left) for lease in leases)
    assert sum(each.leased for each in by_hand.values()) == handed - 2
    waits = sum(each.waiting for each in by_hand.values())
    assert waits in (1, 2)
    assert sum(each.due for each in by_hand.values()) == 0
    assert all(each.shared and each.owner == "" for each in by_hand.values())
    clock.advance(6)
    later = describe_group(log, "group", clock=clock)
    assert sum(each.due for each in later.partitions) == 1
    clock.advance(30)
    gone = describe_group(log, "group", clock=clock)
    assert gone.members == ()
    assert sum(each.leased for each in gone.partitions) == 0
    assert sum(each.due for each in gone.partitions) == handed - 1
    assert gone.backlog == 11


def test_the_backlog_is_what_is_still_to_come_whatever_the_priorities(log: Log, clock: HandClock) -> None:
    chance = np.random.default_rng(3)
    topic = message_topic(log, partitions=2)
    with log.transaction() as tx:
        tx.put_record(PRIORITIES, str(topic.number), msgspec.msgpack.encode({3: {0: 0}, 7: {0: 4, 1: 0}}))
    for _ in range(6):
        for partition in (0, 1):
            # A priority is announced with its first message.
            known = [0, 3, 7] if partition == 0 else [0, 7]
            sent = [Sent("x", priority=int(p)) for p in chance.choice(known, 7)]
            if topic.offsets()[0][1] < 4:
                sent = [Sent("x", priority=min(each.priority, 3)) for each in sent]
            send(log, *sent, partition=partition)
    total = sum(end for _, end in topic.offsets().values())
    group, done = member(log, 1, clock, ordered=False), 0
    group.begin({0: 0, 1: 0})
    while True:
        assert describe_group(log, "group", clock=clock).backlog == total - done
        leases = group.take(int(chance.integers(1, 9)))
        if not leases:
            break
        for message in messages(leases):
            message.ack()
            done += 1
        group.settle(leases)
    assert done == total


def test_rows_that_were_trimmed_are_no_backlog(log: Log, clock: HandClock) -> None:
    message_topic(log)
    send(log, *range(10))
    member(log, 1, clock).begin({0: 0})
    with log.transaction() as tx:
        tx.commit_offsets("readers", {("work", 0): 2})
    log["work"].trim(4)
    assert [each.backlog for each in list_groups(log)] == [6, 6]


def test_a_group_of_consumers_is_described_by_partition_with_who_has_it(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64}, partitions=2)
    for p, n in ((0, 3), (1, 5)):
        log["numbers"].append([{"n": i} for i in range(n)], partition=p)
    with mamba.Consumer(log, group="readers", commit=None) as consumer:
        consumer.subscribe("numbers")
        assert consumer.poll(max_messages=8)
        described = describe_group(log, "readers")
        (who,) = described.members
        assert who.assignment == (("numbers", 0), ("numbers", 1))
        assert [(each.offset, each.backlog, each.owner) for each in described.partitions] == [
            (None, 3, who.client.id),
            (None, 5, who.client.id),
        ]
        consumer.poll()
        consumer.commit()
        assert describe_group(log, "readers").backlog == 0
    described = describe_group(log, "readers")
    assert described.members == ()
    assert [(each.offset, each.backlog, each.owner) for each in described.partitions] == [
        (3, 0, ""),
        (5, 0, ""),
    ]
    assert described.topics == ("numbers",)


def test_a_group_with_too_many_runs_is_told_to_be_paused(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_topic(log)
    send(log, *range(6))
    group = member(log, 1, clock)
    leases = group.take(3)
    for message in messages(leases):
        message.nack("1m")
    group.settle(leases)
    assert describe_group(log, "group", clock=clock).paused == ()
    monkeypatch.setattr(survey, "MOST_RUNS", 3)
    assert describe_group(log, "group", clock=clock).paused == ("work",)


def test_what_is_left_of_a_deleted_topic_is_not_told_but_goes_with_the_group(
    log: Log, clock: HandClock
) -> None:
    message_topic(log)
    send(log, "a")
    member(log, 1, clock).take(1)
    log.delete_topic("work")
    message_topic(log)
    assert [(each.name, each.partitions) for each in list_groups(log, clock=clock)] == [("group", ())]
    delete_group(log, "group", clock=clock)
    assert list_groups(log, clock=clock) == []


def test_open_messages_come_in_the_order_in_which_they_fall_due(log: Log, clock: HandClock) -> None:
    message_topic(log)
    send(log, "leased", "retried", "acked", Sent("delayed", deliver_at=clock.now() + 90 * SECOND), "new")
    registration = here(log, clock)
    group = member(log, registration.client.session, clock, visibility=30 * SECOND)
    leases = group.take(3)
    _, retried, acked = messages(leases)
    retried.nack("60s")
    acked.ack()
    group.settle(leases)
    group.take(1)
    now = clock.now()
    found = list(open_runs(log, "group", clock=clock))
    assert [(each.offsets, each.attempt, each.state, each.until - now) for each in found] == [
        ((0,), 1, "leased", 30 * SECOND),
        ((4,), 1, "leased", 30 * SECOND),
        ((1,), 1, "waiting", 60 * SECOND),
        ((3,), 0, "waiting", 90 * SECOND),
    ]
    assert [each.member and each.member.pid for each in found] == [7, 7, None, None]
    clock.advance(61)
    states = [(each.state, each.session > 0, each.member) for each in open_runs(log, "group", clock=clock)]
    assert states == [
        ("due", True, None),
        ("due", True, None),
        ("due", False, None),
        ("waiting", False, None),
    ]


def test_a_topic_that_the_group_does_not_know_is_refused(log: Log, clock: HandClock) -> None:
    for name in ("work", "other"):
        message_topic(log, name)
    member(log, 1, clock).begin({0: 0})
    with pytest.raises(
        mamba.NotFound, match="group 'group' knows nothing of topic 'other'; it has read work"
    ):
        open_runs(log, "group", topic="other")
    with pytest.raises(mamba.TopicNotFound, match="did you mean 'work'"):
        reset_group(log, "group", "latest", topic="worl")


# --- going on from elsewhere


@pytest.mark.parametrize(("to", "left"), [("earliest", [*range(10)]), ("latest", []), (7, [7, 8, 9])])
def test_a_shared_group_goes_on_where_it_was_reset_to(
    log: Log, clock: HandClock, to: Any, left: list[int]
) -> None:
    message_topic(log)
    send(log, *range(10))
    group = member(log, 1, clock)
    leases = group.take(4)
    for message in messages(leases)[:2]:
        message.ack()
    group.settle(leases)
    (reset,) = reset_group(log, "group", to, clock=clock)
    assert (reset.topic, reset.partition, reset.before, reset.dropped) == ("work", 0, 4, 2)
    assert reset.after == {"earliest": 0, "latest": 10}.get(to, to)
    # Who had a lease does not know it yet, and is told.
    with pytest.raises(mamba.StaleLease):
        clock.advance(31)
        messages(leases)[2].ack()
    assert drain(log, clock) == left


def test_a_reset_begins_priorities_anew_too(log: Log, clock: HandClock) -> None:
    topic = message_topic(log)
    with log.transaction() as tx:
        tx.put_record(PRIORITIES, str(topic.number), msgspec.msgpack.encode({5: {0: 0}}))
    send(log, *(Sent(n, priority=5 * (n % 2)) for n in range(8)))
    group = member(log, 1, clock)
    group.begin({0: 0})
    assert values(group.take(3)) == [1, 3, 5]
    reset_group(log, "group", 4, clock=clock)
    assert drain(log, clock) == [5, 7, 4, 6]


def test_only_the_partitions_that_were_named_are_reset(log: Log, clock: HandClock) -> None:
    message_topic(log, partitions=3)
    for p in range(3):
        send(log, *(10 * p + n for n in range(4)), partition=p)
    group = member(log, 1, clock)
    group.take(12)
    resets = reset_group(log, "group", "latest", topic="work", partitions=[0, 2], clock=clock)
    assert [(each.partition, each.after, each.dropped) for each in resets] == [(0, 4, 4), (2, 4, 4)]
    clock.advance(60)
    assert sorted(drain(log, clock)) == [10, 11, 12, 13]


def test_a_group_of_consumers_goes_on_where_it_was_reset_to(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64}, partitions=2)
    for p in range(2):
        log["numbers"].append([{"n": 10 * p + i} for i in range(5)], partition=p)
    assert len(by_partition(log, "numbers")) == 10
    resets = reset_group(log, "readers", 3)
    assert [(each.partition, each.before, each.after) for each in resets] == [(0, 5, 3), (1, 5, 3)]
    assert sorted(row["n"] for row in by_partition(log, "numbers")) == [3, 4, 13, 14]


def test_a_reset_by_time_goes_to_the_first_row_that_reaches_it(log: Log) -> None:
    hours = [datetime(2026, 1, 31, hour, tzinfo=UTC) for hour in range(6)]
    log.create_topic("numbers", {"n": pl.Int64, "at": pl.Datetime("us", "UTC")}, time="at")
    log["numbers"].append([{"n": n, "at": at} for n, at in enumerate(hours)])
    assert len(by_partition(log, "numbers")) == 6
    reset_group(log, "readers", hours[4])
    assert [row["n"] for row in by_partition(log, "numbers")] == [4, 5]


def test_a_dry_run_says_what_would_happen_and_does_not_do_it(log: Log, clock: HandClock) -> None:
    message_topic(log)
    send(log, *range(5))
    member(log, 1, clock).take(2)
    here(log, clock)
    before = log.lsn()
    (would,) = reset_group(log, "group", "earliest", dry_run=True, clock=clock)
    assert (would.before, would.after, would.dropped) == (2, 0, 2)
    assert log.lsn() == before


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("tomorrow",), mamba.InvalidInput, "choose 'earliest', 'latest', an offset or a datetime"),
        ((6,), mamba.InvalidInput, r"6 is not within its offsets, 1\.\.5"),
        ((0,), mamba.InvalidInput, r"0 is not within its offsets, 1\.\.5"),
        ((True,), mamba.InvalidInput, "True is not within its offsets"),
        ((1.5,), mamba.InvalidInput, "1.5 is not within its offsets"),
    ],
)
def test_where_no_group_can_go_is_refused(
    log: Log, clock: HandClock, arguments: tuple[Any, ...], error: type[Exception], said: str
) -> None:
    message_topic(log)
    send(log, *range(5))
    log["work"].trim(1)
    member(log, 1, clock).begin({0: 2})
    before = log.lsn()
    with pytest.raises(error, match=said):
        reset_group(log, "group", *arguments, clock=clock)
    with pytest.raises(mamba.PartitionNotFound, match="has no partition 4: it has 1"):
        reset_group(log, "group", "latest", topic="work", partitions=[4], clock=clock)
    with pytest.raises(mamba.InvalidInput, match="say of which topic"):
        reset_group(log, "group", "latest", partitions=[0], clock=clock)
    assert log.lsn() == before


def test_a_group_with_members_is_neither_reset_nor_deleted(log: Log, clock: HandClock) -> None:
    message_topic(log)
    send(log, *range(5))
    member(log, 1, clock).take(2)
    registration = here(log, clock)
    for use in (
        lambda: reset_group(log, "group", "latest", clock=clock),
        lambda: delete_group(log, "group", clock=clock),
    ):
        with pytest.raises(mamba.GroupInUse, match=r"'group' has members at work \(desk, pid 7\): stop them"):
            use()
    registration.leave()
    delete_group(log, "group", clock=clock)


def test_a_member_that_comes_in_the_last_moment_is_seen(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_topic(log)
    member(log, 1, clock).begin({0: 0})
    raced(monkeypatch, lambda: here(log, clock))
    with pytest.raises(mamba.GroupInUse):
        delete_group(log, "group", clock=clock)
    assert describe_group(log, "group", clock=clock).partitions


def test_a_member_whose_lease_ended_and_is_renewed_in_the_last_moment_is_seen(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_topic(log)
    member(log, 1, clock).begin({0: 0})
    registration = here(log, clock)
    clock.advance(11)
    raced(monkeypatch, lambda: registration.renew(clock.now()))
    with pytest.raises(mamba.GroupInUse):
        reset_group(log, "group", "latest", clock=clock)


def test_a_reset_looks_again_where_the_group_has_moved(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_topic(log)
    send(log, *range(10))
    group = member(log, 1, clock)
    group.take(2)
    raced(monkeypatch, lambda: group.take(2), lambda: group.take(2))
    (reset,) = reset_group(log, "group", "earliest", force=True, clock=clock)
    assert (reset.before, reset.dropped) == (6, 6)
    assert values(group.take(100)) == [*range(10)]


def test_a_group_that_never_rests_is_told_to_be_at_work(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_topic(log)
    send(log, *range(100))
    group = member(log, 1, clock)
    group.begin({0: 0})
    monkeypatch.setattr(groups, "_TRIES", 3)
    raced(monkeypatch, *[lambda: group.take(1)] * 9)
    with pytest.raises(mamba.PreconditionFailed, match="changed 3 times .* nothing was done"):
        reset_group(log, "group", "latest", force=True, clock=clock)


def test_members_go_on_from_where_their_group_was_reset_to_by_force(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64})
    log["numbers"].append([{"n": n} for n in range(5)])
    with mamba.Consumer(log, group="readers") as consumer:
        consumer.subscribe("numbers")
        assert len(consumer.poll(max_messages=5)) == 5
        consumer.commit()
        reset_group(log, "readers", 3, force=True)
        seen: list[int] = []
        for message in consumer.consume(timeout="20s"):
            seen.append(message.value["n"])
            if len(seen) == 2:
                break
        assert seen == [3, 4]


def test_a_consumer_that_lost_its_group_without_noticing_is_refused(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64})
    log["numbers"].append([{"n": n} for n in range(5)])
    with mamba.Consumer(log, group="readers", commit=None) as consumer:
        consumer.subscribe("numbers")
        polled = consumer.poll(max_messages=5)
        reset_group(log, "readers", 1, force=True)
        with pytest.raises(mamba.StaleLease):
            consumer.commit(polled)
        assert log.group_offsets("readers") == {("numbers", 0): 1}


def test_subscribers_at_work_lose_nothing_when_their_group_goes_back(log: Log) -> None:
    message_topic(log)
    send(log, *range(200))
    done: list[int] = []
    subscriber = mamba.Subscriber("work", log, group="crew", start="earliest")
    subscriber.subscribe(lambda message: done.append(message.value))
    running = threading.Thread(target=subscriber.run)
    running.start()
    bell = threading.Event()
    while len(done) < 50:
        bell.wait(0.002)
    reset_group(log, "crew", "earliest", force=True)
    mark = len(done)
    # From now on everything comes once more, but for what was already in this process's hands.
    while describe_group(log, "crew").backlog or len(done) - mark < 200:
        bell.wait(0.01)
    subscriber.stop()
    running.join(20)
    subscriber.close()
    assert set(done[mark:]) == set(range(200))


# --- deleting


def test_nothing_is_left_of_a_group_that_was_deleted(log: Log, clock: HandClock) -> None:
    message_topic(log, partitions=2)
    send(log, *range(20))
    baseline = {space: log.records(space) for space in log.namespaces()}
    for name in ("group", "group2"):
        group = member(log, 1, clock, group=name)
        for message in messages(group.take(5)):
            message.nack("1m")
        by_partition(log, "work", name, 3)
    with log.transaction() as tx:
        tx.put_record(f"groups/{log['work'].number}", "group", b"")
    other = {space: log.records(space) for space in log.namespaces() if "group2" in space}
    dead = here(log, clock)
    clock.advance(60)
    delete_group(log, "group", clock=clock)
    assert [each.name for each in list_groups(log, clock=clock)] == ["group2"]
    assert log.group_offsets("group") == {}
    assert log.record("clients", dead.client.id) is None
    left = {space: log.records(space) for space in log.namespaces()}
    left.pop(SESSIONS[0])
    assert left == {**baseline, **other}


def test_a_group_that_takes_the_name_of_a_deleted_one_is_new(log: Log, clock: HandClock) -> None:
    message_topic(log)
    send(log, *"abc")
    assert drain(log, clock) == ["a", "b", "c"]
    delete_group(log, "group", clock=clock)
    assert drain(log, clock) == ["a", "b", "c"]


def test_the_group_of_a_job_is_the_jobs(log: Log) -> None:
    log.create_topic("numbers", {"n": pl.Int64}).append([{"n": 1}])
    pipeline = mamba.pipeline("a.b", mamba.stream("numbers").select(double=pl.col("n") * 2).to("doubled"))
    mamba.run(pipeline, log=log, until="now")
    (shown,) = list_groups(log)
    assert (shown.job, shown.backlog) == ("a.b", 0)
    for use in (lambda: reset_group(log, shown.name, "earliest"), lambda: delete_group(log, shown.name)):
        with pytest.raises(mamba.InvalidInput, match=r"mamba-stream job reset a\.b"):
            use()
    with log.transaction() as tx:
        tx.commit_offsets("job.unknown", {("numbers", 0): 1})
    delete_group(log, "job.unknown")


def test_a_group_costs_what_it_has_however_many_topics_and_clients_there_are(log: Log) -> None:
    class Untouched(dict):
        def values(self):
            raise AssertionError("all of the log's topics or clients were gone through for one group")

    log.create_topic("t", {"n": pl.Int64}).append([{"n": 1}])
    with mamba.Consumer(log, group="g") as consumer:
        consumer.subscribe("t")
        consumer.poll()
        look = survey.Survey(log, SystemClock().now())
        look.topics, look.clients = Untouched(look.topics), Untouched(look.clients)
        group = look.group("g")
    assert (group.backlog, len(group.members)) == (1, 1)
