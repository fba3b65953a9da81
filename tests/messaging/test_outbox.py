"""What holds of whatever is put into an outbox: together, in order, once, bounded, and heard of."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import multiprocessing.process
import multiprocessing.util
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream import (
    CommitUnknown,
    DiskFull,
    ForkedProcess,
    LogClosed,
    MambaStreamError,
    NotAuthenticated,
    NotCommitted,
    Producer,
    ServerUnavailable,
    TopicEnded,
    TopicNotFound,
)
from mamba_stream.core.keys import hash_keys
from mamba_stream.log import Log, open_log, rows
from mamba_stream.messaging.message import Block
from mamba_stream.messaging.parcel import Parcel, Piece, Receipt
from tests import forking
from tests.messaging.flaky import FlakyLog
from tests.sizes import examples


def values(log: Log, topic: str = "t") -> list[Any]:
    """All values of a topic, partition by partition."""
    batches = sorted(log[topic].read(), key=lambda batch: (batch.partition, batch.offset))
    return [value for b in batches for value in Block(topic, 0, b.data, b.offsets.tolist(), 0).values]


def at(log: Log, receipt: Receipt) -> Any:
    """The value that lies where a receipt says."""
    (batch,) = log[receipt.topic].read(
        start={receipt.partition: receipt.offset}, partitions=[receipt.partition], max_rows=1
    )
    return Block(receipt.topic, 0, batch.data, [0], 0).values[0]


@pytest.fixture
def flaky(log: Log) -> FlakyLog:
    return FlakyLog(log)


# --- together, and where -----------------------------------------------------------------------------------------


def test_every_handle_knows_where_its_message_is(log: Log):
    with Producer(log) as producer:
        producer.create_topic("t", 4)
        sent = [producer.send("t", f"v{n}", key=None if n % 3 else f"k{n % 7}") for n in range(500)]
        for n, handle in enumerate(sent):
            receipt = handle.result(30)
            assert handle.done() and handle.exception() is None
            assert at(log, receipt) == f"v{n}"
    assert sorted(values(log)) == sorted(f"v{n}" for n in range(500))


def test_what_is_sent_within_the_linger_shares_a_commit_across_topics(flaky: FlakyLog):
    with Producer(flaky, linger="10s") as producer:
        for name in ("a", "b", "c"):
            producer.create_topic(name)
        before = flaky.committed
        for n in range(30):
            producer.send("abc"[n % 3], str(n))
        producer.flush()
        assert flaky.committed - before == 1
        assert producer.statistics().commits == 1


def test_so_many_bytes_end_the_linger(log: Log):
    with Producer(log, linger="1h", batch_bytes=1000) as producer:
        producer.create_topic("t", 1)
        first = producer.send("t", b"x" * 100)
        assert not first.done()
        producer.send("t", b"x" * 1000)
        before, lsn = log["t"].offsets()[0][1], log.lsn()
        if before < 2:
            log.wait(lsn, 30)
        assert log["t"].offsets() == {0: (0, 2)}


def test_asking_for_a_result_ends_the_linger(log: Log):
    with Producer(log, linger="1h") as producer:
        producer.create_topic("t", 1)
        assert producer.send("t", "now").result(30) == Receipt("t", 0, 0)


def test_a_key_keeps_its_order_and_its_partition(log: Log):
    with Producer(log, linger="1ms") as producer:
        producer.create_topic("t", 8)
        for n in range(3000):
            producer.send("t", n, key=f"k{n % 50}")
    seen: dict[str, list[int]] = {}
    partitions: dict[str, set[int]] = {}
    for batch in log["t"].read():
        block = Block("t", 0, batch.data, [], 0)
        for key, value in zip(block.keys, block.values, strict=True):
            seen.setdefault(key, []).append(value)
            partitions.setdefault(key, set()).add(batch.partition)
    for key, found in seen.items():
        assert found == sorted(found)
        import pyarrow as pa

        group = int(hash_keys([pa.array([key])])[0]) % 256
        assert partitions[key] == {group * 8 // 256}


def test_threads_send_at_once_and_nothing_is_lost_or_doubled(log: Log):
    with Producer(log, linger="1ms", max_buffer_bytes=20_000) as producer:
        producer.create_topic("t", 3)

        def send(who: int) -> None:
            for n in range(500):
                producer.send("t", [who, n])

        threads = [threading.Thread(target=send, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = values(log)
    assert sorted(found) == [[who, n] for who in range(6) for n in range(500)]


@settings(max_examples=examples(40))
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30))
def test_what_comes_out_is_what_went_in_whatever_is_mixed(steps: list[tuple[str, int, bool]]):
    import tempfile

    with (
        tempfile.TemporaryDirectory() as place,
        open_log(place) as log,
        Producer(log, linger="1h") as producer,
    ):
        producer.create_topic("t", 3)
        handles: list[Any] = []
        for text, count, flush in steps:
            if count:
                many = producer.send_many("t", [text] * count)
                assert len(many) == count
                handles.append((many, [text] * count))
            else:
                handles.append((producer.send("t", text, key=text), [text]))
            if flush:
                producer.flush()
        producer.flush()
        for handle, sent in handles:
            found = handle.result()
            if isinstance(found, Receipt):
                found = {found.partition: (found.offset, found.offset + 1)}
            assert sum(following - first for first, following in found.values()) == len(sent)
            for partition, (first, following) in found.items():
                for offset in range(first, following):
                    assert at(log, Receipt("t", partition, offset)) == sent[0]
        assert sorted(values(log)) == sorted(text for _, sent in handles for text in sent)


# --- once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_that_may_have_happened_is_tried_again_and_lands_once(flaky: FlakyLog, when: str):
    with Producer(flaky, linger="1h") as producer:
        producer.create_topic("t", 3)
        producer.create_topic("u", 1)
        for n in range(3):
            flaky.plan = [(when, CommitUnknown("the line went dead")), ("after", CommitUnknown("again"))]
            sent = [producer.send("t", f"{n}.{k}", key=str(k)) for k in range(10)]
            producer.send("u", n, priority=n)
            producer.flush()
            assert [at(flaky, handle.result()) for handle in sent] == [f"{n}.{k}" for k in range(10)]
    assert sorted(values(flaky)) == sorted(f"{n}.{k}" for n in range(3) for k in range(10))
    assert values(flaky, "u") == [0, 1, 2]


def test_what_nobody_can_know_is_said_and_later_messages_are_not_taken_for_it(flaky: FlakyLog):
    with Producer(flaky, linger="1h") as producer:
        producer.create_topic("t", 1)
        producer.send("t", "first").result()
        flaky.plan = [("before", CommitUnknown("?"))] * 4 + [("after", CommitUnknown("?"))]
        with pytest.raises(CommitUnknown):
            producer.send("t", "landed, but nobody heard").result()
        producer.send("t", "last").result()
    assert values(flaky) == ["first", "landed, but nobody heard", "last"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [ServerUnavailable("gone"), NotAuthenticated("the token ended")])
def test_what_may_have_been_sent_stays_unknown_where_it_cannot_be_tried_again(flaky: FlakyLog, when, error):
    with Producer(flaky, linger="1h") as producer:
        producer.create_topic("t", 1)
        producer.send("t", "first").result()
        flaky.plan = [(when, CommitUnknown("?")), ("before", error)]
        with pytest.raises(CommitUnknown, match="could not be tried again"):
            producer.send("t", "perhaps").result()
        # Under the number of the one before it would be taken for it, and never be there.
        producer.send("t", "last").result()
    assert values(flaky) == ["first", *["perhaps"] * (when == "after"), "last"]


def test_without_idempotence_a_commit_is_not_tried_again(flaky: FlakyLog):
    with Producer(flaky, linger="1h", idempotent=False) as producer:
        producer.create_topic("t", 1)
        flaky.plan = [("after", CommitUnknown("?"))]
        with pytest.raises(CommitUnknown):
            producer.send("t", "once").result()
    assert values(flaky) == ["once"]


# --- bounded -------------------------------------------------------------------------------------------------------


def test_who_sends_faster_than_the_log_takes_waits(flaky: FlakyLog):
    producer = Producer(flaky, linger="0s", max_buffer_bytes=10_000)
    producer.create_topic("t", 1)
    flaky.gate.clear()
    progress = []
    done = threading.Event()

    def send() -> None:
        for n in range(100):
            producer.send("t", b"x" * 1000)
            progress.append(n)
        done.set()

    waits = threading.Event()
    wait_for_room = producer._outbox._wait_for_room

    def waiting(size: int) -> None:
        waits.set()
        wait_for_room(size)

    producer._outbox._wait_for_room = waiting
    thread = threading.Thread(target=send)
    thread.start()
    assert waits.wait(30)
    # Nothing leaves: what is in it now is all that it takes.
    waiting_bytes = producer.statistics().waiting_bytes
    assert not done.is_set()
    assert len(progress) * 1000 <= waiting_bytes <= 10_000
    flaky.gate.set()
    assert done.wait(30)
    thread.join()
    producer.close()
    assert flaky["t"].offsets() == {0: (0, 100)}


def test_a_message_larger_than_the_buffer_goes_alone(log: Log):
    with Producer(log, max_buffer_bytes=10) as producer:
        producer.create_topic("t", 1)
        assert producer.send("t", b"x" * 1000).result().offset == 0


# --- heard of -------------------------------------------------------------------------------------------------------


def test_an_error_is_raised_from_the_handle_and_then_from_nowhere_else(flaky: FlakyLog):
    with Producer(flaky) as producer:
        producer.create_topic("t", 1)
        flaky.plan = [("before", DiskFull("no room"))]
        sent = producer.send("t", "a")
        with pytest.raises(DiskFull, match="no room"):
            sent.result(30)
        assert isinstance(sent.exception(), DiskFull)
        assert "no room" in repr(sent)
        producer.send("t", "b")
        producer.flush()
    assert values(flaky) == ["b"]


@pytest.mark.parametrize("through", ["flush", "close", "send", "send_many", "transaction", "exit"])
def test_an_error_that_nobody_asked_for_is_raised_at_the_next_call(flaky: FlakyLog, through: str):
    producer = Producer(flaky, linger="1h")
    producer.create_topic("t", 1)
    flaky.plan = [("before", DiskFull("no room"))]
    producer.send("t", "a")
    sent = producer.send("t", "b")
    if through in ("send", "send_many", "transaction"):
        # Waits until it failed, without asking what was wrong.
        asked = threading.Event()
        assert sent._parcel.home.listen(sent._parcel, 1, asked.set) is False or asked.wait(30)
    with pytest.raises(DiskFull, match="no room") as raised:
        match through:
            case "flush":
                producer.flush()
            case "close":
                producer.close()
            case "send":
                producer.send("t", "c")
            case "send_many":
                producer.send_many("t", ["c"])
            case "transaction":
                producer.transaction()
            case "exit":
                with producer:
                    pass
    assert raised.value.__notes__ == ["2 messages to topic 't' not sent"]
    producer.close()
    assert values(flaky) == []
    assert producer.statistics().failed == 2


def test_what_is_wrong_with_one_topic_is_not_its_neighbours(log: Log):
    with Producer(log, linger="1h") as producer:
        producer.create_topic("good", 1)
        producer.create_topic("ended", 1)
        good, ended = producer.send("good", 1), producer.send("ended", 1)
        log["ended"].end()
        with pytest.raises(TopicEnded):
            ended.result(30)
        assert good.result(30).offset == 0


def test_a_topic_that_was_deleted_says_so_and_one_that_has_its_name_now_is_not_it(log: Log):
    with Producer(log, linger="1h") as producer:
        producer.create_topic("t", 1)
        producer.send("t", "a").result()
        log.delete_topic("t")
        with pytest.raises(TopicNotFound):
            producer.send("t", "b").result()
        producer.create_topic("t", 1)
        sent = producer.send("t", "c")
        log.delete_topic("t")
        producer.create_topic("t", 1)
        with pytest.raises(TopicNotFound, match="another has its name"):
            sent.result()
        assert producer.send("t", "d").result().offset == 0
        assert values(log) == ["d"]


def test_after_close_nothing_is_taken_and_closing_again_is_nothing(log: Log):
    producer = Producer(log)
    producer.create_topic("t", 1)
    producer.send("t", "a")
    producer.close()
    producer.close()
    for send in (
        lambda: producer.send("t", "b"),
        lambda: producer.send_many("t", ["b"]),
        lambda: producer.send("unknown", "b"),
        producer.transaction,
    ):
        with pytest.raises(MambaStreamError, match="was closed"):
            send()
    assert values(log) == ["a"]
    assert log.topics() == ["t"]


def test_a_log_that_is_closed_under_it_is_heard_of(tmp_path: Path):
    log = open_log(tmp_path / "log")
    producer = Producer(log, linger="1h")
    producer.create_topic("t", 1)
    sent = producer.send("t", "a")
    log.close()
    with pytest.raises(LogClosed):
        sent.result(30)
    producer.close()


def test_an_error_of_the_block_is_not_hidden_by_one_of_sending(flaky: FlakyLog):
    with pytest.raises(KeyError) as raised, Producer(flaky, linger="1h") as producer:
        producer.create_topic("t", 1)
        producer.send("t", "a")
        flaky.plan = [("before", DiskFull("no room"))]
        raise KeyError
    assert "no room" in raised.value.__notes__[0]


def test_a_timeout_is_one(flaky: FlakyLog):
    with Producer(flaky) as producer:
        producer.create_topic("t", 1)
        flaky.gate.clear()
        sent = producer.send("t", "a")
        assert "under way" in repr(sent)
        with pytest.raises(TimeoutError):
            sent.result(0.01)
        with pytest.raises(TimeoutError):
            producer.flush(0.01)
        flaky.gate.set()
        assert sent.result(30).offset == 0
        assert "offset=0" in repr(sent)


def test_a_handle_can_be_awaited(flaky: FlakyLog):
    async def main() -> None:
        with Producer(flaky, linger="1h") as producer:
            producer.create_topic("t", 1)
            flaky.gate.clear()
            sent = [producer.send("t", n) for n in range(20)]
            tasks = asyncio.gather(*[_awaited(handle) for handle in sent])
            await asyncio.sleep(0)
            flaky.gate.set()
            assert [receipt.offset for receipt in await tasks] == list(range(20))
            assert (await producer.send_many("t", ["a", "b"])) == {0: (20, 22)}
            assert (await sent[0]).offset == 0
            flaky.plan = [("before", DiskFull("no room"))]
            with pytest.raises(DiskFull):
                await producer.send("t", "x")

    async def _awaited(handle: Any) -> Receipt:
        return await handle

    asyncio.run(main())


@pytest.mark.embedded
def test_a_sender_that_is_closed_leaves_no_numbers_in_the_index(flaky: FlakyLog):
    with Producer(flaky, linger="0s") as producer:
        for topic in ("t", "gone", "other"):
            producer.create_topic(topic, 1)
            for number in range(3):
                producer.send(topic, number).result()
        flaky.plan = [("after", CommitUnknown("who knows"))] * 5
        with pytest.raises(CommitUnknown):
            producer.send("t", "unknown").result()
        producer.send("t", "under another name").result()
        flaky.delete_topic("gone")
    assert not [key for kind in (rows.PRODUCER, rows.SEQUENCE) for key, _ in flaky._store.items(kind)]
    assert values(flaky) == [0, 1, 2, "unknown", "under another name"]


def test_one_error_that_befell_many_topics_is_heard_once(flaky: FlakyLog):
    with Producer(flaky, linger="1h") as producer:
        for topic in ("a", "b", "c"):
            producer.create_topic(topic, 1)
            producer.send(topic, "x")
        flaky.plan = [("before", CommitUnknown("who knows"))] * 5
        with pytest.raises(CommitUnknown) as raised:
            producer.flush()
        assert [note.split("'")[1] for note in raised.value.__notes__] == ["a", "b", "c"]
        producer.flush()
        producer.send("a", "y").result()


def test_a_message_that_waits_for_room_hears_that_its_log_was_closed(tmp_path: Path):
    with open_log(tmp_path / "log"):
        # The other handle keeps open what both share.
        log = open_log(tmp_path / "log")
        producer = Producer(log, linger="0s")
        producer.create_topic("t", 1, max_messages=1)
        producer.send("t", "a").result()
        waits = producer.send("t", "b")
        with pytest.raises(TimeoutError):
            waits.result(0.05)
        log.close()
        assert isinstance(waits.exception(20), LogClosed)
        producer.close()


def test_room_is_looked_for_without_a_thread_where_none_can_start(log: Log, monkeypatch: pytest.MonkeyPatch):
    start = threading.Thread.start

    def ending(thread: threading.Thread) -> None:
        if thread.name.endswith("room") or "producer" in thread.name:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", ending)
    with Producer(log, linger="0s") as producer:
        topic = producer.create_topic("t", 1, max_messages=1)
        producer.send("t", "a").result()
        waits = producer.send("t", "b")
        with pytest.raises(TimeoutError):
            waits.result(0.05)
        with log.transaction() as tx:
            tx.commit_offsets("g", {("t", 0): 1})
        assert waits.result(20).offset == 1
        assert topic.offsets() == {0: (1, 2)}


def test_where_no_thread_can_start_any_more_the_send_says_so(log: Log, monkeypatch: pytest.MonkeyPatch):
    def ending(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with Producer(log) as producer:
        producer.create_topic("t", 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", ending)
            with pytest.raises(MambaStreamError, match="nothing was sent"):
                producer.send("t", "lost")
        producer.send("t", "a").result()
    assert values(log) == ["a"]


@pytest.mark.parametrize("how", ["send", "send_many", "transaction"])
def test_a_ctrl_c_within_a_send_harms_no_other_message(log: Log, how: str):
    """Python answers signals where a function begins and after calls: in turn at each of these places."""
    with Producer(log) as first:
        first.create_topic("t", 1)
        first.create_topic("neighbour", 1)
    step, interrupted = 0, True
    while interrupted:
        begin = log["t"].offsets()[0][1]
        with Producer(log, linger="1h", max_buffer_bytes=1_000) as producer:
            neighbour = producer.send("neighbour", step)
            interrupted = _interrupted_at(step, producer, how)
            later = [producer.send("t", number) for number in range(3)]
            producer.flush(30)
            places = [handle.result(0).offset - begin for handle in later]
            found = values(log)[begin:]
            assert [found[place] for place in places] == [0, 1, 2]
            assert found[: places[0]] in ([], ["maybe"])
            neighbour.result(0)
            # The buffer is as large as it was.
            assert producer.statistics().waiting_bytes == 0
            producer.send("t", "x" * 2_000).result(30)
        step += 1
    assert step > 10


def _interrupted_at(step: int, producer: Producer, how: str) -> bool:
    left = step

    def profile(frame: Any, event: str, argument: object) -> None:
        nonlocal left
        if (
            event == "c_call"
            or "messaging" not in frame.f_code.co_filename
            or "tests" in frame.f_code.co_filename
        ):
            return
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        if how == "send":
            producer.send("t", "maybe")
        elif how == "send_many":
            producer.send_many("t", ["maybe"])
        else:
            with producer.transaction() as tx:
                tx.send("t", "maybe")
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


# --- the end of a program --------------------------------------------------------------------------------------------


def run(
    script: str, place: Path, environment: dict[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(place)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise SystemExit(3)",
        "raise ValueError('the script failed')",
        "del producer; import gc; gc.collect()",
        "import atexit; atexit.register(lambda: producer.send('t', 'at exit')); raise SystemExit(0)",
    ],
)
def test_a_script_that_sends_and_ends_has_sent(tmp_path: Path, environment: dict[str, str], ending: str):
    script = f"""
