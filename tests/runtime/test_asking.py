"""What another process asks of a job, seen from both ends of the log, and what the log keeps of it."""

from __future__ import annotations

import threading

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import (
    AlreadyExists,
    InvalidInput,
    InvalidName,
    JobFailed,
    JobNotFound,
    JobNotRunning,
)
from mamba_stream.runtime.asking import ask
from mamba_stream.runtime.describing import decode_description
from mamba_stream.runtime.inbox import Inbox
from mamba_stream.runtime.jobs import find_job
from mamba_stream.runtime.journal import KEPT, Journal, read_journal
from mamba_stream.runtime.progress import decode_record
from mamba_stream.runtime.requests import (
    ANSWERS,
    REQUESTS,
    Cancel,
    Describe,
    Request,
    Rescale,
    Savepoint,
    Stop,
    encode,
)
from mamba_stream.runtime.standing import JOBS
from tests.server.running import until


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("numbers", {"n": pl.Int64}).append(pl.DataFrame({"n": [1, 2, 3]}))
        yield opened


def doubling(function=lambda frame: frame):
    doubled = mamba.stream("numbers").select(double=pl.col("n") * 2)
    return mamba.pipeline(
        "doubling", doubled.map_batches(function, schema={"double": pl.Int64}).to("doubled")
    )


def left_over(log):
    return [*log.records(f"{REQUESTS}/doubling"), *log.records(f"{ANSWERS}/doubling")]


def happened(log):
    return [event.what for event in read_journal(log, "doubling")]


def test_a_job_that_is_asked_to_stop_commits_what_it_has(log):
    job = mamba.start(doubling(), log, commit="1h")
    until(lambda: job.status.rows_in == 3, "the rows")
    said, _ = ask(log, "doubling", Stop())
    assert said.startswith("doubling stopped: 3 rows in, 3 out")
    assert job.wait(0.0).state == "stopped"
    assert log["doubled"].scan().collect()["double"].to_list() == [2, 4, 6]
    assert left_over(log) == []


def test_a_job_that_is_asked_to_cancel_commits_nothing_more(log):
    job = mamba.start(doubling(), log, commit="1h")
    until(lambda: job.status.rows_in == 3, "the rows")
    said, _ = ask(log, "doubling", Cancel())
    assert said.startswith("doubling cancelled")
    assert job.status.state == "cancelled"
    assert log["doubled"].scan().collect().is_empty()
    assert happened(log) == ["started", "asked", "cancelled"]


def test_a_savepoint_is_made_while_the_job_runs_and_refused_in_its_own_words(log):
    job = mamba.start(doubling(), log)
    ask(log, "doubling", Savepoint("one"))
    with pytest.raises(AlreadyExists, match="has a savepoint 'one'"):
        ask(log, "doubling", Savepoint("one"))
    with pytest.raises(InvalidName):
        ask(log, "doubling", Savepoint("new"))
    assert job.status.state == "running"
    job.stop()
    assert left_over(log) == []


def test_what_a_job_cannot_do_it_refuses(log):
    job = mamba.start(doubling(), log)
    with pytest.raises(InvalidInput, match="runs as one task"):
        ask(log, "doubling", Rescale(2))
    job.stop()


def test_a_description_of_any_length_comes_back_whole(log):
    job = mamba.start(doubling(), log)
    until(lambda: job.status.rows_in == 3, "the rows")
    _, data = ask(log, "doubling", Describe())
    described = decode_description(data)
    assert (described.status.rows_in, described.status.positions) == (3, {"numbers": {0: 3}})
    assert described.lag == {0: 0}
    job.stop()
    assert left_over(log) == []
    # To look is nothing that happens to a job.
    assert happened(log) == ["started", "stopped"]


def test_nobody_is_asked_where_nobody_runs_the_job(log):
    with pytest.raises(JobNotFound):
        ask(log, "doubling", Stop())
    mamba.run(doubling(), log, until="now")
    with pytest.raises(JobNotRunning, match=r"does not run \(stopped\)"):
        ask(log, "doubling", Stop())
    assert left_over(log) == []


