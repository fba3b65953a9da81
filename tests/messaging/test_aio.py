"""The asyncio twins: nothing blocks the event loop, and a cancellation leaves nothing half done."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mamba_stream as mamba
from mamba_stream import Log, aio
from mamba_stream.log import open_log
from mamba_stream.messaging.shared import SharedGroup
from tests.messaging.desk import Sent as Row, message_topic, rows


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        message_topic(opened)
        yield opened


def fill(log: Log, *values: Any) -> None:
    log["work"].append(rows([Row(value) for value in values]))


def there(log: Log) -> list[Any]:
    with mamba.Consumer(log) as consumer:
        consumer.subscribe("work")
        return [message.value for message in consumer.consume(until="empty")]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it comes true in a thread
            await asyncio.sleep(0.002)


# --- sending


def test_what_was_awaited_is_there(log: Log) -> None:
    async def main() -> None:
        async with aio.Publisher("work", log) as publisher, aio.Producer(log) as producer:
            assert await publisher.publish("a", key="k", headers={"h": "v"}) == mamba_receipt(0)
            assert there(log) == ["a"]
            assert await producer.send("work", {"b": 1}) == mamba_receipt(1)
            assert await producer.send_many("work", ["c", "d"]) == {0: (2, 4)}
            async with producer.transaction() as tx:
                tx.send("work", "e")
            assert (await producer.statistics()).sent == 4
            await producer.flush()

    asyncio.run(main())
    assert there(log) == ["a", {"b": 1}, "c", "d", "e"]


def mamba_receipt(offset: int) -> Any:
    from mamba_stream.messaging.parcel import Receipt

    return Receipt("work", 0, offset)


def test_a_transaction_that_fails_sends_nothing(log: Log) -> None:
    async def main() -> None:
        async with aio.Producer(log) as producer:
            with pytest.raises(ZeroDivisionError):
                async with producer.transaction() as tx:
                    tx.send("work", "never")
                    1 / 0  # noqa: B018

    asyncio.run(main())
    assert there(log) == []


def test_coroutines_that_send_at_once_share_commits_and_keep_their_order(log: Log) -> None:
    async def main() -> int:
        async with aio.Producer(log, max_buffer_bytes=50_000, max_message_bytes=1_000) as producer:
            receipts = await asyncio.gather(*(producer.send("work", number) for number in range(2_000)))
            assert [receipt.offset for receipt in receipts] == list(range(2_000))
            return (await producer.statistics()).commits

    assert asyncio.run(main()) < 200
    assert there(log) == list(range(2_000))


def test_what_cannot_be_sent_is_raised_where_it_is_awaited(log: Log) -> None:
    async def main() -> None:
        async with aio.Producer(log) as producer:
            with pytest.raises(mamba.InvalidInput):
                await producer.send("work", {1, 2})
            with pytest.raises(mamba.TopicNotFound):
                await producer.send("nowhere", "x")
            log.delete_topic("work")
            with pytest.raises(mamba.TopicNotFound):
                await producer.send("work", "x")

    asyncio.run(main())


@pytest.mark.embedded
def test_the_loop_goes_on_while_a_commit_waits_and_a_full_buffer_too(log: Log) -> None:
    def held() -> threading.Thread:
        # Nobody commits while somebody else does.
        thread = threading.Thread(target=lambda: held_lock(log, taken, release))
        thread.start()
        assert taken.wait(20)
        return thread

    taken, release = threading.Event(), threading.Event()

    async def main() -> None:
        async with aio.Producer(log, max_buffer_bytes=100, max_message_bytes=50) as producer:
            await producer.send("work", "first")
            thread = held()
            sends = [asyncio.create_task(producer.send("work", number)) for number in range(10)]
            beats = 0
            while beats < 50:
                await asyncio.sleep(0.001)
                beats += 1
            assert not any(send.done() for send in sends)
            release.set()
            await asyncio.gather(*sends)
            thread.join()

    asyncio.run(main())
    assert there(log) == ["first", *range(10)]


def held_lock(log: Log, taken: threading.Event, release: threading.Event) -> None:
    """Keeps the index's write lock, as a commit of another process does."""
    with log._store.index._env.begin(write=True):
        taken.set()
        release.wait(20)


# --- consuming


def test_asking_for_the_next_acknowledges_and_leaving_does_not(log: Log) -> None:
    fill(log, *"abcde")

    async def some(most: int) -> list[Any]:
        found = []
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            async for message in consumer.consume():
                found.append(message.value)
                if len(found) == most:
                    break
        return found

    assert asyncio.run(some(3)) == ["a", "b", "c"]
    assert asyncio.run(some(1)) == ["c"]

    async def rest() -> list[Any]:
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            return [message.value async for message in consumer.consume(until="empty")]

    assert asyncio.run(rest()) == ["c", "d", "e"]
    assert asyncio.run(rest()) == []


