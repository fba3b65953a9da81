"""Lines that are slow, silent, cut or reset: calls end, readers go on where they were, followers hear of commits."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import CommitUnknown, DiskFull, ServerUnavailable
from mamba_stream.log import open_log
from mamba_stream.log.remote import committing, connection, reader, watching
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.protocol import decode
from mamba_stream.server import exchanges, reading, service, signs
from tests.server.inprocess import Restarted, client
from tests.server.lives import Lives
from tests.server.load import client_of
from tests.server.proxy import HEALTHY, Fault, Proxy

SCHEMA = pa.schema({"n": pa.int64(), "text": pa.large_string()})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Restarted]:
    with Restarted(tmp_path / "log") as served:
        yield served


# --- silence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toward", ["server", "client"])
def test_a_commit_at_a_server_that_never_answers_ends_and_is_unknown(server, monkeypatch, toward):
    monkeypatch.setattr(committing, "DEADLINE", 0.5)
    server.log.create_topic("rows", SCHEMA)
    with Proxy(server.port) as proxy, client_of(f"localhost:{proxy.port}") as log:
        topic = log["rows"]
        line = log._shared._connection
        monkeypatch.setattr(line, "again", lambda call, patience=1.0: type(line).again(line, call, patience))
        proxy.swallow(toward)
        with pytest.raises(CommitUnknown, match="may or may not have happened"):
            topic.append([{"n": 1, "text": ""}])
        proxy.script = lambda number: HEALTHY
        proxy.break_all()
        topic.append([{"n": 2, "text": ""}])
    assert [n for b in server.log["rows"].read() for n in b.data["n"].to_pylist()] == (
        [1, 2] if toward == "client" else [2]
    )


def test_a_server_that_takes_connections_and_never_answers_is_not_waited_for_long(server, monkeypatch):
    monkeypatch.setattr(connection, "GREETING", 0.5)
    with Proxy(server.port, lambda number: Fault("swallow", 0, "server")) as proxy:
        with pytest.raises(ServerUnavailable, match="does not answer"):
            client_of(f"localhost:{proxy.port}")


def test_who_waits_for_commits_at_a_server_that_never_answers_hears_of_it(server, monkeypatch):
    monkeypatch.setattr(watching, "PATIENCE", 0.5)
    with Proxy(server.port) as proxy, client_of(f"localhost:{proxy.port}") as log:
        proxy.swallow("client")
        with pytest.raises(ServerUnavailable, match="does not answer"):
            log.wait(0, 30.0)


# --- slowness ---------------------------------------------------------------------------------------------------------


def test_a_server_far_away_is_reached_though_every_answer_takes_long(server):
    server.log.create_topic("rows", SCHEMA)
    with Proxy(server.port, lambda number: Fault(delay=0.3)) as proxy:
        with client_of(f"localhost:{proxy.port}") as log:
            assert log["rows"].append([{"n": 1, "text": ""}]) == {0: (0, 1)}


# --- reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_goes_on_in_the_middle_of_what_was_cut_without_loss_or_repetition(server, monkeypatch, seed):
    # Pieces that come through before a line is cut, and several streams.
    monkeypatch.setattr(reader, "WINDOW_BYTES", 100_000)
    monkeypatch.setattr(reading, "_TOGETHER", 5_000)
    chance = random.Random(seed)
    topic = server.log.create_topic("rows", SCHEMA, partitions=3)
    n = 0
    for _ in range(60):
        rows = [
            {"n": n + k, "text": "x" * chance.randrange(200)} for k in range(chance.choice((1, 3, 50, 400)))
        ]
        topic.append(rows, partition=chance.randrange(3))
        n += len(rows)

    def script(number: int) -> Fault:
        dice = random.Random(f"{seed}/{number}")
        return Fault(dice.choice(("cut", "reset")), dice.randrange(3_000, 150_000), "client")

    with Proxy(server.port, script) as proxy, client_of(f"localhost:{proxy.port}") as log:
        most = chance.choice((1, 100, 65_536))
        found: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
        through = log["rows"].reader()
        while batches := through.poll(max_rows=most):
            for batch in batches:
                found[batch.partition] += zip(
                    batch.offsets.tolist(), batch.data["n"].to_pylist(), strict=True
                )
        assert proxy.faults > 2
    there = {
        partition: [
            pair
            for batch in topic.read(partitions=[partition])
            for pair in zip(batch.offsets.tolist(), batch.data["n"].to_pylist(), strict=True)
        ]
        for partition in range(3)
    }
    assert found == there


# --- waking -------------------------------------------------------------------------------------------------------------


def test_a_follower_hears_of_commits_of_the_next_life(server):
    topic = server.log.create_topic("rows", SCHEMA)
    log, _ = client(server)
    found = log["rows"].read(follow=True)
    for n in range(3):
        topic.append([{"n": n, "text": ""}])
        assert next(found).data["n"].to_pylist() == [n]
        server.restart()
    log.close()


def test_a_log_that_was_put_back_from_a_copy_has_fewer_commits_and_is_followed(server, tmp_path):
    server.log.create_topic("rows", SCHEMA)
    for n in range(20):
        server.log["rows"].append([{"n": n, "text": ""}])
    log, _ = client(server)
    before = log.wait(-1, 10.0)
    assert before == server.log.lsn()
    with open_log(tmp_path / "copy") as copy:
        topic = copy.create_topic("rows", SCHEMA)
        server.restart(copy)
        now = before
        while now >= before:
            now = log.wait(before, 0.2)
        assert now == copy.lsn()
        woken = threading.Thread(target=log.wait, args=(now, 60.0))
        woken.start()
        topic.append([{"n": 1, "text": ""}])
        woken.join(30)
        assert not woken.is_alive()
        log.close()


# --- what takes long ------------------------------------------------------------------------------------------------------


def test_a_seal_outlasts_what_grpc_bears_of_silence(server, monkeypatch):
    # As after minutes: a ping a second, where the server's gRPC breaks a connection at the third in five minutes.
    monkeypatch.setattr(signs, "SIGN", 0.5)
    pings = [("grpc.keepalive_time_ms", 1_000), ("grpc.http2.max_pings_without_data", 0)]
    kept = [option for option in connection._OPTIONS if option[0] != "grpc.keepalive_time_ms"]
    monkeypatch.setattr(connection, "_OPTIONS", [*kept, *pings])
    # Of calls that are made once, none is that long.
    monkeypatch.setattr(connection, "DEADLINE", 2.0)
    began, given, go = [], [], threading.Event()

    def signed(work, every):
        for result in real(work, every):
            given.append(result)
            # Seven pings, and more.
            if len(given) == 14:
                go.set()
            yield result

    real = service.with_signs
    monkeypatch.setattr(service, "with_signs", signed)
    store = server.log._shared
    seal = store.seal

    def slow():
        began.append(1)
        assert go.wait(60)
        return seal()

    store.seal = slow
    log, _ = client(server)
    log.create_topic("sealed", SCHEMA).append([{"n": 1, "text": ""}])
    assert log.seal() >= 1
    # One call, which was not made again.
    assert len(began) == 1
    assert given[:14] == [None] * 14
    store.seal = seal
    log.close()


def test_what_a_seal_raises_is_told(server, monkeypatch):
    def full():
        raise DiskFull("no space left; what was not sealed stays as it is")

    monkeypatch.setattr(server.log._shared, "seal", full)
    log, _ = client(server)
    with pytest.raises(DiskFull, match="what was not sealed"):
        log.seal()
    log.close()


# --- locks --------------------------------------------------------------------------------------------------------------


def test_an_idle_lock_is_kept_however_often_the_client_asks_for_signs_of_life(server, monkeypatch):
    # As after minutes: a ping a second, where the server's gRPC breaks a connection at the third in five minutes.
    monkeypatch.setattr(exchanges, "_SIGN", 0.5)
    pings = [("grpc.keepalive_time_ms", 1_000), ("grpc.http2.max_pings_without_data", 0)]
    kept = [option for option in connection._OPTIONS if option[0] != "grpc.keepalive_time_ms"]
    monkeypatch.setattr(connection, "_OPTIONS", [*kept, *pings])
    heard = _answers(monkeypatch)
    log, _ = client(server)
    lock = log.lock("jobs", "nightly")
    assert lock is not None
    # Seven pings, and more.
    _until(log, lambda: len(heard) > 14 or lock.gone.is_set())
    assert not lock.gone.is_set()
    assert server.log.lock("jobs", "nightly") is None
    lock.release()
    again = server.log.lock("jobs", "nightly")
    assert again is not None
    again.release()
    log.close()


def test_a_lock_ends_with_the_line_and_with_the_server(server):
    with Proxy(server.port) as proxy, client_of(f"localhost:{proxy.port}") as log:
        lock = log.lock("jobs", "nightly")
        assert lock is not None
        proxy.break_all()
        assert lock.gone.wait(30)
        while (other := server.log.lock("jobs", "nightly")) is None:
            pass
        other.release()
        lock.release()
        lock = log.lock("jobs", "nightly")
        server.restart()
        assert lock.gone.wait(30)
        lock.release()


def test_a_lock_of_a_client_that_cannot_be_heard_any_more_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(exchanges, "_SIGN", 0.05)
    heard, clock = _answers(monkeypatch), Moved()
    with (
        Restarted(tmp_path / "log", clock) as server,
        Proxy(server.port) as proxy,
        client_of(f"localhost:{proxy.port}") as log,
    ):
        lock = log.lock("jobs", "nightly")
        assert lock is not None
        for _ in range(5):
            # Of two answers the second was given by this time.
            until = len(heard) + 2
            _until(log, lambda until=until: len(heard) >= until or lock.gone.is_set())
            assert not lock.gone.is_set(), "it answers, and keeps its lock"
            clock.ahead += 29
        proxy.swallow("server")
        while (other := server.log.lock("jobs", "nightly")) is None:
            clock.ahead += 31
            lock.gone.wait(0.05)
        other.release()
        proxy.break_all()
        lock.release()


def test_a_lock_whose_answer_was_lost_is_not_taken_for_somebody_elses(server, monkeypatch):
    log, _ = client(server)
    line = log._shared._connection
    real, streams = line.exchange, []

    def exchange(command: bytes) -> tuple:
        writer, stream = real(command)
        if not streams:
            assert decode(stream.read_chunk().app_metadata, bool)
            # The server finds out a moment later.
            threading.Timer(0.5, stream.cancel).start()
            streams.append((writer, stream))
            raise Lost("the line went dead")
        return writer, stream

    monkeypatch.setattr(line, "exchange", exchange)
    lock = log.lock("jobs", "nightly")
    assert lock is not None
    lock.release()
    log.close()


def test_a_job_that_lost_its_lock_with_the_server_is_fenced_by_its_record(tmp_path):
    doubled = mamba.stream("numbers", time="at", idle="1h").with_columns(twice=pl.col("n") * 2).to("doubled")
    pipeline = mamba.pipeline("doubling", doubled)
    rows = [{"n": n, "at": n} for n in range(40)]
    with Lives(tmp_path / "log") as server:
        with client_of(server.address) as log, client_of(server.address) as other:
            topic = log.create_topic("numbers", {"n": pl.Int64, "at": pl.Datetime("us")}, time="at")
            frame = pl.DataFrame(rows).with_columns(pl.col("at").cast(pl.Datetime("us")))
            topic.append(frame[:10])
            first = mamba.start(pipeline, log=log, commit="50ms")
            _until(log, lambda: "doubled" in log and log["doubled"].offsets()[0][1] == 10)
            server.kill()
            server.begin()
            # The lock went with the server: nothing keeps a second one of this name from beginning.
            second = mamba.start(pipeline, log=other, commit="50ms")
            topic.append(frame[10:])
            _until(log, lambda: log["doubled"].offsets()[0][1] >= 40)
            ended = [_end_of(job) for job in (first, second)]
            # One of them made all of it; the other one was refused by the record that both of them require.
            assert None in ended
            (fenced,) = filter(None, ended)
            assert isinstance(fenced, mamba.JobFailed)
            assert "another runner has taken over" in str(fenced)
            found = [n for batch in log["doubled"].read() for n in batch.data["twice"].to_pylist()]
    assert found == [2 * n for n in range(40)]


class Moved(SystemClock):
    """The machine's clock, but for seconds that passed at once."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def _answers(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Gets longer with every answer to a sign of life that the server hears."""
    heard: list[None] = []
    hear = exchanges._Holding.hear

    def noted(self: exchanges._Holding) -> None:
        hear(self)
        heard.append(None)

    monkeypatch.setattr(exchanges._Holding, "hear", noted)
    return heard


def _end_of(job: mamba.Job) -> BaseException | None:
    try:
        job.stop()
        job.wait()
    except mamba.MambaStreamError as error:
        return error
    return None


def _until(log: mamba.Log, condition) -> None:
    lsn = -1
    for _ in range(6_000):
        if condition():
            return
        lsn = log.wait(lsn, 0.01)
    raise AssertionError("it never came to that")
