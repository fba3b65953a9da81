"""Calls over a stream that stays: the same answers, checked one by one, and nothing is left of them."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

from mamba_stream.errors import MambaStreamError, NotAuthenticated, ServerUnavailable, TopicNotFound
from mamba_stream.log import Log
from mamba_stream.log.opening import storage_of
from mamba_stream.log.remote import locking, protocol, wires
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.server.actions import ACTIONS
from mamba_stream.server.limits import Limits
from mamba_stream.server.service import FlightService
from tests.server.inprocess import Restarted
from tests.server.load import client_of
from tests.server.test_security import Served, requests


@pytest.fixture
def service(log: Log) -> Iterator[FlightService]:
    log.create_topic("orders", {"n": pl.Int64}).append({"n": [1, 2, 3]})
    with log.transaction() as tx:
        tx.put_record("shop/money", "ann", b"1")
    made = FlightService(log._shared)
    yield made
    made.shutdown()


@contextmanager
def connected(service: FlightService) -> Iterator[tuple[Log, Connection]]:
    client = client_of(f"localhost:{service.port}")
    try:
        yield client, client._shared._connection
    finally:
        client.close()


def warm(client: Log, connection: Connection) -> None:
    """Makes calls until there is a wire."""
    for _ in range(1_000):
        client.record("shop/money", "ann")
        if connection._wires._free:
            return
    raise AssertionError("there is no wire")


def until(happens: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3_000):
        if happens():
            return
        pause.wait(0.01)
    raise AssertionError("it does not happen")


def calls(service: FlightService) -> Counter[str]:
    found = Counter[str]()
    for (what, _), count in service.figures.calls.items():
        found[what] += count
    return found


def test_calls_in_a_row_are_answered_over_one_stream_and_counted_as_ever(service: FlightService) -> None:
    with connected(service) as (client, connection):
        warm(client, connection)
        topic = client["orders"]
        before = calls(service)
        for number in range(20):
            assert client.record("shop/money", "ann") == b"1"
            assert client.record("shop/money", "bob") is None
            assert topic.append({"n": [number]}) == {0: (3 + number, 4 + number)}
        assert calls(service) - before == {"action/record": 40, "action/commit": 20}
        assert service.figures.active == 1
        client.delete_topic("orders")
        with pytest.raises(TopicNotFound, match="orders"):
            topic.offsets()
        assert client.record("shop/money", "ann") == b"1"
        assert ("action/heads", "TopicNotFound") in service.figures.calls
        until(lambda: service.figures.active == 0)
        assert not connection._wires._all
        assert client.record("shop/money", "ann") == b"1"
    assert ("exchange", "ok") in service.figures.calls and not any(
        what == "exchange" and outcome != "ok" for what, outcome in service.figures.calls
    )


def test_threads_have_a_wire_each_up_to_a_few_and_the_answers_are_their_own(service: FlightService) -> None:
    with connected(service) as (client, connection):
        with client.transaction() as tx:
            for number in range(8):
                tx.put_record("numbers", str(number), b"%d" % number)
        wrong: list[Any] = []

        def ask(number: int) -> None:
            for _ in range(100):
                found = client.record("numbers", str(number))
                if found != b"%d" % number:
                    wrong.append((number, found))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert 1 <= len(connection._wires._all) <= 4


def test_the_answer_to_a_call_that_was_interrupted_is_not_that_of_the_next(
    service: FlightService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(service) as (client, connection):
        warm(client, connection)
        real = wires._Wire.call

        def interrupted(self: wires._Wire, message: bytes) -> pa.Buffer:
            monkeypatch.setattr(wires._Wire, "call", real)
            self._writer.write_metadata(pa.py_buffer(message))
            raise KeyboardInterrupt

        monkeypatch.setattr(wires._Wire, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.record("shop/money", "ann")
        assert client.record("shop/money", "bob") is None
        assert client["orders"].offsets() == {0: (0, 3)}


def test_a_call_that_is_not_answered_ends_at_its_deadline(service: FlightService, log: Log) -> None:
    with connected(service) as (client, connection):
        warm(client, connection)
        answer, real = threading.Event(), log._shared.record

        def silent(namespace: str, key: str) -> bytes | None:
            answer.wait(60)
            return real(namespace, key)

        log._shared.record = silent  # type: ignore[method-assign]
        body = protocol.encode(protocol.AskRecord("shop/money", "ann"))
        try:
            with pytest.raises(Lost):
                connection.once("record", body, bytes, timeout=0.3)
        finally:
            answer.set()
            del log._shared.record
        assert client.record("shop/money", "ann") == b"1"


def test_a_server_that_is_stopped_is_not_held_up_and_the_next_one_is_found(tmp_path: Path) -> None:
    with Restarted(tmp_path / "log") as server:
        client = client_of(server.address)
        with client.transaction() as tx:
            tx.put_record("shop/money", "ann", b"1")
        for _ in range(3):
            warm(client, client._shared._connection)
            with asking(client) as asked:
                assert asked.acquire(timeout=30)
                assert server.service.drain(30)
                server.restart()
                while asked.acquire(blocking=False):
                    pass
                assert asked.acquire(timeout=30)
        client.close()


@contextmanager
def asking(client: Log) -> Iterator[threading.Semaphore]:
    """A thread that makes calls meanwhile, and lets each answer be known."""
    answered, stop = threading.Semaphore(0), threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                assert client.record("shop/money", "ann") == b"1"
                answered.release()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_a_server_that_has_no_room_for_a_wire_is_asked_call_by_call(log: Log) -> None:
    # One call at a time: there is no room for another stream beside a call, and none for a call beside a stream.
    service = FlightService(log._shared, limits=Limits(most_streams=1))
    with connected(service) as (client, _):
        with flight.connect(f"grpc://localhost:{service.port}") as other:
            watch = flight.FlightDescriptor.for_command(
                protocol.encode(protocol.Exchange(calls=protocol.Calls()))
            )
            writer, stream = other.do_exchange(watch)
            stream.read_chunk()
            found: list[bytes | None] = []
            asking = threading.Thread(target=lambda: found.append(client.record("shop/money", "ann")))
            asking.start()
            writer.close()
            asking.join()
            assert found == [None]
        for _ in range(50):
            assert client.record("shop/money", "ann") is None
    service.shutdown()


def test_streams_that_a_server_refuses_write_nothing_to_standard_error(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    service = FlightService(log._shared)
    with connected(service) as (_, connection):
        service.desk.drain()
        for _ in range(50):
            with pytest.raises(ServerUnavailable):
                connection.once("lsn", protocol.encode(protocol.Nothing()), int)
        assert connection._wires._not_before
        with pytest.raises(ServerUnavailable):
            locking._tried(connection, "jobs", "etl", "ann")
    service.shutdown()
    gc.collect()
    assert "Close() failed" not in capfd.readouterr().err


# A client that is not ours.


@contextmanager
def wire(service: FlightService, token: str | None = None) -> Iterator[Callable[[Any], protocol.Told]]:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    with flight.connect(f"grpc://localhost:{service.port}") as client:
        command = flight.FlightDescriptor.for_command(msgspec.msgpack.encode({"calls": {}}))
        writer, stream = client.do_exchange(command, flight.FlightCallOptions(headers=headers))
        assert msgspec.msgpack.decode(stream.read_chunk().app_metadata) is True

        def call(message: Any) -> protocol.Told:
            writer.write_metadata(pa.py_buffer(message))
            return protocol.decode(stream.read_chunk().app_metadata, protocol.Told)

        yield call
        writer.close()


def asked(name: str, request: Any) -> bytes:
    return msgspec.msgpack.encode([name, request])


def test_what_is_no_call_is_told_and_the_next_is_answered(service: FlightService) -> None:
    with wire(service) as call:
        for message in (b"\xff\xff", msgspec.msgpack.encode(5), msgspec.msgpack.encode(["record"])):
            failure = call(message).failure
            assert failure is not None and failure.code == "InvalidInput", message
        for name, request in (("none", {}), ("record", {}), ("record", []), ("heads", {"topic": "x"})):
            failure = call(asked(name, request)).failure
            assert failure is not None and failure.code == "InvalidInput", name
        told = call(asked("record", protocol.AskRecord("shop/money", "ann")))
        assert told.failure is None and msgspec.msgpack.decode(told.answer) == b"1"


def test_one_of_several_kinds_of_exchange_is_asked_for(service: FlightService) -> None:
    with flight.connect(f"grpc://localhost:{service.port}") as client:
        for request in ({}, {"calls": None}, {"calls": {}, "watch": {"lsn": 0}}):
            command = flight.FlightDescriptor.for_command(msgspec.msgpack.encode(request))
            with pytest.raises(flight.FlightError, match="one of watch, lock, pieces, and calls"):
                client.do_exchange(command)[1].read_chunk()


@pytest.fixture
def served(log: Log, users_file: Path) -> Iterator[Served]:
    log.create_topic("orders", {"n": pl.Int64}).append({"n": [1, 2, 3]})
    made = Served(log, users_file)
    yield made
    made.left.close()
    made.service.shutdown()
    made.audit.close()


def test_a_user_without_rules_gets_no_more_over_a_wire_than_by_calls(served: Served) -> None:
    token = served.user("eve")
    made = requests(served.log)
    assert made.keys() == ACTIONS.keys()

    def alone(name: str, request: Any) -> Any:
        def call(client: flight.FlightClient, options: flight.FlightCallOptions) -> None:
            [*client.do_action(flight.Action(name, msgspec.msgpack.encode(request)), options)]

        return served.call(token, call)

    with wire(served.service, token) as call:
        for name, request in made.items():
            failure = call(asked(name, request)).failure
            lasting = "InvalidInput" if ACTIONS[name].lasting else None
            assert (failure and failure.code) == (lasting or alone(name, request)), name


def test_who_is_not_known_gets_no_wire_and_who_is_no_more_known_no_answer(served: Served) -> None:
    with pytest.raises(flight.FlightUnauthenticatedError), wire(served.service, "none"):
        pass
    token = served.user("ann", "allow describe topic orders")
    log = served.left.enter_context(
        Log(storage_of(f"localhost:{served.service.port}", {"MAMBA_STREAM_TOKEN": token}))
    )
    topic, connection = log["orders"], log._shared._connection
    for _ in range(1_000):
        topic.offsets()
        if connection._wires._free:
            break
    served.user("ann", "allow describe topic orders")
    with pytest.raises(NotAuthenticated):
        topic.offsets()
    with pytest.raises(MambaStreamError):
        topic.append({"n": [1]})
    assert served.log["orders"].offsets() == {0: (0, 3)}
