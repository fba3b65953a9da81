"""Commits that come in pieces: larger than the server's memory, all or nothing, once, and whatever their bytes are."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgpack
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pyarrow import flight

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import DiskFull, InvalidInput, NotAuthorized, PreconditionFailed, QuotaExceeded
from mamba_stream.log import Log, staging
from mamba_stream.log.files import CommitFile
from mamba_stream.log.remote import committing, pieces, protocol
from mamba_stream.server import pieces as taking
from mamba_stream.server.gate import Caller, OpenGate
from mamba_stream.server.service import FlightService
from mamba_stream.server.turns import Turns
from tests.server.inprocess import Restarted
from tests.server.load import client_of
from tests.server.running import Serving, until
from tests.sizes import examples

SCHEMA = pa.schema({"n": pa.int64(), "text": pa.large_string()})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything with rows goes in pieces, of a few hundred rows."""
    monkeypatch.setattr(committing, "FROM_BYTES", 0)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 4 << 10)


@pytest.fixture
def server(tmp_path: Path, small: None) -> Iterator[Restarted]:
    with Restarted(tmp_path / "log") as served:
        served.log.create_topic("a", SCHEMA)
        served.log.create_topic("b", SCHEMA, partitions=3, key="n")
        yield served


@pytest.fixture
def remote(server: Restarted) -> Iterator[Log]:
    with client_of(server.address) as log:
        yield log


def frame(begin: int, end: int) -> pl.DataFrame:
    return pl.DataFrame({"n": range(begin, end), "text": [f"text {n}" for n in range(begin, end)]})


def numbers(log: Log, topic: str = "a") -> list[int]:
    return [n for batch in log[topic].read() for n in batch.data["n"].to_pylist()]


def commit_files(served: Any) -> set[str]:
    return {path.name for path in (Path(served.log.path) / "files").iterdir() if path.stat().st_size}


class Stream:
    """A commit in pieces, message by message."""

    def __init__(self, port: int, **asked: Any) -> None:
        self.client = flight.connect(f"grpc://localhost:{port}")
        command = msgpack.packb({"pieces": asked})
        self.writer, self.answers = self.client.do_exchange(flight.FlightDescriptor.for_command(command))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A server that shuts down waits for what a client has begun.
        self.answers.cancel()
        self.client.close()

    def say(self, message: Any) -> None:
        self.writer.write_metadata(message if isinstance(message, bytes) else msgpack.packb(message))

    def rows(self, topic: int, frame: pl.DataFrame, **more: Any) -> None:
        self.say({"rows": {"topic": topic, "data": _stream(frame), **more}})

    def answer(self) -> Any:
        self.writer.done_writing()
        return self.told()

    def told(self) -> Any:
        return msgpack.unpackb(self.answers.read_chunk().app_metadata.to_pybytes())

    def refused(self, code: str, words: str = "") -> None:
        with pytest.raises(flight.FlightError) as caught:
            self.answer()
        told = msgpack.unpackb(caught.value.extra_info)
        assert told["code"] == code, told
        assert words in told["message"]
        self.client.close()


def _stream(frame: pl.DataFrame, compression: str | None = None) -> bytes:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


# --- what is committed ----------------------------------------------------------------------------------------------


def test_a_large_append_is_there_whole_in_order_and_told_where(server, remote):
    everything = frame(0, 20_000)
    assert remote["a"].append(everything) == {0: (0, 20_000)}
    assert remote["a"].append(frame(20_000, 20_001)) == {0: (20_000, 20_001)}
    assert numbers(server.log) == list(range(20_001))
    assert server.log["a"].scan().collect().head(20_000).equals(everything)
    until(lambda: server.service.figures.calls["exchange", "ok"] == 2, "both, as exchanges")


def test_a_transaction_over_topics_groups_and_records_is_one_commit(server, remote):
    before = server.log._shared.lsn()
    with remote.transaction() as transaction:
        transaction.append("a", frame(0, 3_000))
        transaction.append("b", frame(0, 3_000))
        transaction.append("a", frame(3_000, 6_000))
        transaction.put_record("space", "key", b"new")
        transaction.require_record("space", "key", None)
        transaction.commit_offsets("group", {("a", 0): 17})
    assert server.log._shared.lsn() == before + 1
    assert numbers(server.log) == list(range(6_000))
    assert transaction.offsets["a", 0] == (0, 6_000)
    # By their keys, as ever.
    with mamba.open(Path(server.log.path).parent / "other") as other:
        other.create_topic("b", SCHEMA, partitions=3, key="n").append(frame(0, 3_000))
        assert {p: end for p, (_, end) in other["b"].offsets().items()} == {
            p: end for p, (_, end) in server.log["b"].offsets().items()
        }
    assert sorted(numbers(server.log, "b")) == list(range(3_000))
    assert (server.log.record("space", "key"), server.log.group_offsets("group")) == (b"new", {("a", 0): 17})


