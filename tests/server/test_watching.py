"""What others see of a server: events, readiness, addresses, systemd, messages between its processes."""

from __future__ import annotations

import io
import json
import os
import socket
import threading

import pytest

from mamba_stream.core.settings import Address
from mamba_stream.errors import InvalidInput, LogUnavailable, NotAuthenticated, NotAuthorized
from mamba_stream.server import orders
from mamba_stream.server.events import Events
from mamba_stream.server.extras import check_extra
from mamba_stream.server.gate import Need, OpenGate
from mamba_stream.server.listener import calls_within
from mamba_stream.server.metrics import connections
from mamba_stream.server.notify import Notifier
from mamba_stream.server.orders import Figures, Sender, ToListener
from mamba_stream.server.probing import HEADER, ProbedGate
from mamba_stream.server.readiness import DiskCheck, Readiness, write_nothing
from mamba_stream.server.service import FlightService
from mamba_stream.server.settings import LEAST_MEMORY, ServerSettings, is_loopback
from mamba_stream.server.sockets import bind, check_free
from mamba_stream.server.web import Web


class Stopped:
    """A clock that stands still."""

    seconds = 0.0

    def now(self):
        return int(self.seconds * 1e6)

    def monotonic(self):
        return self.seconds


def test_events_are_lines_of_json_from_a_weight_on(capsys):
    out = io.StringIO()
    events = Events(Stopped(), "auto", "info", out)
    events("debug", "too small")
    events("info", "started", port=1, where=Address("::1", 2))
    events("error", "failed", reason='with "quotes"\nand lines')
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line.pop("timestamp")[-1] for line in lines] == ["Z", "Z"]
    assert lines == [
        {"level": "info", "event": "started", "port": 1, "where": ["::1", 2]},
        {"level": "error", "event": "failed", "reason": 'with "quotes"\nand lines'},
    ]
    Events(Stopped(), "console", "info", out := io.StringIO())("info", "started", port=1)
    assert "started" in out.getvalue() and "port=1" in out.getvalue()


def test_what_others_can_cause_is_not_written_as_often_as_they_like():
    out, clock = io.StringIO(), Stopped()
    events = Events(clock, "json", "info", out)
    for _ in range(25):
        events("warning", "listener wrote", line="x")
    events("info", "started")
    clock.seconds = 10.0
    events("warning", "listener wrote", line="x")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [*["listener wrote"] * 10, "started", "listener wrote"]
    assert lines[-1]["left_out"] == 15


def test_readiness_is_all_checks_together_and_ends_for_good():
    found, told = {"a": None, "b": "broken"}, []

    def raises():
        raise LogUnavailable("gone")

    readiness = Readiness({"a": lambda: found["a"], "b": lambda: found["b"]}, [told.append])
    assert not readiness.ready
    assert readiness.found() == dict.fromkeys(found, "the server is being started")
    readiness.look()
    assert (readiness.ready, readiness.found()) == (False, found)
    found["b"] = None
    readiness.look()
    readiness.look()
    assert readiness.ready
    readiness.stop()
    readiness.look()
    assert not readiness.ready
    assert readiness.found()["stopping"] == "the server is being stopped"
    assert told == [True, False]
    failing = Readiness({"log": raises})
    failing.look()
    assert failing.found() == {"log": "gone"}


def test_a_disk_is_asked_for_room_and_tried_with_bytes_of_which_nothing_stays(tmp_path):
    assert DiskCheck(tmp_path, 1)() is None
    assert "less than" in DiskCheck(tmp_path, 1 << 62)()
    assert write_nothing(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert "cannot be written to" in write_nothing(tmp_path / "none")


def test_an_address_is_taken_under_all_names_or_not_at_all():
    taken = bind(Address("localhost", 0), "http")
    try:
        port = taken[0].getsockname()[1]
        assert {each.getsockname()[1] for each in taken} == {port}
        for host in ("localhost", "127.0.0.1", "::1"):
            with pytest.raises(LogUnavailable, match=rf"listen = \S+:{port}: another process listens there"):
                check_free(Address(host, port), "listen")
    finally:
        for each in taken:
            each.close()
    check_free(Address("localhost", port), "listen")
    with pytest.raises(LogUnavailable, match="choose another host"):
        bind(Address("no.such.host.invalid", 1), "http")
    with pytest.raises(LogUnavailable, match="192.0.2.1:1"):
        bind(Address("192.0.2.1", 1), "http")


def test_an_address_that_is_kept_is_only_for_who_listens_there_for_us(log):
    kept = bind(Address("localhost", 0), "listen", listening=False)
    port = kept[0].getsockname()[1]
    try:
        check_free(Address("localhost", port), "listen")
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with FlightService(log._shared, f"grpc://localhost:{port}") as service:
            assert service.port == port
            for host in ("127.0.0.1", "::1"):
                socket.create_connection((host, port)).close()
            with pytest.raises(LogUnavailable, match="another process listens there"):
                check_free(Address("localhost", port), "listen")
    finally:
        for each in kept:
            each.close()


def test_the_pages_end_without_a_word_of_what_was_in_the_way():
    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    web = Web(Address("localhost", 0))
    web.start(page, Events(Stopped(), "json", "info", io.StringIO()))
    with socket.create_connection(("localhost", web.port)) as asking:
        asking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asking.recv(12) == b"HTTP/1.1 204"
        web.stop()
    # What a thread raises fails the test.
    for thread in threading.enumerate():
        if thread.name == "http":
            thread.join(30)
            assert not thread.is_alive()
    check_free(Address("localhost", web.port), "http")


def test_connections_are_counted_at_the_port_of_whoever_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert connections(os.getpid(), port) == 0
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert connections(os.getpid(), port) == 1


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")),
        *((host, False) for host in ("0.0.0.0", "::", "192.0.2.1", "localhost.example", "")),
    ],
)
def test_which_hosts_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) is loopback