def test_a_cancelled_consumer_redelivers_what_was_in_hand(log: Log) -> None:
    fill(log, "a", "b")
    seen: list[Any] = []

    async def work(consumer: aio.Consumer) -> None:
        async for message in consumer.consume():
            seen.append((message.value, message.attempt))
            if message.value == "b":
                await asyncio.Event().wait()

    async def main() -> None:
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            for _ in range(2):
                task = asyncio.create_task(work(consumer))
                count = len(seen)
                await until(lambda count=count: len(seen) > count and seen[-1][0] == "b")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await consumer.position() == {("work", 0): 1}

    asyncio.run(main())
    assert seen == [("a", 1), ("b", 1), ("b", 2)]
    assert log.group_offsets("g") == {("work", 0): 1}


def test_a_loop_that_is_cancelled_while_it_waits_goes_on_where_it_was(log: Log) -> None:
    async def main() -> list[Any]:
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            messages = consumer.consume()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(messages), 0.01)
            fill(log, *"abc")
            return [(await anext(messages)).value for _ in range(3)]

    assert asyncio.run(main()) == ["a", "b", "c"]
    assert log.group_offsets("g") == {("work", 0): 2}


def test_a_poll_that_is_cancelled_took_nothing(log: Log) -> None:
    async def main() -> list[list[Any]]:
        found = []
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            for number in range(20):
                poll = asyncio.create_task(consumer.poll("10s"))
                await asyncio.sleep(0)
                fill(log, number)
                # Cancelled at some moment: before, while or after the thread takes it.
                await asyncio.sleep(number / 4_000)
                poll.cancel()
                await asyncio.wait([poll])
                if not poll.cancelled():
                    found.append([message.value for message in poll.result()])
            while messages := await consumer.poll("10ms"):
                found.append([message.value for message in messages])
        return found

    found = asyncio.run(main())
    assert [value for values in found for value in values] == list(range(20))
    assert log.group_offsets("g") == {("work", 0): 20}


def test_a_poll_that_is_cancelled_before_it_begins_acknowledges_nothing_and_forgets_nothing(log: Log) -> None:
    fill(log, "a")

    async def main() -> list[list[Any]]:
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            first = await consumer.poll()
            busy, over = threading.Event(), threading.Event()
            consumer._thread.submit(lambda: (busy.set(), over.wait(20)))
            poll = asyncio.create_task(consumer.poll("10s"))
            await until(busy.is_set)
            poll.cancel()
            await asyncio.wait([poll])
            over.set()
            return [[message.value for message in each] for each in (first, await consumer.poll())]

    assert asyncio.run(main()) == [["a"], []]
    assert log.group_offsets("g") == {("work", 0): 1}


def test_others_run_while_a_consumer_waits(log: Log) -> None:
    async def main() -> list[Any]:
        async with aio.Consumer(log) as consumer:
            await consumer.subscribe("work")

            async def receive() -> Any:
                async for message in consumer.consume():
                    return message.value
                return None

            receiving = asyncio.create_task(receive())
            for _ in range(20):
                await asyncio.sleep(0.001)
            async with aio.Publisher("work", log) as publisher:
                await publisher.publish("now")
            return [await receiving]

    assert asyncio.run(main()) == ["now"]


def test_the_ends_of_a_loop(log: Log) -> None:
    fill(log, *range(10))

    async def main() -> None:
        async with aio.Consumer(log) as consumer:
            await consumer.subscribe("work")
            assert [m.value async for m in consumer.consume(max_messages=4)] == [0, 1, 2, 3]
            assert await consumer.position() == {("work", 0): 4}
            assert [m.value async for m in consumer.consume(timeout="20ms")] == [4, 5, 6, 7, 8, 9]
            await consumer.seek("earliest")
            assert len([m async for m in consumer.consume(until="empty")]) == 10
            with pytest.raises(mamba.InvalidInput):
                consumer.consume(until="never")
        with pytest.raises(mamba.LogClosed, match="this consumer was closed"):
            await consumer.poll()

    asyncio.run(main())


def test_outputs_and_the_acknowledgement_commit_together(log: Log) -> None:
    fill(log, 2, 3)
    log.create_topic("squares", log["work"].schema)

    async def main() -> None:
        async with aio.Consumer(log, group="g") as consumer:
            await consumer.subscribe("work")
            async for message in consumer.consume(until="empty"):
                async with message.transaction() as tx:
                    tx.send("squares", message.value**2)

    asyncio.run(main())
    assert log.group_offsets("g") == {("work", 0): 2}
    with mamba.Consumer(log) as consumer:
        consumer.subscribe("squares")
        assert [message.value for message in consumer.consume(until="empty")] == [4, 9]


# --- subscribing