def test_conditions_on_ends_hold_for_the_first_rows_of_each_partition(server, remote):
    remote["b"].append(frame(0, 100))
    ends = {p: end for p, (_, end) in remote["b"].offsets().items()}
    remote["b"].append(frame(100, 3_000), expect=ends)
    with pytest.raises(PreconditionFailed, match="expected to end at"):
        remote["b"].append(frame(3_000, 6_000), expect=ends)
    with pytest.raises(InvalidInput, match="names partition 2, to which none"):
        remote["b"].append(frame(3_000, 6_000), partition=0, expect={2: ends[2]})
    assert sorted(numbers(server.log, "b")) == list(range(3_000))


def test_what_is_refused_leaves_nothing_and_gives_its_room_back(server, remote):
    remote["a"].append(frame(0, 10))
    held = commit_files(server)
    with pytest.raises(PreconditionFailed), remote.transaction() as transaction:
        transaction.append("a", frame(0, 5_000))
        transaction.require_record("space", "key", b"another")
    assert numbers(server.log) == list(range(10))
    assert commit_files(server) == held
    assert remote["a"].append(frame(10, 5_000)) == {0: (10, 5_000)}


def test_rows_of_a_commit_over_several_files_are_all_there_and_can_be_sealed(server, remote, monkeypatch):
    monkeypatch.setattr("mamba_stream.log.files.FULL", 64 << 10)
    remote["a"].append(frame(0, 30_000))
    assert len(commit_files(server)) > 5
    assert numbers(server.log) == list(range(30_000))
    assert remote.seal() > 5
    assert numbers(server.log) == list(range(30_000))
    assert server.log._shared.statistics().appended_rows == 30_000


