"""A commit that is sent twice happens once, and what was refused stays refused under its number."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref

import pytest

from mamba_stream.core.changes import Applied
from mamba_stream.errors import CommitUnknown, PreconditionFailed, QuotaExceeded
from mamba_stream.server import answers as bounds
from mamba_stream.server.answers import Answers


class Rows:
    """Stands for what a commit holds in memory."""


def test_what_was_committed_is_answered_again_and_not_done_again():
    answers, done = Answers(), []

    def commit():
        done.append(1)
        return Applied(len(done))

    assert answers.once("a", 1, commit) == answers.once("a", 1, commit) == Applied(1)
    assert answers.once("a", 2, commit) == Applied(2)
    assert answers.once("b", 1, commit) == Applied(3)
    answers.forget("a")
    assert answers.once("a", 1, commit) == Applied(4)


def test_whoever_asks_while_it_is_done_waits_for_the_answer():
    answers, begun, go, found = Answers(), threading.Event(), threading.Event(), []

    def commit():
        begun.set()
        assert go.wait(30)
        return Applied(7)

    def never():
        raise AssertionError("it was done twice")

    first = threading.Thread(target=lambda: found.append(answers.once("a", 1, commit)))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=lambda: found.append(answers.once("a", 1, never)))
    second.start()
    go.set()
    first.join(30)
    second.join(30)
    assert found == [Applied(7)] * 2


@pytest.mark.parametrize("error", [PreconditionFailed("not so"), QuotaExceeded("wait", retry_after=2.0)])
def test_a_refusal_stays_one_unless_the_client_is_to_ask_again_and_its_rows_are_let_go(error):
    answers, kept = Answers(), []

    def refuse():
        rows = Rows()
        kept.append(weakref.ref(rows))
        raise error

    with pytest.raises(type(error)):
        answers.once("a", 1, refuse)
    if isinstance(error, QuotaExceeded):
        assert answers.once("a", 1, lambda: Applied(3)) == Applied(3)
    else:
        with pytest.raises(PreconditionFailed, match="not so"):
            answers.once("a", 1, lambda: Applied(3))
    error.__traceback__ = None
    gc.collect()
    assert kept[0]() is None


@pytest.mark.parametrize("error", [CommitUnknown("perhaps"), ZeroDivisionError("a bug")])
def test_what_may_have_happened_is_not_done_again(error):
    answers, kept = Answers(), []

    def fail():
        rows = Rows()
        kept.append(weakref.ref(rows))
        raise error

    with pytest.raises(type(error)):
        answers.once("a", 1, fail)
    with pytest.raises(CommitUnknown):
        answers.once("a", 1, lambda: Applied(3))
    error.__traceback__ = None
    gc.collect()
    assert kept[0]() is None


def test_what_all_clients_together_came_to_is_bounded_and_what_was_let_go_is_not_done_again(monkeypatch):
    monkeypatch.setattr(bounds, "_OF_ALL", 1_000)
    answers = Answers()
    for client in range(100):
        for number in range(1, 21):
            answers.once(f"client {client}", number, lambda: Applied(1))
    assert answers.held <= 1_000
    # Those that came last are known.
    assert answers.once("client 99", 1, lambda: Applied(2), again=True) == Applied(1)
    for number in (1, 21):
        # Nor whoever comes back with another commit in between.
        with pytest.raises(CommitUnknown):
            answers.once("client 0", number, lambda: Applied(2), again=True)
        assert answers.once("client 0", 30 + number, lambda: Applied(3)) == Applied(3)


def test_a_client_that_is_let_go_while_it_commits_has_its_answer_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(bounds, "_OF_ALL", 4)
    answers = Answers()

    def others():
        for number in range(10):
            answers.once("b", number, lambda: Applied(1))
        return Applied(5)

    assert answers.once("a", 1, others) == Applied(5)
    for client in "ab":
        answers.forget(client)
    assert answers.held == 0


def test_an_answer_that_is_there_takes_little_memory():
    answers = Answers()
    answers.once("a", 1, lambda: Applied(1))
    tracemalloc.start()
    for number in range(2, 202):
        answers.once("a", number, lambda: Applied(1))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken / 200 < 500