def test_systemd_is_told_where_it_listens_and_nothing_fails_where_nobody_does(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0mamba-stream-test-" + str(os.getpid()))
        notifier = Notifier({"NOTIFY_SOCKET": f"@mamba-stream-test-{os.getpid()}"})
        notifier.ready("well")
        assert heard.recv(100) == b"READY=1\nSTATUS=well"
        notifier.reloading(1.5)
        assert heard.recv(100) == b"RELOADING=1\nMONOTONIC_USEC=1500000"
    notifier.alive()
    Notifier({}).alive()
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog == 3.0
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog is None
    assert Notifier({"WATCHDOG_USEC": "often"}).watchdog is None


def test_messages_come_as_they_were_sent_and_what_is_none_is_refused():
    pipe = io.BytesIO()
    sent = [
        orders.Orders("log", "::1", 9092, 1 << 30, "secret", tls_key=b"key"),
        orders.Listen(),
        orders.Count(7),
        orders.Leave(1.5, hand_over=True),
    ]
    for message in sent:
        assert Sender(pipe).send(message)
    assert "secret" not in repr(sent[0]) and "key" not in repr(sent[0])
    pipe.seek(0)
    assert [orders.receive(pipe, ToListener) for _ in sent] == sent
    assert orders.receive(pipe, ToListener) is None
    for wrong in (b"\0\0\0\5hello", b"\xff\xff\xff\xff", b"\0\0\0\1\xc0"):
        with pytest.raises(InvalidInput):
            orders.receive(io.BytesIO(wrong), ToListener)
    # Cut off in the middle is an end.
    assert orders.receive(io.BytesIO(b"\0\0\0\5he"), ToListener) is None
    pipe.close()
    assert not Sender(pipe).send(orders.Listen())


def test_memory_bounds_calls_and_leaves_room_for_what_they_do():
    least, usual = calls_within(LEAST_MEMORY), calls_within(ServerSettings().memory)
    assert 200 < least < usual
    # Their threads' stacks, a mebibyte each, take no more than what is reserved for them and half of the rest.
    assert least << 20 < (256 << 20) + LEAST_MEMORY // 2


def test_figures_of_two_lives_are_added_up():
    first = Figures(
        {"read": {"ok": 1, "InvalidInput": 2}},
        active=5,
        received=10,
        commits=1,
        commit_seconds=0.5,
        commit_times=[1, 0, 2],
        guard={"denied": 1},
        audit={"rows": 4},
    )
    second = Figures(
        {"read": {"ok": 2}, "write": {"ok": 1}},
        active=1,
        sent=3,
        commits=2,
        commit_seconds=0.25,
        commit_times=[0, 1, 1, 5],
        guard={"denied": 2, "throttled": 1},
    )
    assert second.after(first) == Figures(
        {"read": {"ok": 3, "InvalidInput": 2}, "write": {"ok": 1}},
        active=1,
        received=10,
        sent=3,
        commits=3,
        commit_seconds=0.75,
        commit_times=[1, 1, 3, 5],
        guard={"denied": 3, "throttled": 1},
        audit={"rows": 4},
    )


def test_the_probe_is_let_in_to_nothing_and_who_is_not_let_in_is_told_of():
    class Closed(OpenGate):
        def admit(self, headers, peer, certificate):
            raise NotAuthenticated("no")

    refused = []
    gate = ProbedGate(Closed(), "secret", lambda *told: refused.append(told))
    probe = gate.admit({HEADER: ["secret"]}, "ipv4:127.0.0.1:1", "")
    with pytest.raises(NotAuthorized):
        gate.check(probe, [Need("read", "topic", "t")])
    assert gate.visible(probe, "topic", ["t"]) == []
    assert refused == []
    for headers in ({}, {HEADER: ["other"]}, {HEADER: [""]}):
        with pytest.raises(NotAuthenticated):
            gate.admit(headers, "ipv4:127.0.0.1:1", "")
    assert refused == [("ipv4:127.0.0.1:1", "NotAuthenticated")] * 3
    opened = ProbedGate(OpenGate(), "secret", lambda *told: None)
    caller = opened.admit({}, "p", "")
    opened.check(caller, [Need("read", "topic", "t")])
    opened.spend(caller, received=5)
    opened.spend(caller, sent=7)
    assert (opened.received, opened.sent) == (5, 7)
    assert opened.visible(caller, "topic", ["t"]) == ["t"]


def test_what_serving_takes_is_said_where_it_is_missing(monkeypatch):
    from mamba_stream.errors import MissingExtra
    from mamba_stream.server import extras

    check_extra()
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("uvicorn", "structlog") else name)
    with pytest.raises(MissingExtra, match=r"structlog, uvicorn, which are not .* 'mamba-stream\[server\]'"):
        check_extra()