def test_a_full_disk_in_the_middle_refuses_all_of_it(server, remote, monkeypatch):
    write, count = CommitFile.write, 0

    def full(self: CommitFile, *args: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise DiskFull("no space left on the disk; nothing was committed")
        write(self, *args, **named)

    monkeypatch.setattr(CommitFile, "write", full)
    with pytest.raises(DiskFull):
        remote["a"].append(frame(0, 20_000))
    assert numbers(server.log) == []
    assert remote["a"].append(frame(0, 20_000)) == {0: (0, 20_000)}


# --- sent again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_one_whose_answer_was_lost_lands_once(server, remote, restarted, monkeypatch):
    send, lost = pieces.Upload.send, 0

    def losing(self: pieces.Upload, commit: protocol.Commit) -> Any:
        nonlocal lost
        answer = send(self, commit)
        if lost < 2:
            lost += 1
            remote._shared._connection._interrupted = True
            if restarted:
                server.restart()
            raise pieces.Lost("the line went dead")
        return answer

    monkeypatch.setattr(pieces.Upload, "send", losing)
    assert remote["a"].append(frame(0, 5_000)) == {0: (0, 5_000)}
    assert remote["a"].append(frame(5_000, 5_001)) == {0: (5_000, 5_001)}
    assert lost == 2
    assert numbers(server.log) == list(range(5_001))


def test_a_server_that_goes_in_the_middle_gets_all_of_it_again(server, remote, monkeypatch):
    parts = pieces._parts

    def interrupted(batches: Any) -> Any:
        monkeypatch.setattr(pieces, "_parts", parts)
        for number, part in enumerate(parts(batches)):
            yield part
            if number == 5:
                server.restart()

    monkeypatch.setattr(pieces, "_parts", interrupted)
    assert remote["a"].append(frame(0, 20_000)) == {0: (0, 20_000)}
    assert numbers(server.log) == list(range(20_000))


@pytest.mark.parametrize("patient", [True, False])
def test_one_more_than_are_read_at_once_waits_its_turn_but_for_no_one_who_sends_nothing(
    server: Restarted, remote: Log, monkeypatch: pytest.MonkeyPatch, patient: bool
):
    turns = server.service.desk.uploads = Turns(1, SystemClock())
    monkeypatch.setattr(taking, "_SIGN", 0.01)
    monkeypatch.setattr(taking, "_SILENT", 60.0 if patient else 0.01)
    with Stream(server.port) as first:
        first.rows(server.log["a"].number, frame(0, 10))
        until(lambda: not turns._free._value, "the first one's turn")
        second = threading.Thread(target=remote["a"].append, args=(frame(10, 1_000),))
        second.start()
        if patient:
            until(lambda: server.service.figures.active >= 2, "the second one")
        second.join(0.5 if patient else 60)
        assert second.is_alive() == patient
        first.say({"commit": {"change": []}})
        # A sign of life may come before.
        until(lambda: first.answer() is not None, "the first one's answer")
    second.join(60)
    begun = [*range(10)], [*range(10, 1_000)]
    assert numbers(server.log) == (begun[0] + begun[1] if patient else begun[1] + begun[0])
    until(lambda: turns._free._value == 1, "the turn to be free again")


def test_a_paced_client_is_told_how_much_is_taken(server: Restarted, monkeypatch: pytest.MonkeyPatch):
    turns = server.service.desk.uploads = Turns(1, SystemClock())
    monkeypatch.setattr(taking, "_SIGN", 0.01)
    number = server.log["a"].number
    with Stream(server.port, paced=True) as first, Stream(server.port, paced=True) as second:
        assert first.told() == taking._AHEAD
        # The other one has no turn yet, and is told that it goes on.
        assert [second.told() for _ in range(3)] == [0, 0, 0]
        for begin in range(3):
            first.rows(number, frame(begin, begin + 1))
            assert first.told() == taking._AHEAD + begin + 1
        first.say({"commit": {"change": []}})
        assert first.answer()[1] == [[number, 0, n, n + 1] for n in range(3)]
        until(lambda: second.told() == taking._AHEAD, "the second one's turn")
    assert numbers(server.log) == [0, 1, 2]
    until(lambda: turns._free._value == 1, "the turn to be free again")


def test_a_client_sends_no_more_than_is_taken(server, remote, monkeypatch):
    say, take = pieces._say, taking._Taking._take
    sent, most, go_on = 0, 0, threading.Semaphore(0)

    def counting(writer: Any, part: protocol.Part) -> None:
        nonlocal sent
        sent += part.rows is not None
        say(writer, part)

    def stepping(self: Any, rows: protocol.Rows, *, continues: bool) -> None:
        nonlocal most
        assert go_on.acquire(timeout=60)
        most += 1
        take(self, rows, continues=continues)

    monkeypatch.setattr(pieces, "_say", counting)
    monkeypatch.setattr(taking._Taking, "_take", stepping)
    thread = threading.Thread(target=remote["a"].append, args=(frame(0, 5_000),))
    thread.start()
    for taken in range(10):
        until(lambda: sent == taking._AHEAD + taken, "as much as is welcome")  # noqa: B023
        thread.join(0.02)
        assert (sent, most) == (taking._AHEAD + taken, taken)
        go_on.release()
        until(lambda: most == taken + 1, "one more to be taken")  # noqa: B023
    go_on.release(1_000)
    thread.join(60)
    assert numbers(server.log) == list(range(5_000))
    assert sent > 15


def test_a_server_that_does_not_pace_is_sent_everything(server, remote, monkeypatch):
    sent: list[protocol.Pieces] = []

    def unpaced(desk: Any, caller: Any, stream: Any, answers: Any, *, paced: bool) -> None:
        sent.append(protocol.Pieces(paced))
        taking.commit_in_pieces(desk, caller, stream, answers, paced=paced)

    monkeypatch.setattr("mamba_stream.server.exchanges.commit_in_pieces", unpaced)
    remote["a"].append(frame(0, 1_000))
    remote._shared._connection.welcome.paced = False
    remote["a"].append(frame(1_000, 5_000))
    assert [each.paced for each in sent] == [True, False]
    assert numbers(server.log) == list(range(5_000))


# --- a real server, and more than it has memory ---------------------------------------------------------------------


@pytest.fixture
def serving(tmp_path: Path, environment: dict[str, str]) -> Iterator[Serving]:
    started = Serving(tmp_path / "log", environment, "--memory", "256MiB")
    yield started
    started.close()


ROWS, TURNS = 12 << 20, 7


def test_a_commit_larger_than_the_servers_memory(serving: Serving):
    # 96 MB of numbers, seven times: more than twice the memory that the listener may take.
    values = np.random.default_rng(5).integers(0, 1 << 60, ROWS)
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", {"n": pl.Int64})
        with log.transaction() as transaction:
            for turn in range(TURNS):
                transaction.append("numbers", pa.table({"n": values + turn}))
        assert log["numbers"].offsets() == {0: (0, ROWS * TURNS)}
        found = (
            log["numbers"].scan().select(pl.col("n").cast(pl.Float64).sum(), pl.len().alias("rows")).collect()
        )
    assert found["rows"].item() == ROWS * TURNS
    expected = sum(float((values + turn).astype(np.float64).sum()) for turn in range(TURNS))
    assert found["n"].item() == pytest.approx(expected, rel=1e-9)
    # One life of the listener did it.
    assert len(serving.named("listener started")) == 1
    assert serving.figures()["mamba_stream_commit_changes_total"] == 2


def test_many_commits_at_once_that_are_more_than_the_servers_memory_together(serving: Serving):
    # Fourteen times 28 MB: each by itself would have fitted into one message.
    values = pa.table({"n": np.random.default_rng(5).integers(0, 1 << 60, 28 << 17)})
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", {"n": pl.Int64})
    ready = threading.Barrier(14)
    failed: list[Exception] = []

    def append() -> None:
        try:
            with client_of(serving.address) as log:
                topic = log["numbers"]
                ready.wait(60)
                topic.append(values)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=append) for _ in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with mamba.open(serving.address) as log:
        assert log["numbers"].offsets() == {0: (0, 14 * values.num_rows)}
    assert len(serving.named("listener started")) == 1


