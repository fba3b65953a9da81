"""Subscribers: callbacks, retries, groups, patterns, and what happens when handlers fail, hang or are stopped."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import DiskFull
from mamba_stream.log import Log, open_log
from mamba_stream.messaging import sharing, subscriber as subscribers
from mamba_stream.messaging.accounts import pending_namespace
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.sharing import Sharing
from mamba_stream.messaging.slots import Inline, Threads
from tests.messaging.desk import SECOND, HandClock, Sent, message_topic, rows
from tests.messaging.flaky import FlakyLog
from tests.messaging.waits import Passing, Watched


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        message_topic(opened)
        yield opened


def send(log: Log, *sent: Sent | object, topic: str = "work") -> None:
    log[topic].append(rows([each if isinstance(each, Sent) else Sent(each) for each in sent]))


def collect(log: Log, topics: Any = "work", **options: Any) -> list[Any]:
    """What a subscriber of its own gets, from the earliest message on."""
    found: list[Any] = []
    subscriber = mamba.Subscriber(topics, log, start="earliest", **options)
    subscriber.subscribe(lambda message: found.append(message.value))
    subscriber.run(until="empty")
    subscriber.close()
    return found


class Running:
    """A subscriber that runs in a thread until the block ends."""

    def __init__(self, subscriber: mamba.Subscriber) -> None:
        self.subscriber = subscriber
        self._thread = threading.Thread(target=subscriber.run)

    def __enter__(self) -> mamba.Subscriber:
        self._thread.start()
        return self.subscriber

    def __exit__(self, *_: object) -> None:
        self.subscriber.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.subscriber.close()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    bell = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        bell.wait(0.005)
    raise AssertionError("it did not come true")


def test_values_come_back_as_what_they_were(log: Log) -> None:
    sent = ["text", b"bytes", {"a": [1, 2.5, None, True]}, [1, "x"], 7, None, ""]
    send(log, *sent)
    assert collect(log) == sent


def test_a_subscriber_without_a_group_gets_everything_and_so_does_the_next(log: Log) -> None:
    send(log, *"abc")
    assert collect(log) == collect(log) == ["a", "b", "c"]


def test_a_group_does_each_message_once(log: Log) -> None:
    send(log, *range(500))
    done: list[int] = []
    workers = []
    for _ in range(3):
        worker = mamba.Subscriber("work", log, group="crew", start="earliest", concurrency=2)
        worker.subscribe(lambda message: done.append(message.value))
        workers.append(Running(worker))
    for each in workers:
        each.__enter__()
    wait_for(lambda: len(done) >= 500)
    for each in workers:
        each.__exit__()
    assert sorted(done) == list(range(500))
    again: list[int] = []
    late = mamba.Subscriber("work", log, group="crew", start="earliest")
    late.subscribe(lambda message: again.append(message.value))
    late.run(until="empty")
    late.close()
    assert again == []


def test_a_new_subscriber_starts_at_the_latest_message_and_says_so_beside_earlier_ones(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    send(log, "old")
    found: list[Any] = []
    subscriber = mamba.Subscriber("work", log)
    subscriber.subscribe(lambda message: found.append(message.value))
    # Between subscribing and running is after subscribing.
    send(log, "first")
    with caplog.at_level(logging.WARNING), Running(subscriber):
        wait_for(lambda: found == ["first"])
    assert found == ["first"]
    assert "earliest" not in caplog.text
    idle = mamba.Subscriber("work", log)
    idle.subscribe(found.append)
    with caplog.at_level(logging.WARNING), Running(idle):
        wait_for(lambda: "start='earliest' would begin with those" in caplog.text)


def test_raising_is_a_retry_and_the_last_one_leads_to_the_dead_letters(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    send(log, "fine", "bad", "worse")
    attempts: Counter[str] = Counter()

    def handle(message: mamba.Message) -> None:
        attempts[message.value] += 1
        assert attempts[message.value] == message.attempt
        if message.value == "bad":
            raise ValueError("no good")
        if message.value == "worse":
            raise mamba.Reject("never")

    subscriber = mamba.Subscriber(
        "work", log, group="g", attempts=3, backoff=("1ms", "2ms"), start="earliest", dead_letter="morgue"
    )
    subscriber.subscribe(handle)
    subscriber.run(until="empty")
    facts = subscriber.statistics()
    assert attempts == {"fine": 1, "bad": 3, "worse": 1}
    letters = log["morgue"].scan().select("value", pl.col("_dead").struct.unnest()).collect()
    told = {(v.decode(), cause, n) for v, cause, n in letters.select("value", "cause", "attempts").rows()}
    assert told == {("bad", "ValueError: no good", 3), ("worse", "never", 1)}
    assert set(letters["topic"]) == {"work"}
    assert set(letters["group"]) == {"g"}
    assert "no good" in caplog.text
    assert facts == subscriber.statistics()
    subscriber.close()


def test_coroutines_are_handled_as_many_at_a_time_as_wanted(log: Log) -> None:
    send(log, *range(40))
    at_work = most = 0
    done: list[int] = []

    async def handle(message: mamba.Message) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.005)
        at_work -= 1
        done.append(message.value)

    subscriber = mamba.Subscriber("work", log, concurrency=8, start="earliest")
    subscriber.subscribe(handle)
    subscriber.run(until="empty")
    subscriber.close()
    assert sorted(done) == list(range(40))
    assert 2 <= most <= 8


def test_messages_of_a_key_are_handled_one_after_the_other_whatever_the_concurrency(log: Log) -> None:
    send(log, *(Sent((n % 3, n) and [n % 3, n], key=f"k{n % 3}") for n in range(90)))
    at_work: set[int] = set()
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    failed: set[int] = set()
    lock = threading.Lock()

    def handle(message: mamba.Message) -> None:
        key, number = message.value
        with lock:
            assert key not in at_work
            at_work.add(key)
        try:
            if number % 20 == 7 and number not in failed:
                failed.add(number)
                raise RuntimeError
            seen[key].append(number)
        finally:
            with lock:
                at_work.discard(key)

    subscriber = mamba.Subscriber(
        "work", log, group="g", concurrency=6, start="earliest", backoff=("1ms", "1ms")
    )
    subscriber.subscribe(handle)
    subscriber.run(until="empty")
    subscriber.close()
    assert seen == {key: [n for n in range(90) if n % 3 == key] for key in range(3)}


def test_callbacks_by_event_type_and_by_rule(log: Log) -> None:
    class Large:
        def mask(self, batch):
            return [len(v.as_py()) > 3 for v in batch.column("value")]

    table = rows([Sent("a"), Sent("bb"), Sent("large"), Sent("larger")])
    types = [None, "created", "created", "deleted"]
    table = table.set_column(table.schema.names.index("event_type"), "event_type", [types])
    log["work"].append(table)
    created: list[str] = []
    large: list[str] = []
    subscriber = mamba.Subscriber("work", log, start="earliest")
    subscriber.subscribe(lambda message: created.append(message.value), event_type="created")
    subscriber.subscribe(lambda message: large.append(message.value), rule=Large())
    subscriber.run(until="empty")
    assert created == ["bb", "large"]
    assert large == ["large", "larger"]
    assert subscriber.statistics().delivered == 0 or subscriber.statistics().delivered == 3
    subscriber.close()


def test_topics_by_list_and_pattern_and_new_ones_join(log: Log) -> None:
    message_topic(log, "orders.eu")
    found: list[tuple[str, Any]] = []
    subscriber = mamba.Subscriber(["orders.*", "late"], log)
    subscriber.subscribe(lambda message: found.append((message.topic, message.value)))
    with Running(subscriber):
        send(log, 1, topic="orders.eu")
        message_topic(log, "orders.us")
        send(log, 2, topic="orders.us")
        message_topic(log, "late")
        send(log, 3, topic="late")
        wait_for(lambda: len(found) == 3)
    assert set(found) == {("orders.eu", 1), ("orders.us", 2), ("late", 3)}
    by_regex = collect(log, re.compile(r"orders\.(eu|us)"))
    assert sorted(by_regex) == [1, 2]


def test_a_handler_that_hangs_loses_its_message_to_another(log: Log) -> None:
    send(log, "slow", "quick")
    release = threading.Event()
    taken: list[tuple[str, Any]] = []

    def hang(message: mamba.Message) -> None:
        taken.append(("hanging", message.value))
        release.wait(60)

    stuck = mamba.Subscriber("work", log, group="g", visibility="200ms", start="earliest")
    stuck.subscribe(hang)
    other = mamba.Subscriber("work", log, group="g", start="earliest")
    other.subscribe(lambda message: taken.append(("other", message.value)))
    with Running(stuck):
        wait_for(lambda: bool(taken))
        other.run(until="empty")
        release.set()
    other.close()
    assert taken[0] == ("hanging", "slow")
    assert sorted(taken[1:]) == [("other", "quick"), ("other", "slow")]


def test_a_handler_may_take_longer_where_it_says_so(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    send(log, "long")
    taken: list[int] = []
    clock, looked = HandClock(), [0]
    give_up = Courier._give_up_waiting

    def noted(self: Courier) -> None:
        now = clock.time
        give_up(self)
        looked.append(now)

    monkeypatch.setattr(Courier, "_give_up_waiting", noted)

    def handle(message: mamba.Message) -> None:
        taken.append(message.attempt)
        message.extend("1m")
        clock.advance(59)
        # Whoever gives back what takes too long has looked at it.
        wait_for(lambda: looked[-1] == clock.time)

    subscriber = mamba.Subscriber("work", log, group="g", visibility="150ms", start="earliest", clock=clock)
    subscriber.subscribe(handle)
    subscriber.run(until="empty")
    subscriber.close()
    assert taken == [1]


def test_outputs_and_acknowledgement_are_one_transaction(log: Log) -> None:
    message_topic(log, "out")
    send(log, *range(20))
    fail = {3, 11}

    def handle(message: mamba.Message) -> None:
        with message.transaction() as tx:
            tx.append("out", rows([Sent(message.value)]))
            if message.value in fail:
                fail.discard(message.value)
                raise RuntimeError("at the last moment")

    subscriber = mamba.Subscriber(
        "work", log, group="g", concurrency=3, start="earliest", backoff=("1ms", "1ms")
    )
    subscriber.subscribe(handle)
    subscriber.run(until="empty")
    subscriber.close()
    assert sorted(collect(log, "out")) == list(range(20))


def test_delayed_messages_come_when_their_time_has_come(log: Log) -> None:
    clock = HandClock()
    due = clock.now() + 300_000
    send(log, Sent("later", deliver_at=due), "now")
    came: list[tuple[str, bool]] = []
    subscriber = mamba.Subscriber("work", Passing(log, clock), group="g", start="earliest", clock=clock)
    subscriber.subscribe(lambda message: came.append((message.value, clock.now() >= due)))
    subscriber.run(until="empty")
    subscriber.close()
    assert came == [("now", False), ("later", True)]


def test_stopping_gives_back_what_was_not_handled(log: Log) -> None:
    send(log, *range(100))
    seen: list[int] = []
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest")

    def handle(message: mamba.Message) -> None:
        seen.append(message.value)
        if len(seen) == 10:
            subscriber.stop()

    subscriber.subscribe(handle)
    subscriber.run()
    subscriber.close()
    rest: list[tuple[int, int]] = []
    following = mamba.Subscriber("work", log, group="g", start="earliest")
    following.subscribe(lambda message: rest.append((message.value, message.attempt)))
    following.run(until="empty")
    following.close()
    assert rest == [(n, 1) for n in range(10, 100)]


def test_a_group_that_has_too_much_open_pauses_and_says_so(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mamba_stream.messaging.taking.MOST_RUNS", 20)
    send(log, *range(200))
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest", backoff=("1h", "1h"))

    def fail(message: mamba.Message) -> None:
        raise RuntimeError

    subscriber.subscribe(fail)
    with Running(subscriber):
        wait_for(lambda: "takes nothing new until some are done" in caplog.text)
        assert subscriber.statistics().paused == ("work",)
    assert subscriber.statistics().delivered < 200


def test_ctrl_c_ends_run_and_nothing_is_lost(log: Log) -> None:
    send(log, "a", "b")
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest")

    def handle(message: mamba.Message) -> None:
        raise KeyboardInterrupt

    subscriber.subscribe(handle)
    with pytest.raises(KeyboardInterrupt):
        subscriber.run()
    subscriber.close()
    found: list[str] = []
    following = mamba.Subscriber("work", log, group="g")
    following.subscribe(lambda message: found.append(message.value))
    following.run(until="empty")
    following.close()
    assert sorted(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda log: mamba.Subscriber("a/b", log), "contains '/'"),
        (lambda log: mamba.Subscriber([], log), "names no topic"),
        (lambda log: mamba.Subscriber("work", log, group="no good"), "group name"),
        (lambda log: mamba.Subscriber("work", log, concurrency=0), "concurrency=0"),
        (lambda log: mamba.Subscriber("work", log, attempts=True), "attempts=True"),
        (lambda log: mamba.Subscriber("work", log, visibility=30), "visibility has no unit"),
        (lambda log: mamba.Subscriber("work", log, backoff="1s"), "first and the longest"),
        (lambda log: mamba.Subscriber("work", log, backoff=("5m", "1s")), "longer than the longest"),
        (lambda log: mamba.Subscriber("work", log, start="now"), "'latest', 'earliest' or a datetime"),
        (lambda log: mamba.Subscriber("work", log).subscribe("print"), "function of one message"),
        (lambda log: mamba.Subscriber("work", log).subscribe(print, rule="x > 1"), "mamba.FilterRule"),
        (lambda log: mamba.Subscriber("work", log).run(), "nobody is called back"),
    ],
)
def test_what_cannot_be_right_is_refused(log: Log, wrong: Callable[[Log], Any], says: str) -> None:
    with pytest.raises(mamba.InvalidInput, match=re.escape(says)):
        wrong(log)


def test_what_a_run_did_is_known_after_it(log: Log) -> None:
    send(log, *range(5))

    def work(message: mamba.Message) -> None:
        if message.value == 3:
            raise mamba.Reject("no")

    with mamba.Subscriber("work", log, group="crew", start="earliest") as subscriber:
        subscriber.subscribe(work)
        subscriber.run(until="empty")
        facts = subscriber.statistics()
    assert (facts.delivered, facts.acknowledged, facts.dead, facts.inhand) == (5, 4, 1, 0)


def test_messages_of_a_key_follow_each_other_without_a_pause(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = mamba.Subscriber._wait

    def late(self: mamba.Subscriber, *arguments: Any) -> None:
        # The message before is done just before it is decided what to wait for.
        wait_for(lambda: not self._courier.inhand)
        wait(self, *arguments)

    monkeypatch.setattr(mamba.Subscriber, "_wait", late)
    # Whoever does not hear of it waits for ever.
    monkeypatch.setattr(subscribers, "_MOMENT", 1e6)
    send(log, *(Sent(n, key="k") for n in range(30)))
    done: list[int] = []
    watched = Watched(log)
    subscriber = mamba.Subscriber("work", watched, concurrency=4, start="earliest")
    subscriber.subscribe(lambda message: done.append(message.value))
    subscriber.run(until="empty")
    subscriber.close()
    assert done == list(range(30))
    # Nor is a commit waited for, or the next look around, which would be a fifth of a second for each; but at the
    # end, where the thread that keeps the leases is just writing the last.
    assert len(watched.pauses) < 5


def test_who_waits_costs_next_to_nothing(log: Log) -> None:
    release = threading.Event()

    def hold(message: mamba.Message) -> None:
        message.extend("1h")
        release.wait(20)

    send(log, *(Sent(n, key="k") for n in range(300)))
    holder = mamba.Subscriber("work", log, group="g", start="earliest", concurrency=2)
    holder.subscribe(hold)
    with Running(holder):
        wait_for(lambda: holder.statistics().inhand == 1)
        # What is left of the topic is held up by the key that another has.
        watched = Watched(log)
        waiting = mamba.Subscriber("work", watched, group="g")
        waiting.subscribe(lambda message: None)
        with Running(waiting):
            wait_for(lambda: len(watched.pauses) > 2)
            before, asked = len(watched.pauses), len(watched.calls)
            wait_for(lambda: len(watched.pauses) > before + 10)
            # It sleeps from one look around to the next, and asks for something only where there was a commit.
            assert set(watched.pauses[before:]) == {sharing.LOOK}
            assert len(watched.calls) < asked + 50
        release.set()


def test_a_topic_that_is_deleted_and_made_again_is_another(log: Log) -> None:
    send(log, *range(5))
    found: list[Any] = []
    # It begins behind the five; in the topic that comes later it begins at its beginning.
    subscriber = mamba.Subscriber("work", log, group="g")
    subscriber.subscribe(lambda message: found.append(message.value))
    with Running(subscriber):
        send(log, "old")
        wait_for(lambda: found == ["old"])
        log.delete_topic("work")
        message_topic(log)
        send(log, "a", "b")
        wait_for(lambda: found == ["old", "a", "b"])
        assert subscriber.statistics().delivered == 3
        log.delete_topic("work")
        wait_for(lambda: not subscriber._sharing.groups)
    assert subscriber.statistics().delivered == 3


def test_a_disk_that_is_full_is_waited_for_and_nothing_is_lost(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    send(log, *range(20))
    flaky = FlakyLog(log)
    done: list[int] = []

    def work(message: mamba.Message) -> None:
        if not done:
            flaky.plan = [("before", DiskFull("no room")) for _ in range(3)]
        done.append(message.value)

    subscriber = mamba.Subscriber("work", flaky, group="g", start="earliest")
    subscriber.subscribe(work)
    subscriber.run(until="empty")
    assert sorted(done) == list(range(20))
    assert subscriber.statistics().acknowledged == 20
    subscriber.close()
    assert "no room" in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_ends_the_program_ends_run(log: Log, asynchronous: bool) -> None:
    send(log, *range(4))
    calls: list[int] = []

    def leave(message: mamba.Message) -> None:
        calls.append(message.value)
        raise SystemExit(3)

    async def leave_later(message: mamba.Message) -> None:
        leave(message)

    subscriber = mamba.Subscriber("work", log, group="g", start="earliest", concurrency=2)
    subscriber.subscribe(leave_later if asynchronous else leave)
    with pytest.raises(SystemExit):
        subscriber.run()
    subscriber.close()
    assert len(calls) <= 4
    following = mamba.Subscriber("work", log, group="g")
    rest: list[tuple[int, int]] = []
    following.subscribe(lambda message: rest.append((message.value, message.attempt)))
    following.run(until="empty")
    following.close()
    assert sorted(rest) == [(n, 1) for n in range(4)]


def test_what_a_coroutine_awaits_may_be_cancelled_and_that_is_a_failure(log: Log) -> None:
    send(log, "a")
    attempts: list[int] = []

    async def work(message: mamba.Message) -> None:
        attempts.append(message.attempt)
        inner = asyncio.ensure_future(asyncio.sleep(20))
        inner.cancel()
        await inner

    subscriber = mamba.Subscriber(
        "work", log, group="g", start="earliest", attempts=3, backoff=("1ms", "1ms")
    )
    subscriber.subscribe(work)
    subscriber.run(until="empty")
    subscriber.close()
    assert attempts == [1, 2, 3]
    assert log["work.dead"].offsets() == {0: (0, 1)}


@pytest.mark.parametrize("concurrency", [1, 2])
def test_an_error_that_cannot_tell_of_itself_is_a_failure_like_others(log: Log, concurrency: int) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    send(log, "a")

    def fail(message: mamba.Message) -> None:
        raise Mute

    subscriber = mamba.Subscriber(
        "work",
        log,
        group="g",
        start="earliest",
        attempts=2,
        backoff=("1ms", "1ms"),
        concurrency=concurrency,
    )
    subscriber.subscribe(fail)
    subscriber.run(until="empty")
    subscriber.close()
    [letter] = log["work.dead"].scan().collect()["_dead"].to_list()
    assert letter["cause"].startswith("Mute: (its text cannot be had")


def test_a_function_that_returns_a_coroutine_has_not_done_its_message(log: Log) -> None:
    send(log, "a")

    async def work(message: mamba.Message) -> None:
        raise AssertionError("nobody awaits it")

    subscriber = mamba.Subscriber("work", log, group="g", start="earliest", attempts=1)
    subscriber.subscribe(lambda message: work(message))
    subscriber.run(until="empty")
    subscriber.close()
    [letter] = log["work.dead"].scan().collect()["_dead"].to_list()
    assert "returned a coroutine" in letter["cause"]


def test_who_has_only_hung_handlers_takes_nothing_from_others(log: Log) -> None:
    send(log, *range(40))
    release = threading.Event()
    stuck = mamba.Subscriber("work", log, group="g", visibility="200ms", start="earliest", concurrency=2)
    stuck.subscribe(lambda message: release.wait(30))
    done: list[int] = []
    with Running(stuck):
        wait_for(lambda: stuck._courier._hung)
        delivered = stuck.statistics().delivered
        other = mamba.Subscriber("work", log, group="g", visibility="10s")
        other.subscribe(lambda message: done.append(message.value))
        other.run(until="empty")
        other.close()
        assert stuck.statistics().delivered <= delivered + 4
        release.set()
    assert sorted(done) == list(range(40))


def test_run_that_is_interrupted_while_it_ends_renews_nothing_any_more(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(log, "a", "b")

    def close(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Inline, "close", close)
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest")
    subscriber.subscribe(lambda message: subscriber.stop())
    with pytest.raises(KeyboardInterrupt):
        subscriber.run()
    assert not [thread for thread in threading.enumerate() if thread.name == "mamba-leases"]
    monkeypatch.undo()
    subscriber.run(until="empty")
    subscriber.close()


def test_stop_before_run_has_it_return_at_once(log: Log) -> None:
    send(log, "a")
    found: list[Any] = []
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest")
    subscriber.subscribe(lambda message: found.append(message.value))
    subscriber.stop()
    subscriber.run()
    assert found == []
    subscriber.run(until="empty")
    assert found == ["a"]
    subscriber.close()


def test_a_log_that_is_closed_under_a_subscriber_ends_it_with_an_error(log: Log) -> None:
    send(log, "a")
    seen = threading.Event()
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest")
    subscriber.subscribe(lambda message: seen.set())
    ended: list[BaseException] = []

    def run() -> None:
        try:
            subscriber.run()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert seen.wait(20)
    log.close()
    thread.join(20)
    assert [type(error) for error in ended] == [mamba.LogClosed]
    subscriber.close()


def test_a_message_that_was_handed_out_when_run_was_interrupted_comes_again_at_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(log, "a", "b")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    subscriber = mamba.Subscriber("work", log, group="g", start="earliest", visibility="10m", concurrency=2)
    again: list[tuple[str, int]] = []
    subscriber.subscribe(lambda message: again.append((message.value, message.attempt)))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Threads, "start", interrupted)
        subscriber.run()
    subscriber.run(until="empty")
    subscriber.close()
    assert sorted(again) == [("a", 1), ("b", 1)]


def test_a_handler_that_ends_the_program_while_it_is_stopped_ends_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(log, "a")
    ending = threading.Event()
    close = Threads.close

    def closing(self: Threads) -> None:
        ending.set()
        close(self)

    monkeypatch.setattr(Threads, "close", closing)
    subscriber = mamba.Subscriber("work", log, group="g", start="earliest", concurrency=2)

    def leave(message: mamba.Message) -> None:
        subscriber.stop()
        # It has seen that it is to stop, and waits for what is in hand.
        assert ending.wait(60)
        raise SystemExit(3)

    subscriber.subscribe(leave)
    with pytest.raises(SystemExit):
        subscriber.run()
    subscriber.close()


def test_who_has_no_hands_free_does_not_count_the_moments(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    message_topic(log, "other")
    looks: list[int] = []
    look = Sharing.look

    def counted(self: Sharing) -> None:
        looks.append(1)
        look(self)

    monkeypatch.setattr(Sharing, "look", counted)
    pauses: list[float | None] = []

    class Freed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout)
            return super().wait(timeout)

    release, clock, watched = threading.Event(), HandClock(), Watched(log)
    subscriber = mamba.Subscriber(
        ["work", "other"], watched, group="g", start="earliest", concurrency=2, clock=clock
    )
    subscriber._freed = Freed()
    subscriber.subscribe(lambda message: release.wait(60))
    # Something falls due in one topic while there is more than enough of the other.
    send(log, Sent("later", deliver_at=clock.now() + SECOND))
    with Running(subscriber):
        wait_for(lambda: bool(log.records(pending_namespace("g", log["work"]))))
        send(log, *range(20), topic="other")
        wait_for(lambda: subscriber.statistics().inhand == 2)
        clock.advance(2)
        wait_for(lambda: pauses[-1:] == [sharing.LOOK])
        before, looked, waited = len(pauses), len(looks), len(watched.pauses)
        wait_for(lambda: len(pauses) > before + 5)
        # A look, and a pause until the next: not one for each moment that the message is overdue.
        assert set(pauses[before:]) == {sharing.LOOK}
        assert len(watched.pauses) == waited
        assert len(looks) <= looked + (len(pauses) - before) + 1
        release.set()


def test_a_rule_that_cannot_judge_a_named_topic_is_refused_where_it_is_subscribed_to(log):
    log.create_topic("readings", {"degrees": pl.Float64}).append([{"degrees": 21.0}])
    typo = mamba.FilterRule().add_condition("degree", 20, op=">", on="column")
    with mamba.Subscriber(["readings", "later"], log, start="earliest") as subscriber:
        with pytest.raises(
            mamba.ColumnNotFound, match="topic 'readings': .*'degree'.*did you mean 'degrees'"
        ):
            subscriber.subscribe(print, rule=typo)
        heard: list = []
        subscriber.subscribe(
            lambda message: heard.append(message.value), rule=mamba.FilterRule(pl.col("degrees") > 20)
        )
        subscriber.run(until="empty")
        assert heard == [{"degrees": 21.0}]
        log.create_topic("later", {"n": pl.Int64}).append([{"n": 1}])
        with pytest.raises(mamba.ColumnNotFound, match="topic 'later'.*'degrees'"):
            subscriber.run(until="empty")


def test_a_topic_that_only_a_pattern_matches_and_that_one_of_the_rules_cannot_judge_is_left_out(log, caplog):
    log.create_topic("readings.cellar", {"degrees": pl.Float64}).append([{"degrees": 21.0}])
    log.create_topic("readings.log", {"text": pl.String}).append([{"text": "a stranger"}])
    heard: list = []
    with mamba.Subscriber("readings.*", log, group="g", start="earliest") as subscriber:
        subscriber.subscribe(lambda message: heard.append(message.value))
        subscriber.subscribe(lambda message: None, rule=mamba.FilterRule(pl.col("degrees") > 20))
        subscriber.run(until="empty")
    assert heard == [{"degrees": 21.0}]
    assert [record.getMessage().count("'readings.log'") for record in caplog.records] == [1]