def test_a_later_run_does_not_do_what_an_earlier_one_was_asked(log):
    mamba.run(doubling(), log, until="now")
    run = decode_record(log.record(JOBS, "doubling")).epoch
    with log.transaction() as tx:
        # As left behind by one that was killed before it looked.
        tx.put_record(f"{REQUESTS}/doubling", "a", encode(Request(run, Stop(), "nobody")))
        tx.put_record(f"{ANSWERS}/doubling", "b", b"an answer that nobody has fetched")
    job = mamba.start(doubling(), log)
    job.checkpoint()
    assert left_over(log) == []
    assert job.status.state == "running"
    assert find_job(log, "doubling").workers == 1
    job.stop()
    assert happened(log) == ["started", "stopped", "started", "stopped"]


def test_a_job_that_does_not_answer_is_not_stopped_later(log):
    entered, free = threading.Event(), threading.Event()

    def hang(frame):
        entered.set()
        free.wait()
        return frame

    job = mamba.start(doubling(hang), log)
    entered.wait()
    with pytest.raises(TimeoutError, match="did not answer within 0.3 s.*which is withdrawn"):
        ask(log, "doubling", Stop(), timeout=0.3)
    free.set()
    job.checkpoint()
    assert job.status.state == "running"
    assert left_over(log) == []
    job.stop()


def test_a_job_that_fails_says_so_to_those_who_wait_for_its_end(log):
    entered, free = threading.Event(), threading.Event()

    def fail(frame):
        entered.set()
        free.wait()
        raise ValueError("no such luck")

    job = mamba.start(doubling(fail), log)
    entered.wait()
    refused = []

    def asking():
        try:
            ask(log, "doubling", Stop())
        except JobFailed as error:
            refused.append(str(error))

    thread = threading.Thread(target=asking)
    thread.start()
    while not log.records(f"{REQUESTS}/doubling"):
        pass
    free.set()
    thread.join()
    with pytest.raises(JobFailed):
        job.wait()
    assert refused == ["the job ended before it came to that"]
    *_, last = read_journal(log, "doubling")
    assert last.what == "failed"
    assert "no such luck" in last.text and f"{__file__}:" in last.text


def test_a_request_that_was_withdrawn_meanwhile_is_not_taken(log):
    inbox = Inbox(log, "doubling", 1, SystemClock())
    with log.transaction() as tx:
        tx.put_record(f"{REQUESTS}/doubling", "a", encode(Request(1, Stop(), "somebody")))
    assert [*inbox.look()] == ["a"]
    with log.transaction() as tx:
        tx.delete_record(f"{REQUESTS}/doubling", "a")
    with pytest.raises(mamba.PreconditionFailed), log.transaction() as tx:
        inbox.take(tx, "a")


def test_a_journal_keeps_its_last_events_and_no_more(log):
    for run in range(2):
        journal = Journal(log, "long", run, SystemClock())
        for number in range(KEPT):
            journal.note("worker", f"{number} " + "x" * 5_000 + f" {run}")
            with log.transaction() as tx:
                journal.write(tx)
    events = read_journal(log, "long")
    assert [event.number for event in events] == [*range(KEPT, 2 * KEPT)]
    assert {event.run for event in events} == {1}
    assert all(event.text.startswith(f"{number} ") for number, event in enumerate(events))
    assert all(event.text.endswith(" 1") for event in events)
    assert sum(map(len, log.records("jobs.journal/long").values())) <= KEPT * 2_048


def test_the_time_of_a_task_is_divided_without_a_rest(log):
    job = mamba.start(doubling(), log)
    until(lambda: job.status.rows_in == 3, "the rows")
    job.stop()
    # Before the turn is over that took the rows, its time is not counted.
    (task,) = job.status.tasks
    assert (task.stage, task.number, task.worker, task.rows_in) == (0, 0, 0, 3)
    assert task.busy > 0 and task.idle >= 0 and task.backpressured >= 0
    assert task.busy + task.idle + task.backpressured == pytest.approx(1)