_CLIENT = """
import sys, polars as pl
import mamba_stream as mamba
from mamba_stream.log.remote import pieces
parts = pieces._parts

def stuck(batches):
    for number, part in enumerate(parts(batches)):
        yield part
        if number == 40:
            print("half", flush=True)
            sys.stdin.read()

pieces._parts = stuck
with mamba.open(sys.argv[1]) as log:
    log["numbers"].append(pl.DataFrame({"n": pl.int_range(20 << 20, eager=True)}))
"""


def _stuck(serving: Serving, environment: dict[str, str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, serving.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "half\n"
    return process


def _room(serving: Serving) -> int:
    return sum(path.stat().st_size for path in (serving.place / "files").iterdir())


def test_a_client_that_is_killed_in_the_middle_leaves_nothing(serving: Serving, environment: dict[str, str]):
    with mamba.open(serving.address) as log:
        topic = log.create_topic("numbers", {"n": pl.Int64})
        client = _stuck(serving, environment)
        until(lambda: _room(serving) > 40 << 20, "half of the rows on disk")
        assert topic.offsets() == {0: (0, 0)}
        client.kill()
        client.communicate()
        until(lambda: _room(serving) == 0, "the room")
        assert topic.append([{"n": 1}]) == {0: (0, 1)}
    assert serving.end() == 0
    with mamba.open(serving.place) as log:
        assert log["numbers"].scan().collect()["n"].to_list() == [1]


def test_a_listener_that_is_killed_in_the_middle_gets_all_of_it_again(
    serving: Serving, environment: dict[str, str]
):
    with mamba.open(serving.address) as log:
        topic = log.create_topic("numbers", {"n": pl.Int64})
        client = _stuck(serving, environment)
        until(lambda: _room(serving) > 40 << 20, "half of the rows on disk")
        first = serving.listener()
        os.kill(first, signal.SIGKILL)
        until(lambda: serving.listener() != first, "another listener")
        assert topic.offsets() == {0: (0, 0)}
        # It is still in the first half; from there on it finds the other listener.
        client.communicate()
    assert serving.end() == 0
    with mamba.open(serving.place) as log:
        told = log["numbers"].scan().select(pl.col("n").sum(), pl.len().alias("rows")).collect()
    assert client.returncode == 0
    assert told.row(0) == ((20 << 20) * ((20 << 20) - 1) // 2, 20 << 20)


# --- hostile --------------------------------------------------------------------------------------------------------


def test_a_stream_without_a_change_set_commits_nothing(server):
    stream = Stream(server.port)
    stream.rows(server.log["a"].number, frame(0, 100))
    stream.refused("InvalidInput", "ended before its change set")
    assert (numbers(server.log), commit_files(server)) == ([], set())


def test_it_works_for_any_client(server):
    stream = Stream(server.port)
    number = server.log["a"].number
    stream.rows(number, frame(0, 10), expect={0: 0})
    stream.say({"rows": {"topic": number, "data": _stream(frame(10, 20))}, "continues": True})
    stream.say({"commit": {"change": []}})
    assert stream.answer()[1] == [[number, 0, 0, 10], [number, 0, 10, 20]]
    assert numbers(server.log) == list(range(20))


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        ([b"\xc1" * 50], "InvalidInput", "not a Part"),
        ([{}], "InvalidInput", "either rows or"),
        ([{"rows": {"topic": 1, "data": b""}, "commit": {"change": []}}], "InvalidInput", "either rows or"),
        ([{"rows": {"topic": 77, "data": b"x"}}], "TopicNotFound", "no topic has the number 77"),
        ([{"rows": {"topic": -1, "data": b"x"}}], "TopicNotFound", "no topic"),
        ([{"rows": {"topic": 1, "data": b"x" * 99}}], "InvalidInput", "not an Arrow IPC stream"),
        ([{"rows": {"topic": 1, "data": _stream(frame(0, 3)), "partition": 9}}], "PartitionNotFound", "partition 9"),
        ([{"rows": {"topic": 1, "data": _stream(frame(0, 3)), "expect": {9: 0}}}], "PartitionNotFound", "9"),
        ([{"rows": {"topic": 1, "data": _stream(frame(0, 3), "zstd")}}], "InvalidInput", "without compression"),
        ([{"rows": {"topic": 1, "data": _stream(pl.DataFrame({"x": [1]}))}}], "SchemaMismatch", ""),
        ([{"rows": {"topic": 1, "data": _stream(frame(0, 3))}, "continues": True}], "InvalidInput", "continue"),
        ([{"commit": {"change": [[], [], [[1, 0, 1, 0, 10, 1, 0, -1, 1, 0, 0]]]}}], "InvalidInput", "no places"),
        (
            [{"commit": {"change": [], "rows": [{"topic": 1, "data": _stream(frame(0, 3))}]}}],
            "InvalidInput",
            "no rows of its own",
        ),
    ],
    ids=range(13),
)  # fmt: skip
def test_messages_that_are_none(server, messages, code, words):
    stream = Stream(server.port)
    stream.rows(1, frame(0, 100))
    if isinstance(messages[0], dict) and messages[0].get("continues"):
        stream.say({"rows": {"topic": 2, "data": _stream(frame(0, 3))}})
    for message in messages:
        stream.say(message)
    stream.refused(code, words)
    assert (numbers(server.log), commit_files(server)) == ([], set())
    assert server.log["a"].append(frame(0, 1)) == {0: (0, 1)}


def test_rows_of_flight_are_refused(server):
    stream = Stream(server.port)
    stream.writer.begin(SCHEMA)
    stream.writer.write_batch(pa.record_batch([[1], ["a"]], schema=SCHEMA))
    stream.refused("InvalidInput", "without rows")


def test_a_piece_that_is_too_large_and_a_commit_of_too_many(tmp_path, small, monkeypatch):
    from mamba_stream.log.store import acquire
    from mamba_stream.server.limits import Limits

    store = acquire(tmp_path / "log")
    service = FlightService(store, limits=Limits(most_bytes=64 << 10))
    try:
        topic = Log(store).create_topic("a", SCHEMA)
        stream = Stream(service.port)
        stream.rows(topic.number, frame(0, 10_000))
        stream.refused("InvalidInput", "send at most 65,536")
        monkeypatch.setattr(staging, "MOST_APPENDS", 3)
        stream = Stream(service.port)
        for n in range(4):
            stream.rows(topic.number, frame(n, n + 1))
        stream.refused("InvalidInput", "more than 3 batches")
        # Together larger than what one message may be.
        monkeypatch.setattr(staging, "MOST_APPENDS", 1000)
        with client_of(f"localhost:{service.port}") as log:
            log["a"].append(frame(0, 20_000))
        assert topic.offsets() == {0: (0, 20_000)}
    finally:
        service.shutdown()
        store.release()


class Meter(OpenGate):
    """Lets so many pieces pass, and then none for a moment; and nobody who lost the right."""

    def __init__(self) -> None:
        self.passed = self.waited = 0
        self.forbidden: set[str] = set()

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        if received and self.passed % 3 == 2 and self.waited % 2 == 0:
            self.waited += 1
            raise QuotaExceeded("too fast", retry_after=0.01)
        self.waited += self.passed % 3 == 2 and received > 0
        self.passed += received > 0

    def check(self, caller: Caller, needs: Any) -> None:
        for need in needs:
            if need.name in self.forbidden:
                raise NotAuthorized(f"not {need.name}")


def test_who_sends_more_than_a_quota_waits_and_who_loses_the_right_commits_nothing(tmp_path, small):
    from mamba_stream.log.store import acquire

    store, gate = acquire(tmp_path / "log"), Meter()
    service = FlightService(store, gate=gate)
    try:
        topic = Log(store).create_topic("a", SCHEMA)
        with client_of(f"localhost:{service.port}") as log:
            log["a"].append(frame(0, 5_000))
        assert gate.waited > 5
        # Counted a moment after it was answered; none was refused.
        until(lambda: service.figures.calls["exchange", "ok"] == 1, "the one call")
        stream = Stream(service.port)
        stream.rows(topic.number, frame(0, 100))
        until(lambda: gate.passed and (tmp_path / "log" / "files").is_dir(), "the piece")
        passed = gate.passed
        stream.rows(topic.number, frame(0, 100))
        until(lambda: gate.passed > passed, "the second piece")
        gate.forbidden = {"a"}
        stream.say({"commit": {"change": []}})
        stream.refused("NotAuthorized")
        assert topic.offsets() == {0: (0, 5_000)}
    finally:
        service.shutdown()
        store.release()


@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_streams_commit_all_or_nothing(server, data):
    """Valid streams with bytes changed, messages left out, doubled and swapped: what is answered is what is there."""
    number = server.log["a"].number
    begin = server.log["a"].offsets()[0][1]
    messages = [msgpack.packb({"rows": {"topic": number, "data": _stream(frame(0, 20))}}) for _ in range(3)]
    messages.append(msgpack.packb({"commit": {"change": []}}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(messages) - 1))
        match data.draw(st.sampled_from(["bytes", "cut", "twice", "gone", "swap"])):
            case "bytes":
                seed = random.Random(data.draw(st.integers(0, 1 << 30)))
                changed = bytearray(messages[at])
                for _ in range(seed.randint(1, 4)):
                    changed[seed.randrange(len(changed))] = seed.randrange(256)
                messages[at] = bytes(changed)
            case "cut":
                messages[at] = messages[at][: data.draw(st.integers(1, len(messages[at])))]
            case "twice":
                messages.insert(at, messages[at])
            case "gone" if len(messages) > 1:
                del messages[at]
            case "swap":
                messages[at], messages[-1] = messages[-1], messages[at]
    stream = Stream(server.port)
    try:
        for message in messages:
            stream.say(message)
        answer = stream.answer()
    except flight.FlightError as error:
        assert msgpack.unpackb(error.extra_info)["code"] not in ("", "Internal")
        assert server.log["a"].offsets()[0][1] == begin
    else:
        appended = sum(following - first for _, _, first, following in answer[1])
        assert server.log["a"].offsets()[0][1] == begin + appended
    finally:
        stream.client.close()


def test_threads_that_commit_in_pieces_and_at_once_do_not_mix(server, remote):
    failed: list[BaseException] = []

    def run(which: int) -> None:
        try:
            for turn in range(5):
                base = which * 100_000 + turn * 2_000
                remote["a"].append(frame(base, base + (2_000 if which % 2 else 3)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    found = numbers(server.log)
    wanted = {
        base + n
        for which in range(4)
        for turn in range(5)
        for base in [which * 100_000 + turn * 2_000]
        for n in range(2_000 if which % 2 else 3)
    }
    assert (len(found), set(found)) == (len(wanted), wanted)
    # Rows of one commit lie together.
    starts = [place for place, n in enumerate(found) if n % 2_000 == 0 and n // 100_000 % 2]
    assert all(found[at : at + 2_000] == list(range(found[at], found[at] + 2_000)) for at in starts)