import sys
import mamba_stream as mamba
producer = mamba.Producer(sys.argv[1], linger="1h")
producer.create_topic("t", 4)
for n in range(1000):
    producer.send("t", n)
{ending}
"""
    done = run(script, tmp_path / "log", environment)
    if not ending or "del" in ending or "atexit" in ending:
        assert (done.returncode, done.stderr) == (0, "")
    with open_log(tmp_path / "log") as log:
        found = [value for value in values(log) if value != "at exit"]
        assert sorted(found) == list(range(1000))


def test_what_is_sent_after_the_end_is_refused_rather_than_lost(tmp_path: Path, environment: dict[str, str]):
    script = """
import atexit, sys
atexit.register(lambda: producer.send("t", "too late"))
import mamba_stream as mamba
producer = mamba.Producer(sys.argv[1], linger="1h")
producer.create_topic("t", 4)
producer.send("t", 1)
"""
    done = run(script, tmp_path / "log", environment)
    assert "this sender was closed" in done.stderr
    with open_log(tmp_path / "log") as log:
        assert values(log) == [1]


def test_a_child_of_multiprocessing_that_sends_and_ends_has_sent(tmp_path: Path, environment: dict[str, str]):
    (tmp_path / "child.py").write_text(
        """
import multiprocessing, sys
import mamba_stream as mamba