def test_callbacks_run_on_the_loop_so_many_at_once(log: Log) -> None:
    fill(log, *range(40))
    done: list[int] = []
    most = 0
    under_way = 0

    async def main() -> None:
        here = threading.get_ident()

        async def work(message: mamba.Message) -> None:
            nonlocal most, under_way
            assert threading.get_ident() == here
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.002)
            under_way -= 1
            done.append(message.value)

        async with aio.Subscriber("work", log, group="g", start="earliest", concurrency=8) as subscriber:
            await subscriber.subscribe(work)
            await subscriber.run(until="empty")
            assert (await subscriber.statistics()).inhand == 0

    asyncio.run(main())
    assert sorted(done) == list(range(40))
    assert 1 < most <= 8


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_cancelled_subscriber_gives_back_what_was_in_hand_and_nothing_is_to_blame(
    log: Log, attempts: int
) -> None:
    fill(log, *range(6))
    started: list[int] = []

    async def hang(message: mamba.Message) -> None:
        started.append(message.value)
        if message.value:
            await asyncio.Event().wait()

    async def main() -> None:
        async with aio.Subscriber(
            "work", log, group="g", start="earliest", concurrency=4, attempts=attempts, visibility="10m"
        ) as subscriber:
            await subscriber.subscribe(hang)
            running = asyncio.create_task(subscriber.run())
            await until(lambda: len(started) >= 5)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(main())
    again: list[tuple[int, int]] = []
    with mamba.Subscriber("work", log, group="g", attempts=attempts) as subscriber:
        subscriber.subscribe(lambda message: again.append((message.value, message.attempt)))
        subscriber.run(until="empty")
    # A delivery of which the lease ends counts: nobody waited for that.
    assert sorted(again) == [(value, 1) for value in range(1, 6)]


def test_stop_finishes_what_is_in_hand(log: Log) -> None:
    fill(log, "a")
    done: list[Any] = []

    async def main() -> None:
        async with aio.Subscriber("work", log, group="g", start="earliest") as subscriber:

            async def work(message: mamba.Message) -> None:
                subscriber.stop()
                await asyncio.sleep(0.01)
                done.append(message.value)

            await subscriber.subscribe(work)
            await subscriber.run()
            await subscriber.run(until="empty")

    asyncio.run(main())
    assert done == ["a"]


def test_plain_functions_are_called_too_but_not_on_the_loop(log: Log) -> None:
    fill(log, "a")
    where: list[int] = []

    async def main() -> None:
        async with aio.Subscriber("work", log, start="earliest") as subscriber:
            await subscriber.subscribe(lambda message: where.append(threading.get_ident()))
            await subscriber.run(until="empty")

    asyncio.run(main())
    assert where and where != [threading.get_ident()]


def test_a_coroutine_may_ask_for_more_time_while_the_loop_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on, calls = threading.Event(), []
    settle = SharedGroup.settle

    def slow(self: SharedGroup, leases: Any) -> None:
        if any(lease.until for lease in leases):
            # Ends only if the loop goes on meanwhile.
            assert went_on.wait(30)
        settle(self, leases)

    monkeypatch.setattr(SharedGroup, "settle", slow)

    async def main() -> None:
        async def handle(message: mamba.Message) -> None:
            calls.append(message.attempt)
            asyncio.get_running_loop().call_later(0.01, went_on.set)
            await message.extend_async("10m")
            await asyncio.sleep(0.5)

        async with mamba.aio.Publisher("work", log) as publisher:
            await publisher.publish("long")
        async with mamba.aio.Subscriber(
            "work", log, group="g", start="earliest", visibility="200ms"
        ) as subscriber:
            await subscriber.subscribe(handle)
            await subscriber.run(until="empty")

    asyncio.run(main())
    assert calls == [1]


def test_a_callback_that_fails_is_called_again(log: Log) -> None:
    fill(log, "a")
    attempts: list[int] = []

    async def main() -> None:
        async def work(message: mamba.Message) -> None:
            attempts.append(message.attempt)
            if message.attempt < 3:
                raise ValueError

        async with aio.Subscriber(
            "work", log, group="g", start="earliest", backoff=("1ms", "1ms")
        ) as subscriber:
            await subscriber.subscribe(work)
            await subscriber.run(until="empty")

    asyncio.run(main())
    assert attempts == [1, 2, 3]


# --- the twins


@pytest.mark.parametrize("name", aio.__all__)
def test_a_twin_offers_what_its_core_does_and_says_what(name: str) -> None:
    core, twin = getattr(mamba, name), getattr(aio, name)
    offered = {m for m, value in vars(core).items() if not m.startswith("_") and inspect.isfunction(value)}
    assert [member for member in offered if not hasattr(twin, member)] == []
    assert [member for member in offered if not inspect.getdoc(getattr(twin, member))] == []


@pytest.mark.parametrize("name", ["Producer", "Consumer"])
def test_what_cannot_be_opened_says_so_where_it_is_entered(name: str) -> None:
    async def main() -> None:
        async with getattr(aio, name)("localhost:9092"):
            pass

    with pytest.raises(mamba.LogUnavailable, match="pass a directory"):
        asyncio.run(main())
