"""Sharing a topic: taking, settling, passing on; on a clock that the tests move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest

from mamba_stream.errors import (
    AlreadyExists,
    DataCorrupted,
    PreconditionFailed,
    SchemaMismatch,
    StaleLease,
)
from mamba_stream.log import Log, open_log
from mamba_stream.log.looking import Look, RecordsAnswer
from mamba_stream.messaging import taking
from mamba_stream.messaging.accounts import pending_namespace
from mamba_stream.messaging.books import Change, LogBook, PrivateBook
from mamba_stream.messaging.lease import Lease
from mamba_stream.messaging.parts import Part
from mamba_stream.messaging.priorities import PRIORITIES
from mamba_stream.messaging.shared import SharedGroup
from mamba_stream.messaging.source import Source
from tests.messaging.desk import SECOND, HandClock, Sent, member, message_topic, messages, rows, values


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        message_topic(opened)
        yield opened


def send(log: Log, *sent: Sent | object, topic: str = "work", partition: int | None = None) -> None:
    made = [each if isinstance(each, Sent) else Sent(each) for each in sent]
    log[topic].append(rows(made), partition=partition)


def dead(log: Log, topic: str = "work.dead") -> list[tuple[object, int, int, str]]:
    found = log[topic].scan().collect()
    return [
        (row["value"].decode(), row["_dead"]["offset"], row["_dead"]["attempts"], row["_dead"]["cause"])
        for row in found.iter_rows(named=True)
    ]


@pytest.mark.parametrize("private", [False, True])
def test_messages_are_taken_acknowledged_and_do_not_come_again(
    log: Log, clock: HandClock, private: bool
) -> None:
    group = member(log, 1, clock, book=PrivateBook(log) if private else None)
    send(log, "a", "b", "c")
    leases = group.take(2)
    assert values(leases) == ["a", "b"]
    for message in messages(leases):
        message.ack()
    group.settle(leases)
    rest = group.take(10)
    assert values(rest) == ["c"]
    assert not group.idle()
    messages(rest)[0].ack()
    group.settle(rest)
    assert group.idle()
    assert group.take(10) == []
    clock.advance(3600)
    assert group.take(10) == []
    assert group.counts.acknowledged == group.counts.delivered == 3


def test_two_members_never_have_the_same_message(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    send(log, *range(100))
    taken = [value for _ in range(5) for group in (one, two) for value in values(group.take(10))]
    assert sorted(taken) == list(range(100))


def test_what_a_member_left_behind_goes_to_others_when_its_lease_ends(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    send(log, *"abc")
    left = one.take(10)
    messages(left)[1].ack()
    one.settle(left)
    assert two.take(10) == []
    clock.advance(31)
    again = two.take(10)
    assert [(m.value, m.attempt) for m in messages(again)] == [("a", 2), ("c", 2)]
    with pytest.raises(StaleLease, match="went to another"):
        messages(left)[0].ack()
    assert two.counts.expired == 2


def test_a_lease_whose_time_is_over_still_counts_while_nobody_took_it(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, "a")
    leases = group.take(1)
    clock.advance(100)
    messages(leases)[0].ack()
    group.settle(leases)
    assert group.idle()


def test_acks_that_were_not_written_in_time_are_stale_and_change_nothing(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    send(log, "a", "b")
    [lease] = one.take(10)
    for message in messages([lease]):
        message.ack()
    clock.advance(31)
    again = two.take(10)
    one.settle([lease])
    assert lease.stale
    assert one.counts.stale == 2
    for message in messages(again):
        message.ack()
    two.settle(again)
    assert two.idle()
    assert two.counts.acknowledged == 2
    assert one.counts.acknowledged == 0


def test_a_message_is_settled_once(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, "a")
    [message] = messages(group.take(1))
    message.ack()
    for again in (message.ack, message.nack, message.reject, lambda: message.extend("1m")):
        with pytest.raises(StaleLease, match="settled before"):
            again()


def test_a_retry_waits_for_its_back_off_which_doubles(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock, backoff=(SECOND, 3 * SECOND), attempts=9)
    send(log, "a")
    waits = []
    for attempt in range(1, 6):
        leases = group.take(1)
        [message] = messages(leases)
        assert message.attempt == attempt
        message.nack()
        group.settle(leases)
        due = group.next_due()
        assert due is not None
        waits.append((due - clock.now()) / SECOND)
        assert group.take(1) == []
        clock.time = due
    assert waits == [1, 2, 3, 3, 3]


def test_a_retry_may_say_when(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, "a", "b")
    leases = group.take(2)
    messages(leases)[0].nack("1m")
    group.settle(leases)
    clock.advance(29)
    assert group.take(5) == []
    clock.advance(31)
    assert set(values(group.take(5))) == {"a", "b"}


def test_the_last_failure_leads_to_the_dead_letters_with_its_cause(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock, attempts=2)
    send(log, "fine", "bad")
    for _ in range(2):
        leases = group.take(5)
        for message in messages(leases):
            if message.value == "bad":
                message._delivery.nack(message.offset, "0s", "ValueError: no")
            else:
                message.ack()
        group.settle(leases)
    assert group.idle()
    assert dead(log) == [("bad", 1, 2, "ValueError: no")]


def test_a_rejected_message_goes_to_the_dead_letters_at_once(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, "a", "b")
    leases = group.take(5)
    messages(leases)[0].reject("no such customer")
    messages(leases)[1].ack()
    group.settle(leases)
    assert group.idle()
    assert dead(log) == [("a", 0, 1, "no such customer")]


def test_a_message_that_kills_its_subscribers_is_given_up_and_its_neighbours_are_not(
    log: Log, clock: HandClock
) -> None:
    send(log, *(["fine"] * 50), "poison", *(["fine"] * 50))
    done: list[int] = []
    for session in range(1, 500):
        group = member(log, session, clock, attempts=4)
        while leases := group.take(1000):
            poisoned = False
            for message in messages(leases):
                if message.value == "poison":
                    poisoned = True
                    break
                message.ack()
                done.append(message.offset)
            if poisoned:
                # It dies here: not even its acknowledgements are written.
                done = [offset for offset in done if all(offset not in lease.done for lease in leases)]
                break
            group.settle(leases)
        clock.advance(31)
        if group.idle():
            break
    assert sorted(done) == [offset for offset in range(101) if offset != 50]
    [(value, offset, attempts, cause)] = dead(log)
    assert (value, offset, attempts) == ("poison", 50, 4)
    assert "its lease ended 4 times" in cause


def test_nothing_is_delivered_before_its_time(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    now = clock.now()
    send(log, Sent("later", deliver_at=now + 60 * SECOND), "now", Sent("soon", deliver_at=now + 10 * SECOND))
    leases = group.take(10)
    assert values(leases) == ["now"]
    messages(leases)[0].ack()
    group.settle(leases)
    assert group.next_due() == now + 10 * SECOND
    assert not group.idle()
    clock.advance(10)
    leases = group.take(10)
    assert [(m.value, m.attempt) for m in messages(leases)] == [("soon", 1)]
    messages(leases)[0].ack()
    group.settle(leases)
    assert group.take(10) == []
    # A restart, with nothing in memory.
    clock.advance(50)
    assert values(member(log, 2, clock).take(10)) == ["later"]


def test_higher_priorities_come_first(log: Log, clock: HandClock) -> None:
    send(log, *(Sent(f"low {n}") for n in range(5)))
    group = member(log, 1, clock)
    assert values(group.take(2)) == ["low 0", "low 1"]
    change = Change(
        records={(PRIORITIES, str(log["work"].number)): msgspec.msgpack.encode({5: {0: 5}, 9: {0: 5}})}
    )
    LogBook(log).commit(change)
    send(log, Sent("mid", priority=5), Sent("high", priority=9), Sent("low 5"), Sent("mid 2", priority=5))
    taken = values(group.take(1)) + values(group.take(2)) + values(group.take(10))
    assert taken == ["high", "mid", "mid 2", "low 2", "low 3", "low 4", "low 5"]
    assert values(group.take(10)) == []


def test_messages_of_a_key_are_kept_in_order_while_others_go_on(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    send(
        log, Sent("a1", key="a"), Sent("b1", key="b"), Sent("a2", key="a"), Sent("c1", key="c"), Sent("free")
    )
    first = one.take(1)
    assert values(first) == ["a1"]
    second = two.take(10)
    assert values(second) == ["b1", "c1", "free"]
    messages(first)[0].nack("10s")
    one.settle(first)
    assert two.take(10) == []
    clock.advance(10)
    again = two.take(10)
    assert values(again) == ["a1"]
    messages(again)[0].ack()
    two.settle(again)
    assert values(one.take(10)) == ["a2"]


def test_a_retry_holds_back_what_follows_of_its_key_in_the_same_lease(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, Sent("a1", key="a"), Sent("b1", key="b"), Sent("a2", key="a"))
    leases = group.take(10)
    first, other, follower = messages(leases)
    first.nack("10s")
    with pytest.raises(StaleLease):
        follower.ack()
    other.ack()
    group.settle(leases)
    assert group.take(10) == []
    clock.advance(10)
    again = group.take(10)
    assert [(m.value, m.attempt) for m in messages(again)] == [("a1", 2)]
    messages(again)[0].ack()
    group.settle(again)
    assert [(m.value, m.attempt) for m in messages(group.take(10))] == [("a2", 1)]


def test_outputs_and_the_acknowledgement_commit_together(log: Log, clock: HandClock) -> None:
    message_topic(log, "out")
    one, two = member(log, 1, clock), member(log, 2, clock)
    send(log, "a", "b")
    first, second = messages(one.take(2))
    with first.transaction() as tx:
        tx.append("out", rows([Sent("A")]))
    assert one.counts.acknowledged == 1
    with pytest.raises(RuntimeError), second.transaction() as tx:
        tx.append("out", rows([Sent("never")]))
        raise RuntimeError
    clock.advance(31)
    [again] = messages(two.take(2))
    assert again.value == "b"
    with pytest.raises(StaleLease), second.transaction() as tx:
        tx.append("out", rows([Sent("never")]))
    with again.transaction() as tx:
        tx.append("out", rows([Sent("B")]))
    assert log["out"].scan().collect()["value"].to_list() == [b"A", b"B"]
    assert two.idle()


def test_a_lease_can_be_extended(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    send(log, "a")
    leases = one.take(1)
    [message] = messages(leases)
    clock.advance(20)
    message.extend("1m")
    clock.advance(50)
    assert two.take(1) == []
    message.ack()
    one.settle(leases)
    assert two.idle()


def test_trimmed_messages_are_counted_and_hold_up_nothing(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, *"abcdef")
    leases = group.take(2)
    log["work"].trim({0: 4})
    clock.advance(31)
    assert values(group.take(10)) == ["e", "f"]
    assert group.counts.trimmed == 4
    assert leases[0].left == {0, 1}


def test_only_what_a_rule_wants_is_delivered(log: Log, clock: HandClock) -> None:
    class Even:
        def mask(self, batch):
            return [int(value.as_py()) % 2 == 0 for value in batch.column("value")]

    send(log, *map(str, range(10)))
    group = member(log, 1, clock, rule=Even())
    assert values(group.take(3)) == ["0", "2", "4"]
    assert values(group.take(3)) == ["6", "8"]
    assert group.take(3) == []


def test_a_group_with_too_much_open_takes_nothing_new_and_says_so(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "MOST_RUNS", 20)
    group = member(log, 1, clock)
    send(log, *range(1000))
    taken = []
    while leases := group.take(1):
        taken += leases
    assert len(taken) == 20
    assert group.full
    for message in messages(taken):
        message.ack()
    group.settle(taken)
    assert group.take(1)
    assert not group.full


def test_a_group_begins_where_it_was_told(log: Log, clock: HandClock) -> None:
    send(log, "old")
    group = member(log, 1, clock)
    group.begin({p: end for p, (_, end) in log["work"].offsets().items()})
    send(log, "new")
    member(log, 2, clock).begin({0: 0})
    assert values(group.take(10)) == ["new"]


def test_messages_of_many_partitions_take_turns(tmp_path: Path, clock: HandClock) -> None:
    with open_log(tmp_path / "wide") as log:
        message_topic(log, partitions=4)
        for partition in range(4):
            send(log, *(f"{partition}" for _ in range(10)), partition=partition)
        group = member(log, 1, clock)
        assert {value for _ in range(4) for value in values(group.take(5))} == set("0123")


def test_a_row_of_a_typed_topic_is_its_message(log: Log, clock: HandClock) -> None:
    log.create_topic("typed", pl.Schema({"n": pl.Int64}))
    log["typed"].append([{"n": 1}, {"n": 2}])
    group = member(log, 1, clock, topic="typed")
    leases = group.take(5)
    assert values(leases) == [{"n": 1}, {"n": 2}]
    messages(leases)[0].reject("odd")
    messages(leases)[1].ack()
    group.settle(leases)
    assert log["typed.dead"].scan().collect()["n"].to_list() == [1]


def test_who_stops_with_thousands_in_hand_gives_them_back_in_few_records(log: Log) -> None:
    topic, clock = message_topic(log), HandClock()
    topic.append(rows([Sent(number) for number in range(2_000)]))
    first, second = member(log, 1, clock), member(log, 2, clock)
    first.begin({0: 0})
    leases = first.take(2_000)
    for lease in leases:
        for offset in sorted(lease.left):
            if offset % 7:
                lease.release(offset, delivered=False)
            else:
                lease.ack(offset)
    first.settle(leases)
    assert len(log.records(pending_namespace("group", topic))) <= 2
    assert values(second.take(2_000)) == [number for number in range(2_000) if number % 7]


def ack_all(group: SharedGroup, leases: list[Lease]) -> list[object]:
    found = values(leases)
    for message in messages(leases):
        message.ack()
    group.settle(leases)
    return found


def test_a_session_that_shares_anew_writes_over_nothing_of_what_it_shared_before(
    log: Log, clock: HandClock
) -> None:
    at = clock.now() + 60 * SECOND
    send(log, Sent("first", deliver_at=at))
    assert member(log, 1, clock).take(10) == []
    send(log, Sent("second", deliver_at=at))
    again = member(log, 1, clock)
    assert again.take(10) == []
    clock.advance(60)
    assert sorted(map(str, values(again.take(10)))) == ["first", "second"]


def test_a_message_whose_time_has_not_come_holds_up_no_other_of_its_key(log: Log, clock: HandClock) -> None:
    now = clock.now()
    send(log, Sent("soon", deliver_at=now + SECOND), Sent("late", key="k", deliver_at=now + 3600 * SECOND))
    group = member(log, 1, clock)
    assert group.take(10) == []
    clock.advance(1)
    assert ack_all(group, group.take(10)) == ["soon"]
    send(log, Sent("now", key="k"))
    assert ack_all(group, group.take(10)) == ["now"]
    clock.advance(3600)
    assert ack_all(group, group.take(10)) == ["late"]
    assert group.idle()


def test_a_message_whose_time_has_come_does_not_wait_for_those_whose_time_has_not(
    log: Log, clock: HandClock
) -> None:
    now = clock.now()
    one, two = member(log, 1, clock, visibility=3600 * SECOND), member(log, 2, clock)
    send(
        log,
        Sent("first", key="k"),
        Sent("soon", key="k", deliver_at=now + SECOND),
        Sent("late", deliver_at=now + 7200 * SECOND),
    )
    first = one.take(1)
    assert two.take(10) == []
    clock.advance(1)
    # Its time has come, but one of its key is in hand.
    assert two.take(10) == []
    assert two.next_change() == first[0].deadline
    ack_all(one, first)
    assert ack_all(two, two.take(10)) == ["soon"]
    clock.advance(7200)
    assert ack_all(two, two.take(10)) == ["late"]
    assert two.idle()


def test_what_is_held_up_is_looked_at_when_something_may_have_changed(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    assert two.next_change() is None
    send(log, *(Sent(n, key="k") for n in range(10)))
    held = one.take(1)
    assert two.take(10) == []
    due = two.next_due()
    assert due is not None and due <= clock.now()
    assert two.next_change() == held[0].deadline


@pytest.mark.parametrize("looked_at", ["cursor", "pending"])
def test_a_key_stays_in_order_where_another_takes_in_the_midst_of_a_look(
    log: Log, clock: HandClock, looked_at: str
) -> None:
    class Slow(LogBook):
        def look(self, look: Look, namespace: str) -> RecordsAnswer:
            answer = super().look(look, namespace)

            def ask() -> dict[str, bytes]:
                if namespace.startswith(looked_at) and not taken:
                    taken.extend(two.take(1))
                return answer.get()

            return RecordsAnswer(ask, lambda: dict.fromkeys(filter(None, [answer.first()]), b""))

    taken: list[Lease] = []
    one, two = member(log, 1, clock, book=Slow(log)), member(log, 2, clock)
    one.begin({0: 0})
    send(log, *(Sent(n, key="k") for n in range(3)))
    assert one.take(3) == []
    assert values(taken) == [0]
    for message in messages(taken):
        message.ack()
    two.settle(taken)
    assert values(one.take(3)) == [1, 2]


def test_a_topic_may_be_trimmed_while_it_is_taken(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(log, *"abcd")
    group = member(log, 1, clock)
    group.begin({0: 0})
    read, trims = Source.read, [3]

    def read_late(self: Source, partition: int, position: int, end: int, *first: object) -> Iterator[Part]:
        if trims:
            log["work"].trim({0: trims.pop()})
        return read(self, partition, position, end, *first)

    monkeypatch.setattr(Source, "read", read_late)
    assert values(group.take(10)) == ["d"]
    assert group.counts.trimmed == 3


def test_what_lies_before_damage_and_beside_it_is_delivered_and_then_it_is_reported(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(tmp_path / "wide") as log:
        message_topic(log, partitions=2)
        for partition in (0, 1):
            for number in range(4):
                send(log, f"{partition}.{number}", partition=partition)
        read = Source.read

        def damaged(self: Source, partition: int, position: int, end: int, *first: object) -> Iterator[Part]:
            for part in read(self, partition, position, end, *first):
                if partition == 0 and part.offsets[-1] >= 2:
                    raise DataCorrupted("topic 'work', partition 0, offset 2")
                yield part

        monkeypatch.setattr(Source, "read", damaged)
        group = member(log, 1, clock)
        found: list[object] = []
        with pytest.raises(DataCorrupted, match="offset 2"):
            while True:
                found += ack_all(group, group.take(1))
        assert sorted(map(str, found)) == ["0.0", "0.1", "1.0", "1.1", "1.2", "1.3"]
        assert not group.idle()


def test_what_is_taken_at_once_is_bounded_by_bytes(log: Log, clock: HandClock) -> None:
    send(log, *(bytes(1_000) for _ in range(100)))
    group = member(log, 1, clock)
    taken = sum(len(lease.left) for lease in group.take(1_000, 10_000))
    assert 5 <= taken <= 12
    # One message at least, however large; and what comes again is bounded as what is new.
    assert sum(len(lease.left) for lease in group.take(1_000, 10)) == 1
    clock.advance(31)
    assert 1 <= sum(len(lease.left) for lease in group.take(1_000, 5_000)) <= 7
    left = 0
    while leases := group.take(1_000):
        left += sum(len(lease.left) for lease in leases)
    assert left > 80


def test_a_group_whose_topic_was_deleted_is_done(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, "a", "b")
    [lease] = group.take(1)
    log.delete_topic("work")
    messages([lease])[0].ack()
    group.settle([lease])
    assert group.take(10) == []
    assert group.idle()


def test_a_lease_is_not_over_while_its_last_message_is_being_committed(log: Log, clock: HandClock) -> None:
    group = member(log, 1, clock)
    send(log, "a")
    [lease] = group.take(1)
    [message] = messages([lease])
    seen: list[bool] = []
    write = group.write

    def watched(*arguments: object) -> None:
        seen.append(lease.over)
        write(*arguments)  # type: ignore[arg-type]

    group.write = watched  # type: ignore[method-assign]
    with pytest.raises(PreconditionFailed), message.transaction() as tx:
        tx.require_record("shop", "state", b"other")
    assert seen == [False]
    assert not lease.over
    message.nack("0s")
    group.settle([lease])
    assert [(m.value, m.attempt) for m in messages(group.take(1))] == [("a", 2)]


def test_one_dead_letter_that_cannot_be_written_keeps_nothing_else_from_being_written(
    log: Log, clock: HandClock
) -> None:
    log.create_topic("work.dead", pl.Schema({"other": pl.Int64}))
    group = member(log, 1, clock)
    send(log, *"ab")
    leases = group.take(1) + group.take(1)
    messages(leases)[0].reject("no")
    messages(leases)[1].ack()
    with pytest.raises((SchemaMismatch, AlreadyExists)):
        group.settle(leases)
    assert group.counts.acknowledged == 1
    assert group.counts.dead == 0
    log.delete_topic("work.dead")
    group.settle(leases)
    assert dead(log) == [("a", 0, 1, "no")]
    assert group.idle()


def test_causes_that_no_column_holds_are_told_all_the_same(log: Log, clock: HandClock) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    group = member(log, 1, clock)
    send(log, "a")
    leases = group.take(1)
    [message] = messages(leases)
    with pytest.raises(RuntimeError):
        message.reject(Mute())
    # Nothing was settled by that.
    message.reject("half \ud83d of a face")
    group.settle(leases)
    assert dead(log) == [("a", 0, 1, "half \\ud83d of a face")]


def test_a_topic_in_which_nothing_changed_is_not_looked_at_again(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_topic(log, "other")
    one, two = member(log, 1, clock), member(log, 2, clock)
    looks: list[int] = []
    fresh = taking.Taking._fresh

    def counted(self: taking.Taking, step: object) -> None:
        looks.append(1)
        fresh(self, step)  # type: ignore[arg-type]

    monkeypatch.setattr(taking.Taking, "_fresh", counted)
    assert one.take(10) == []
    looks.clear()
    send(log, "a", topic="other")
    assert one.take(10) == []
    assert looks == []
    send(log, "b")
    leases = one.take(10)
    assert two.take(10) == []
    messages(leases)[0].nack("1s")
    one.settle(leases)
    looks.clear()
    assert two.take(10) == []
    clock.advance(1)
    assert values(two.take(10)) == ["b"]
    assert looks == [1]


@pytest.mark.parametrize("key", [None, "k"])
def test_own_commits_are_no_reason_to_look_again_unless_they_leave_something(
    log: Log, clock: HandClock, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    group = member(log, 1, clock, backoff=(SECOND, SECOND))
    looks: list[int] = []
    look = taking.Taking.look

    def counted(self: taking.Taking, limit: int = 0, space: int = 0) -> taking.Sight:
        looks.append(1)
        return look(self, limit, space)

    monkeypatch.setattr(taking.Taking, "look", counted)
    group.begin({0: 0})
    send(log, *(Sent(n, key=key) for n in range(3)))
    leases = group.take(10)
    looks.clear()
    assert group.take(10) == [] and looks == []
    first, second, third = messages(leases)
    first.ack()
    group.settle(leases)
    assert group.take(10) == []
    # It may have held up others of its key.
    assert looks == ([] if key is None else [1])
    second.nack()
    group.settle(leases)
    clock.advance(2)
    again = group.take(10)
    assert values(again) == [1]
    for message in messages(again) if key else [*messages(again), third]:
        message.ack()
    group.settle([*again, *leases])
    # What waited for it was given back, and comes behind it.
    assert values(group.take(10)) == ([2] if key else [])
    looks.clear()
    send(log, "new")
    new = group.take(10)
    assert values(new) == ["new"] and looks == [1]
    with messages(new)[0].transaction() as tx:
        tx.append("work", rows([Sent("newer")]))
    assert values(group.take(10)) == ["newer"]


def test_what_another_does_between_own_commits_is_looked_at(log: Log, clock: HandClock) -> None:
    one, two = member(log, 1, clock), member(log, 2, clock)
    one.begin({0: 0})
    send(log, "a", "b")
    leases = one.take(1)
    theirs = two.take(1)
    assert one.take(10) == [] == two.take(10)
    messages(leases)[0].ack()
    one.settle(leases)
    messages(theirs)[0].nack("0s")
    two.settle(theirs)
    assert values(one.take(10)) == ["b"]


def test_a_retry_of_a_session_of_its_own_is_seen_though_nobody_wrote_to_the_log(
    log: Log, clock: HandClock
) -> None:
    group = member(log, 1, clock, book=PrivateBook(log))
    send(log, "a", Sent("k1", key="k"), Sent("k2", key="k"))
    leases = group.take(2)
    assert values(leases) == ["a", "k1"]
    held = group.take(10)
    assert held == []
    assert group.take(10) == []
    messages(leases)[0].nack("1s")
    messages(leases)[1].ack()
    group.settle(leases)
    assert values(group.take(10)) == ["k2"]
    assert group.take(10) == []
    clock.advance(1)
    assert values(group.take(10)) == ["a"]
