"""The supervisor with listeners that are really started and killed, and do as they are told to."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import InvalidInput, LogUnavailable
from mamba_stream.server.orders import Figures, Orders
from mamba_stream.server.supervisor import Supervisor
from tests.server.running import alive, until

STANDIN = Path(__file__).parent / "standin.py"
MEMORY = 64 << 20


def writes_nothing(ours):
    ours.close()
    return lambda timeout: None


class Kept:
    """A supervisor, and what it took down."""

    def __init__(self, behaviour="well", orders=None):
        self.events = []
        self.orders = orders or (lambda: Orders("log", "127.0.0.1", 0, MEMORY, "secret"))
        self.supervisor = Supervisor(
            [sys.executable, str(STANDIN), behaviour],
            lambda: self.orders(),
            writes_nothing,
            drain=5.0,
            clock=SystemClock(),
            log=lambda level, event, **facts: self.events.append((event, facts)),
        )

    def named(self, event):
        return [facts for name, facts in list(self.events) if name == event]


@pytest.fixture
def keep(monkeypatch, environment):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    made = []

    def start(*arguments):
        made.append(Kept(*arguments))
        return made[-1]

    yield start
    for each in made:
        if each.supervisor.child is not None:
            each.supervisor.stop()


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_listener_is_started_again_at_its_port_and_what_all_of_them_did_is_added_up(keep):
    kept = keep()
    port = kept.supervisor.start()
    pids = []
    for _ in range(3):
        child = until(lambda: kept.supervisor.child, "a listener")
        assert child.port == port and connects(port)
        assert child.figures(10.0)[1]
        pids.append(child.pid)
        os.kill(child.pid, signal.SIGKILL)
        until(lambda child=child: kept.supervisor.child not in (child, None), "another listener")
    assert len(set(pids)) == 3
    assert kept.supervisor.restarts == {"died": 3}
    pids.append(kept.supervisor.child.pid)
    assert kept.supervisor.figures(10.0) == Figures(calls={"read": {"ok": 12}}, commits=8, received=sum(pids))
    assert [each["exit"] for each in kept.named("listener ended")] == ["SIGKILL"] * 3


@pytest.mark.parametrize(
    ("behaviour", "message"), [("refuse", "there is no log for it"), ("die", "exit code 7")]
)
def test_one_that_cannot_be_started_says_why(keep, behaviour, message):
    kept = keep(behaviour)
    with pytest.raises(LogUnavailable, match=message):
        kept.supervisor.start()
    assert kept.supervisor.over
    if behaviour == "die":
        until(lambda: kept.named("listener wrote"), "what it wrote")
        assert kept.named("listener wrote")[0]["line"] == "I cannot live like this"


def test_a_command_that_is_none_is_a_reason_too(keep):
    kept = keep()
    kept.supervisor._command = ["/nowhere/to/be/found"]
    with pytest.raises(LogUnavailable, match="cannot be started"):
        kept.supervisor.start()


def test_one_that_says_what_no_listener_says_is_ended(keep):
    kept = keep("babble")
    with pytest.raises(LogUnavailable, match="ended before it answered"):
        kept.supervisor.start()
    assert "not a message" in kept.named("listener not understood")[0]["reason"]


def test_one_that_grows_too_large_is_replaced(keep):
    kept = keep("grow")
    kept.supervisor.start()
    first = kept.supervisor.child.pid
    until(lambda: kept.supervisor.restarts["memory"] or kept.supervisor.restarts["died"], "its end")
    until(lambda: not alive(first), "its end")
    assert kept.supervisor.restarts["memory"] == 1
    assert kept.named("listener too large")


def test_it_ends_in_order_or_at_once(keep):
    kept = keep()
    kept.supervisor.start()
    pid = kept.supervisor.child.pid
    kept.supervisor.drain(30.0)
    assert kept.supervisor.wait_over(30.0)
    assert kept.supervisor.cut == 0
    assert not alive(pid)
    assert not kept.named("listener ended")

    kept = keep("slow")
    kept.supervisor.start()
    pid = kept.supervisor.child.pid
    kept.supervisor.drain(600.0)
    assert not kept.supervisor.wait_over(0.5)
    kept.supervisor.stop()
    assert kept.supervisor.over
    assert not alive(pid)

    kept = keep("slow")
    kept.supervisor.start()
    kept.supervisor.drain(0.2)
    assert kept.supervisor.wait_over(30.0)
    assert kept.supervisor.cut == 2


def test_other_certificates_take_another_listener_at_the_same_port_while_the_old_one_finishes(keep):
    kept = keep("slow")
    port = kept.supervisor.start()
    old = kept.supervisor.child
    # Nothing changed: it only reads its users again.
    kept.supervisor.reload()
    until(lambda: kept.named("users reloaded"), "the reload")
    assert kept.supervisor.child is old
    kept.orders = lambda: Orders("log", "127.0.0.1", 0, MEMORY, "other", tls_cert=b"new", tls_key=b"key")
    kept.supervisor.reload()
    until(lambda: kept.supervisor.child not in (old, None), "another listener")
    assert kept.supervisor.child.port == port and connects(port)
    assert kept.supervisor.orders.tls_cert == b"new"
    # What the probe shows stays what it is: the old listener is asked no more.
    assert kept.supervisor.orders.probe == "secret"
    until(lambda: kept.named("listener left"), "the old one's end")
    assert not alive(old.pid)
    assert kept.supervisor.figures(10.0).commits == 4
    assert not kept.supervisor.restarts


def test_what_cannot_be_reloaded_leaves_in_force_what_held(keep):
    kept = keep("stubborn")
    kept.supervisor.start()
    child = kept.supervisor.child

    def wrong():
        raise InvalidInput("no such certificate")

    kept.supervisor.reload()
    until(lambda: kept.named("users not reloaded"), "the refusal")
    kept.orders = wrong
    kept.supervisor.reload()
    until(lambda: kept.named("not reloaded"), "the refusal")
    assert kept.named("not reloaded") == [{"reason": "no such certificate"}]
    assert kept.supervisor.child is child
    # It still comes back.
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: kept.supervisor.child not in (child, None), "another listener")
