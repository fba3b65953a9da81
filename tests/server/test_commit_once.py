"""A commit that is sent again happens once: in one life of the server, over several, and while it is still under way."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
from pyarrow import flight

from mamba_stream.core.changes import Applied, ChangeSet, Forget, Once, Record
from mamba_stream.errors import (
    CommitUnknown,
    InvalidInput,
    LogClosed,
    MambaStreamError,
    NotAuthenticated,
    PreconditionFailed,
    ServerUnavailable,
)
from mamba_stream.log import Log, rows
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.protocol import Commit, Goodbye, encode
from mamba_stream.server import answers
from mamba_stream.server.answers import Answers
from mamba_stream.server.gate import Caller, OpenGate
from tests.server.inprocess import Line, Restarted, client
from tests.server.lives import Lives
from tests.server.load import client_of

SCHEMA = pa.schema({"n": pa.int64()})
LOST = Lost("the line went dead")
UNHEARD = Lost("failed to connect", sent=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Restarted]:
    with Restarted(tmp_path / "log") as served:
        served.log.create_topic("a", SCHEMA)
        served.log.create_topic("b", SCHEMA, partitions=2)
        yield served


@pytest.fixture
def line(server: Restarted) -> Iterator[tuple[Log, Line]]:
    log, line = client(server)
    yield log, line
    log.close()


def numbers(server: Restarted, topic: str = "a") -> list[int]:
    return sorted(n for batch in server.log[topic].read() for n in batch.data["n"].to_pylist())


def producers(server: Restarted) -> list[tuple[bytes, bytes]]:
    store: Any = server.log._shared
    return [
        pair for kind in (rows.PRODUCER, rows.SEQUENCE, rows.ONCE, rows.USED) for pair in store.items(kind)
    ]


# --- the answer was lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 3])
@pytest.mark.parametrize("restarted", [False, True])
def test_an_append_whose_answer_was_lost_lands_once_and_is_told_where(server, line, lost, restarted):
    log, at = line
    log["a"].append([{"n": 0}])
    at.plan = [("after", server.restart if restarted else LOST)] * lost
    assert log["a"].append([{"n": 1}, {"n": 2}]) == {0: (1, 3)}
    assert at.plan == []
    assert log["a"].append([{"n": 3}]) == {0: (3, 4)}
    assert numbers(server) == [0, 1, 2, 3]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_transaction_whose_answer_was_lost_lands_once_and_tells_the_offsets_of_all_its_topics(
    server, line, restarted
):
    log, at = line
    at.plan = [("after", server.restart if restarted else LOST)]
    with log.transaction() as transaction:
        transaction.append("a", [{"n": 1}])
        transaction.append("b", [{"n": 2}], partition=1)
        transaction.append("a", [{"n": 3}])
        transaction.put_record("space", "key", b"new")
        transaction.require_record("space", "key", None)
    assert transaction.offsets == {("a", 0): (0, 2), ("b", 1): (0, 1)}
    assert (numbers(server), numbers(server, "b")) == ([1, 3], [2])
    assert server.log.record("space", "key") == b"new"


def _swap(log: Log, before: bytes | None, after: bytes) -> None:
    with log.transaction() as transaction:
        transaction.require_record("space", "key", before)
        transaction.put_record("space", "key", after)


@pytest.mark.parametrize("restarted", [False, True])
def test_what_has_conditions_and_no_rows_is_known_in_every_life(server, line, restarted):
    log, at = line
    at.plan = [("after", server.restart if restarted else LOST)]
    _swap(log, None, b"1")
    at.plan = [("after", server.restart if restarted else LOST)] * 3
    _swap(log, b"1", b"2")
    with pytest.raises(PreconditionFailed):
        _swap(log, b"1", b"3")
    assert (server.log.record("space", "key"), at.plan) == (b"2", [])


def test_the_answer_is_known_where_the_servers_process_was_killed_after_the_commit(tmp_path):
    with Lives(tmp_path / "log") as lives:
        log = client_of(lives.address)
        at = Line(log)

        def killed() -> None:
            lives.kill()
            lives.begin()

        at.plan = [
            ("after", killed),
            None,
            ("after", killed),
            None,
            ("before", killed),
            None,
            ("after", killed),
        ]
        _swap(log, None, b"1")
        _swap(log, b"1", b"2")
        _swap(log, b"2", b"3")
        with log.transaction() as transaction:
            transaction.require_record("space", "key", b"3")
            transaction.delete_record("space", "key")
        assert (log.record("space", "key"), lives.kills) == (None, 4)
        # The number of a topic that was created, too.
        at.plan = [("after", killed)]
        topic = log.create_topic("c", SCHEMA)
        assert topic.append([{"n": 1}]) == {0: (0, 1)}
        assert topic.number == log["c"].number
        at.plan = [("after", killed)]
        log.delete_topic("c")
        assert "c" not in log
        log.close()


@pytest.mark.parametrize("heard", [True, False])
def test_a_topic_whose_creation_did_not_reach_an_earlier_life_is_created(server, line, heard):
    log, at = line

    def gone() -> None:
        server.restart()
        raise LOST if heard else UNHEARD

    at.plan = [("before", gone)]
    log.create_topic("c", SCHEMA)
    assert "c" in server.log


def test_a_blind_write_is_not_repeated_over_what_others_wrote_since(server, line):
    log, at = line
    other, _ = client(server)

    def overtaken() -> None:
        server.restart()
        with other.transaction() as transaction:
            transaction.put_record("space", "key", b"theirs")

    at.plan = [("after", overtaken)]
    with log.transaction() as transaction:
        transaction.put_record("space", "key", b"ours")
    assert server.log.record("space", "key") == b"theirs"
    other.close()


def test_one_that_is_sent_without_a_number_that_the_log_keeps_is_unknown_in_the_next_life(server):
    change = ChangeSet(records=(Record("space", "key", b"1"),))
    request = Commit(change, client="c", number=1)
    with client_of(server.address) as log:
        call = log._shared._connection.once
        request.boot = log._shared._connection.welcome.boot
        call("commit", encode(request), Applied)
        server.restart()
        with pytest.raises(CommitUnknown, match="started anew"):
            call("commit", encode(request), Applied)


def test_a_topic_that_was_deleted_meanwhile_does_not_make_a_commit_undone(server, line):
    log, at = line

    def deleted() -> None:
        server.restart()
        server.log.delete_topic("b")

    at.plan = [("after", deleted)]
    with log.transaction() as transaction:
        transaction.append("a", [{"n": 1}])
        transaction.append("b", [{"n": 1}], partition=0)
    assert transaction.offsets == {("a", 0): (0, 1), ("b", 0): (0, 1)}
    assert numbers(server) == [1]


def test_the_first_commits_after_a_restart_are_not_taken_for_repeated_ones(server, line):
    log, _ = line
    for n in range(3):
        server.restart()
        with log.transaction() as transaction:
            transaction.require_record("space", "key", str(n - 1).encode() if n else None)
            transaction.put_record("space", "key", str(n).encode())
    assert server.log.record("space", "key") == b"2"


# --- nobody can be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NotAuthenticated("the token ended"), LogClosed("closed meanwhile")])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_may_have_happened_is_unknown_whatever_else_the_next_try_meets(server, line, error, when):
    log, at = line
    at.plan = [(when, LOST), ("before", error)]
    with pytest.raises(CommitUnknown):
        log["a"].append([{"n": 1}])
    assert numbers(server) == [1] * (when == "after")


@pytest.mark.parametrize("error", [NotAuthenticated("no token"), InvalidInput("too large")])
def test_what_was_never_heard_is_told_as_it_is(server, line, error):
    log, at = line
    at.plan = [("before", UNHEARD), ("before", error)]
    with pytest.raises(type(error)):
        log["a"].append([{"n": 1}])
    log["a"].append([{"n": 2}])
    assert numbers(server) == [2]


def test_after_an_unknown_commit_its_number_is_used_for_nothing_else(server, line):
    log, at = line
    log["a"].append([{"n": 0}])
    at.plan = [("after", LOST), ("before", NotAuthenticated("the token ended"))]
    with pytest.raises(CommitUnknown):
        log["a"].append([{"n": 1}])
    assert log["a"].append([{"n": 2}]) == {0: (2, 3)}
    assert numbers(server) == [0, 1, 2]


# --- what a client leaves behind ------------------------------------------------------------------------------------


def test_what_a_client_needed_to_send_again_is_forgotten_when_it_is_closed(server):
    log, _ = client(server)
    for topic in ("a", "b", "a"):
        log[topic].append([{"n": 1}])
    assert producers(server)
    log.close()
    # It goes with the next commit, whoever makes it.
    other, _ = client(server)
    with other.transaction() as transaction:
        transaction.put_record("space", "key", b"")
    # What is left is that of the other itself.
    assert [key[:1] for key, _ in producers(server)] == [rows.ONCE, rows.USED]
    other.close()
    server.service.desk.settle_up()
    assert producers(server) == []


def test_a_number_that_may_still_be_on_its_way_is_not_forgotten(server):
    log, at = client(server)
    at.plan = [("after", LOST), ("before", NotAuthenticated("the token ended"))]
    with pytest.raises(CommitUnknown):
        log["a"].append([{"n": 1}])
    log["b"].append([{"n": 1}])
    log.close()
    server.service.desk.settle_up()
    # The lane of the unknown one; that of the other was said goodbye to.
    assert [key[:1] for key, _ in producers(server)] == [rows.ONCE, rows.USED]


def test_names_of_what_is_done_once_are_of_those_who_gave_them(server):
    """One who knows the name of another can neither use nor forget it."""

    class Names(OpenGate):
        def admit(self, headers: Any, peer: str, certificate: str) -> Caller:
            return Caller(headers["authorization"][0], peer)

    server.service.desk.gate = Names()
    change = ChangeSet(records=(Record("space", "key", b"1"),), once=Once("name", 0))
    answers = []
    for user in ("ann", "bob", "ann", "x" * 500, "x" * 500):
        with flight.connect(f"grpc://localhost:{server.port}") as ours:
            options = flight.FlightCallOptions(headers=[(b"authorization", user.encode())])

            def call(action: str, request: Any, ours: Any = ours, options: Any = options) -> Any:
                (result,) = ours.do_action(flight.Action(action, encode(request)), options)
                return msgpack.unpackb(result.body.to_pybytes())

            answers.append(call("commit", Commit(change))[2])
            if user == "bob":
                call("goodbye", Goodbye("bob", (Forget(0, "name"),)))
    assert answers == [False, False, True, False, True]


def test_nothing_is_remembered_for_who_changes_nothing(server):
    with client_of(server.address) as log, pytest.raises(InvalidInput, match="nothing to be done once"):
        log._shared._connection.once("commit", encode(Commit(ChangeSet(once=Once("name", 0)))), Applied)
    assert producers(server) == []


# --- the first try is still under way ---------------------------------------------------------------------------------


def test_a_retry_waits_for_the_answer_of_the_first_try(server, line):
    log, at = line
    store: Any = server.log._shared
    began, go = threading.Event(), threading.Event()
    commit = store.commit

    def slow(*args: Any) -> Any:
        began.set()
        assert go.wait(60)
        return commit(*args)

    store.commit = slow
    found: list[Any] = []

    def first() -> None:
        # The server has it; its client has given this call up.
        assert began.wait(60)
        raise LOST

    def send() -> None:
        connection = log._shared._connection
        real = at._once
        body: list[bytes] = []

        def once(action: str, data: bytes, *rest: Any) -> Any:
            if action == "commit" and not body:
                body.append(data)
                threading.Thread(target=lambda: real(action, data, *rest)).start()
                first()
            return real(action, data, *rest)

        connection.once = once
        found.append(log["a"].append([{"n": 1}]))

    sender = threading.Thread(target=send)
    sender.start()
    assert began.wait(60)
    sender.join(0.5)
    assert found == []
    go.set()
    sender.join(60)
    store.commit = commit
    assert found == [{0: (0, 1)}]
    assert numbers(server) == [1]


def test_all_who_ask_for_a_commit_under_way_get_its_answer():
    known = Answers()
    began, go = threading.Event(), threading.Event()
    times = []

    def commit() -> Applied:
        times.append(1)
        began.set()
        assert go.wait(60)
        return Applied(7)

    found: list[Applied] = []
    threads = [threading.Thread(target=lambda: found.append(known.once("c", 1, commit))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert began.wait(60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert found == [Applied(7)] * 5
    assert len(times) == 1


# --- what is remembered -----------------------------------------------------------------------------------------------


def _raises(error: BaseException) -> Any:
    def commit() -> Applied:
        raise error

    return commit


def test_a_refusal_stays_one_when_a_copy_of_the_commit_comes_late():
    known = Answers()
    refusal = PreconditionFailed("somebody was faster")
    for _ in range(2):
        with pytest.raises(PreconditionFailed, match="faster"):
            known.once("c", 1, _raises(refusal))
    with pytest.raises(PreconditionFailed, match="faster"):
        known.once("c", 1, lambda: Applied(1))


def test_what_was_only_put_off_is_tried_again():
    known = Answers()
    with pytest.raises(ServerUnavailable):
        known.once("c", 1, _raises(ServerUnavailable("draining")))
    assert known.once("c", 1, lambda: Applied(1)) == Applied(1)


def test_what_failed_inside_is_unknown_to_who_asks_again():
    known = Answers()
    with pytest.raises(ZeroDivisionError):
        known.once("c", 1, _raises(ZeroDivisionError("inside")))
    with pytest.raises(CommitUnknown):
        known.once("c", 1, lambda: Applied(1))


def test_what_is_so_long_ago_that_nobody_remembers_is_unknown_and_not_done_again(monkeypatch):
    monkeypatch.setattr(answers, "_REMEMBERED", 4)
    known = Answers()
    for number in range(1, 10):
        known.once("c", number, lambda number=number: Applied(number))
    with pytest.raises(CommitUnknown):
        known.once("c", 2, lambda: Applied(0), again=True)
    assert known.once("c", 8, lambda: Applied(0), again=True) == Applied(8)
    # The first time that it comes is never too late: others of the same client were only faster.
    assert known.once("c", 3, lambda: Applied(30)) == Applied(30)


def test_a_refusal_is_remembered_without_the_rows():
    class Large(list):
        pass

    known = Answers()
    held = Large("rows")
    watched = weakref.ref(held)

    def commit(rows: Large) -> Applied:
        raise MambaStreamError(f"{len(rows)} rows refused")

    with pytest.raises(MambaStreamError):
        known.once("c", 1, lambda rows=held: commit(rows))
    del held
    gc.collect()
    assert watched() is None
    with pytest.raises(MambaStreamError, match="4 rows refused"):
        known.once("c", 1, lambda: Applied(1))
