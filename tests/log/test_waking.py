"""Waking: who waits is told of a commit by any process, and the dead leave nothing in the way."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import LogClosed
from mamba_stream.log import Log, Topic, open_log, store
from mamba_stream.log.waking import Ear, Waker
from tests.log.neighbour import Neighbour, script

FOREVER = 3_600.0
"""The slow poll of these tests, and every wait: who is not woken hangs, and the test with it."""
SOON = 60.0


@pytest.fixture(autouse=True)
def no_slow_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SLOW_POLL", FOREVER)


@pytest.fixture
def waker(tmp_path: Path) -> Iterator[Waker]:
    made = Waker(tmp_path, SystemClock())
    yield made
    made.close()


def ears(path: Path) -> list[str]:
    return os.listdir(path / "wake")


def in_background(work: object) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def until_waiting(path: Path) -> None:
    """Returns when an ear lies in the directory."""
    while not ears(path):
        threading.Event().wait(0.001)


def test_whoever_waits_is_woken(waker: Waker, tmp_path: Path) -> None:
    made = [Ear(tmp_path) for _ in range(3)]
    threads = [in_background(lambda e=ear, h=ear.heard: e.wait(h, FOREVER)) for ear in made * 4]
    waker.announce()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    for ear in made:
        ear.close()
    assert os.listdir(tmp_path) == []


def test_of_those_who_wait_another_listens_on_when_the_first_is_tired(waker: Waker, tmp_path: Path) -> None:
    ear = Ear(tmp_path)
    heard = ear.heard
    threads = [in_background(lambda t=timeout: ear.wait(heard, t)) for timeout in (0.05, FOREVER, FOREVER)]
    threads[0].join(SOON)
    assert not threads[0].is_alive()
    waker.announce()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    ear.close()


def test_an_ear_for_which_there_is_no_descriptor_is_deaf_and_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for module, name in ((os, "open"), (socket, "socket")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, none_left)
            ear = Ear(tmp_path)
        ear.wait(ear.heard, 0.01)
        ear.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.embedded
def test_a_thousand_followers_of_a_process_have_one_ear(log: Log, plain: Topic) -> None:
    before = len(os.listdir("/proc/self/fd"))
    seen: list[int] = []
    threads = [in_background(lambda: seen.append(next(plain.read(follow=True)).offset)) for _ in range(1000)]
    until_waiting(log.path)
    assert len(os.listdir("/proc/self/fd")) < before + 20
    assert len(ears(log.path)) == 1
    plain.append([{"n": 1}])
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    assert seen == [0] * 1000


def test_what_was_announced_before_the_wait_ends_it_at_once_and_once(waker: Waker, tmp_path: Path) -> None:
    ear = Ear(tmp_path)
    for _ in range(500):
        waker.announce()
    ear.wait(ear.heard, FOREVER)
    ended = threading.Event()
    thread = in_background(lambda heard=ear.heard: (ear.wait(heard, FOREVER), ended.set()))
    assert not ended.is_set()
    while not ended.is_set():
        waker.announce()
    thread.join(SOON)
    ear.close()


def test_a_waiter_that_comes_later_is_seen(waker: Waker, tmp_path: Path) -> None:
    for _ in range(5):
        waker.announce()
        ear = Ear(tmp_path)
        waker.announce()
        ear.wait(ear.heard, FOREVER)
        ear.close()


def test_a_path_of_any_length_has_room_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    waker, ear = Waker(deep, SystemClock()), Ear(deep)
    waker.announce()
    ear.wait(ear.heard, FOREVER)
    ear.close()
    waker.close()


@pytest.mark.embedded
def test_the_socket_of_a_dead_process_is_removed_with_the_next_commit(log: Log, plain: Topic) -> None:
    with Neighbour() as other:
        other.do({"do": "open", "path": log.place})
        other.send({"do": "read", "topic": "plain", "follow": True})
        until_waiting(log.path)
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
    assert len(ears(log.path)) == 1
    while ears(log.path):
        plain.append([{"n": 1}])


def test_what_lies_in_the_way_hinders_no_commit(tmp_path: Path, plain: Topic) -> None:
    (tmp_path / "log" / "wake" / "a-file").write_text("not a socket")
    (tmp_path / "log" / "wake" / "a-directory").mkdir()
    assert plain.append([{"n": 1}]) == {0: (0, 1)}


def test_a_wait_returns_with_a_commit_of_another_process(log: Log, plain: Topic, tmp_path: Path) -> None:
    with Neighbour() as other:
        other.do({"do": "open", "path": log.place})
        for _ in range(5):
            lsn, result = log.lsn(), []
            thread = in_background(lambda lsn=lsn, result=result: result.append(log.wait(lsn, FOREVER)))
            until_waiting(tmp_path / "log")
            other.do(
                {
                    "do": "append",
                    "topic": "plain",
                    "rows": [],
                    "form": "dicts",
                    "producer": "p",
                    "sequence": lsn,
                }
            )
            other.do({"do": "end", "topic": "plain"})
            thread.join(SOON)
            assert not thread.is_alive(), "the commit woke nobody"
            assert result[0] > lsn
        other.do({"do": "close"})


def test_a_wait_ends_for_whoever_is_called_and_for_nobody_else(log: Log, plain: Topic) -> None:
    lsn, called, asked = log.lsn(), threading.Event(), threading.Event()
    ended: list[str] = []

    def wait(name: str, answer: threading.Event) -> None:
        log.wait(lsn, FOREVER, lambda: asked.set() or answer.is_set())
        ended.append(name)

    other = in_background(lambda: wait("other", threading.Event()))
    for round_ in range(20):
        asked.clear()
        thread = in_background(lambda: wait("called", called))
        if round_ % 2:
            assert asked.wait(SOON)
        called.set()
        log.rouse()
        thread.join(SOON)
        assert not thread.is_alive(), "nobody was roused"
        called.clear()
    assert ended == ["called"] * 20
    plain.append([{"n": 1}])
    other.join(SOON)
    assert ended[-1] == "other"


def test_nobody_has_to_wait_to_be_roused(log: Log) -> None:
    log.rouse()
    assert log.wait(log.lsn(), FOREVER, lambda: True) == log.lsn()


def test_a_wait_for_what_has_happened_returns_at_once(log: Log, plain: Topic) -> None:
    assert log.wait(0, FOREVER) == log.lsn()


def test_a_wait_that_times_out_says_where_the_log_is(log: Log, plain: Topic) -> None:
    assert log.wait(log.lsn(), 0.01) == log.lsn()
    assert log.wait(log.lsn(), 0) == log.lsn()


def test_a_follower_in_another_process_sees_each_row_as_it_comes(log: Log, plain: Topic) -> None:
    code = """
