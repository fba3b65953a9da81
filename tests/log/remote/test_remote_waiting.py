"""Waiting, locks, errors and ends of a connection."""

from __future__ import annotations

import os
import signal
import socket
import threading

import numpy as np
import pytest

from mamba_stream.errors import ForkedProcess, InvalidInput, LogClosed
from mamba_stream.log import Log, locate
from mamba_stream.server import actions
from tests.log.neighbour import script
from tests.log.pictures import rows_of

FOREVER = 3_600.0


def in_background(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def joined(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(60)
    return not any(thread.is_alive() for thread in threads)


def test_many_followers_share_one_stream(server, log: Log) -> None:
    topic, seen = log.create_topic("t", {"n": int}), []
    threads = [in_background(lambda: seen.append(next(topic.read(follow=True)).offset)) for _ in range(50)]
    while len(log._store._watcher._waiting) < 50:
        threading.Event().wait(0.001)
    assert server.service.desk.pulse._waiting == 1
    topic.append([{"n": 1}])
    assert joined(*threads)
    assert seen == [0] * 50


def test_a_wait_goes_on_when_the_server_comes_back(server, log: Log) -> None:
    topic, lsn, found = log.create_topic("t", {"n": int}), log.lsn(), []
    thread = in_background(lambda: found.append(log.wait(lsn, FOREVER)))
    while not log._store._watcher._waiting:
        threading.Event().wait(0.001)
    server.restart()
    assert not found
    topic.append([{"n": 1}])
    assert joined(thread)
    assert found == [lsn + 1]


def test_a_commit_while_nobody_is_connected_is_heard_of(server, log: Log) -> None:
    log.create_topic("t", {"n": int})
    lsn, found = log.lsn(), []
    thread = in_background(lambda: found.append(log.wait(lsn, FOREVER)))
    while not log._store._watcher._waiting:
        threading.Event().wait(0.001)
    server.stop()
    with Log(server.store) as beside:
        server.store.handles += 1
        beside["t"].append([{"n": 1}])
    server.start()
    assert joined(thread)
    assert found == [lsn + 1]


def test_closing_ends_waits_and_what_is_retried(server) -> None:
    log, failed = server.client(), []

    def attempt(work) -> None:
        try:
            work()
        except LogClosed as error:
            failed.append(error)

    server.client().close()
    threads = [in_background(lambda: attempt(lambda: log.wait(log.lsn(), FOREVER)))]
    while not log._store._watcher._waiting:
        threading.Event().wait(0.001)
    server.stop()
    threads.append(in_background(lambda: attempt(lambda: log.topics())))
    log.close()
    assert joined(*threads)
    assert len(failed) == 2
    server.start()


def test_a_lock_is_held_by_the_client_that_took_it(server, log: Log) -> None:
    code = """
import sys
from mamba_stream.log import locate
log = locate(sys.argv[1])
lock = log.lock("jobs", "j")
print(log.lock_holder("jobs", "j"), flush=True)
sys.stdin.read()
"""
    with script(code, log.place) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"process {other.pid} on {socket.gethostname()}\n"
        assert log.lock_holder("jobs", "j") == f"process {other.pid} on {socket.gethostname()}"
        assert log.lock("jobs", "j") is None
        other.send_signal(signal.SIGKILL)
        other.wait()
    while (lock := log.lock("jobs", "j")) is None:
        threading.Event().wait(0.001)
    assert log.lock_holder("jobs", "j") == f"process {os.getpid()} on {socket.gethostname()}"
    lock.release()
    lock.release()
    assert log.lock_holder("jobs", "j") is None


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\U0001f600", "\n", "\ud800"])
def test_a_long_message_comes_through_in_any_language(
    log: Log, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    def refuse(desk, caller, request):
        raise InvalidInput(letter * 5_000)

    lsn = actions.ACTIONS["lsn"]
    changed = actions.Action(lsn.name, lsn.request, lsn.needs, refuse, lsn.words)
    monkeypatch.setitem(actions.ACTIONS, "lsn", changed)
    with pytest.raises(InvalidInput) as caught:
        log.lsn()
    assert str(caught.value).startswith(("\\ud800" if letter == "\ud800" else letter) * 250)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_cannot_connect(log: Log) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for use in (log.lsn, lambda: locate(log.place)):
            try:
                use()
                said.append("nothing")
            except Exception as error:
                said.append(type(error).__name__)
        log.close()
        os.write(writing, " ".join(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == f"{ForkedProcess.__name__} {ForkedProcess.__name__}"
    os.waitpid(child, 0)
    assert log.lsn() == 0


def test_names_may_be_what_behaves_like_a_text(log: Log) -> None:
    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "another"

    log.create_topic("t", {"n": int}, partitions=3)
    for name in (np.str_("t"), Name("t")):
        assert name in log
        assert log[name].append([{"n": 1}], partition=np.int64(2))
        assert log.group_offsets(name) == {}
        assert log.namespaces(name) == []
    assert rows_of(log["t"], partitions=[np.int32(2)], start=np.int64(1)) == [(2, 1, (1,))]