def child(place):
    global producer
    producer = mamba.Producer(place, linger="1h")
    producer.create_topic("t", 1)
    producer.send("t", "from the child")

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=(sys.argv[1],))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "child.py"), str(tmp_path / "log")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with open_log(tmp_path / "log") as log:
        assert values(log) == ["from the child"]


def test_what_was_not_sent_when_the_script_ended_is_shown(tmp_path: Path, environment: dict[str, str]):
    script = """
import sys
import mamba_stream as mamba
producer = mamba.Producer(sys.argv[1], linger="1h")
topic = producer.create_topic("t", 4)
producer.send("t", 1)
topic.end()
"""
    done = run(script, tmp_path / "log", environment)
    assert "TopicEnded" in done.stderr
    assert "1 message to topic 't' not sent" in done.stderr


def test_one_that_is_forgotten_sends_what_it_has_and_lets_go(tmp_path: Path):
    producer = Producer(tmp_path / "log", linger="1h")
    producer.create_topic("t", 1)
    sent = producer.send("t", "a")
    log = weakref.ref(producer.log)
    thread = producer._outbox._thread
    assert thread is not None
    del producer
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()
    assert sent.done()
    assert log() is None or not log()._open
    with open_log(tmp_path / "log") as other:
        assert values(other) == ["a"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_multiprocessing_keeps_nothing_of_one_that_was_closed(
    log: Log, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(multiprocessing.process, "parent_process", object)
    before = len(multiprocessing.util._finalizer_registry)
    for _ in range(3):
        Producer(log).close()
    assert len(multiprocessing.util._finalizer_registry) == before


def test_a_late_failure_of_a_topic_that_is_gone_does_not_touch_the_one_that_has_its_name(log: Log):
    with Producer(log, linger="1h") as producer:
        outbox = producer._outbox
        producer.create_topic("t", 1)
        gone = Parcel(outbox.lane("t"), outbox, 0.0)
        gone.add((b"x", 0, None, None, None, 0, None, 0, None), 1)
        log.delete_topic("t")
        outbox.lanes.clear()
        producer.create_topic("t", 1)
        sent = producer.send("t", "a")
        lane = outbox.lanes["t"]
        outbox._settle(gone, Piece(0, 1, error=TopicNotFound("gone")))
        assert outbox.lanes["t"] is lane
        assert sent.result().offset == 0
        with pytest.raises(TopicNotFound):
            producer.flush()


def test_a_child_that_was_forked_is_told_so_and_the_parent_goes_on(log: Log):
    producer = Producer(log, linger="1h")
    producer.create_topic("t", 1)
    sent = producer.send("t", "a")
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    async def awaited() -> None:
        await asyncio.wait_for(sent, 10)

    def child() -> None:
        told = []
        for call in (
            lambda: producer.send("t", "b"),
            producer.flush,
            producer.close,
            lambda: sent.result(30),
            lambda: asyncio.run(awaited()),
        ):
            try:
                call()
            except ForkedProcess:
                told.append(True)
        theirs.send(told)

    process = context.Process(target=child)
    process.start()
    assert mine.poll(30)
    assert mine.recv() == [True] * 5
    process.join(30)
    assert process.exitcode == 0
    producer.close()
    assert values(log) == ["a"]


def test_a_producer_that_is_killed_and_tried_again_has_sent_everything_once(
    tmp_path: Path, environment: dict[str, str]
):
    place = tmp_path / "log"
    with open_log(place) as log, Producer(log) as producer:
        producer.create_topic("t", 3)
    script = """
import sys
import mamba_stream as mamba
begin = int(sys.argv[2])
producer = mamba.Producer(sys.argv[1], name="loader")
for number in range(begin, 120):
    rows = [f"{number}.{k}" for k in range(20)]
    producer.send_many("t", rows, keys=rows, sequence=number)
    print(number, flush=True)
"""
    acknowledged, kills = -1, 0
    while acknowledged < 119:
        process = forking.Process(
            [sys.executable, "-W", "error", "-c", script, str(place), str(acknowledged + 1)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged = int(line)
            if kills < 3 and acknowledged >= 25 * (kills + 1):
                process.send_signal(signal.SIGKILL)
                kills += 1
        process.stdout.close()
        process.wait(60)
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills == 3
    with open_log(place) as log:
        log.settle()
        assert sorted(values(log)) == sorted(f"{n}.{k}" for n in range(120) for k in range(20))
        with Producer(log, name="loader") as producer:
            rows = [f"119.{k}" for k in range(20)]
            again = producer.send_many("t", rows, keys=rows, sequence=119).result()
            assert sum(following - first for first, following in again.values()) == 20
            with pytest.raises(NotCommitted):
                producer.send_many("t", rows, sequence=500)
        assert len(values(log)) == 2400