import sys
from mamba_stream.log import locate, store
store._SLOW_POLL = 3600.0
with locate(sys.argv[1]) as log:
    for batch in log["plain"].read(follow=True):
        print(batch.data["n"][0], flush=True)
"""
    with script(code, log.place) as process:
        assert process.stdout is not None
        for n in range(20):
            plain.append([{"n": n}])
            # The next row is appended when this one was seen: nothing else can wake the follower.
            assert process.stdout.readline() == f"{n}\n"
        plain.end()
        assert process.stdout.read() == ""
        assert process.wait(60) == 0


def test_closing_a_log_ends_the_waits_of_its_threads(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    topic = log.create_topic("plain", {"n": int})
    seen: list[type[BaseException]] = []

    def follow() -> None:
        try:
            list(topic.read(follow=True))
        except LogClosed as error:
            seen.append(type(error))

    threads = [in_background(follow) for _ in range(3)]
    until_waiting(tmp_path)
    log.close()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()
    assert seen == [LogClosed] * 3
    while ears(tmp_path):
        threading.Event().wait(0.001)


def test_threads_that_wait_in_turns_share_an_ear(log: Log, plain: Topic, tmp_path: Path) -> None:
    for _ in range(20):
        threads = [in_background(lambda lsn=log.lsn(): log.wait(lsn, FOREVER)) for _ in range(2)]
        plain.append([{"n": 1}])
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()
    assert len(ears(tmp_path / "log")) <= 1
