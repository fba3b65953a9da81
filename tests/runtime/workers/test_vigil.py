"""Tasks of a worker that have nothing to do are not asked, and are when they have."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import JobFailed
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.commits import Placed, Together
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.task import Task
from mamba_stream.runtime.workers.beginning import begin
from mamba_stream.runtime.workers.board import Board
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.worker import Worker
from mamba_stream.testing import Clock

SCHEMA = {"key": pl.String, "value": pl.Int64, "at": pl.Datetime("us")}


def rows(value: int) -> pl.DataFrame:
    return pl.DataFrame({"key": ["a"], "value": [value], "at": [value * 1_000_000]}).cast(SCHEMA)


class Asked:
    """A worker with a task for each partition, and which of them were asked."""

    def __init__(self, log, monkeypatch, stream, *, partitions=5, until="stopped", together=Together):
        self.log = log
        self.topic = log.create_topic("in", SCHEMA, partitions=partitions, time="at")
        self.clock = Clock()
        options = RunOptions(until=until, anew=False, memory=1 << 30, commit=1.0, skip_gaps=False)
        pipeline = mamba.pipeline("job", stream(mamba.stream("in", idle="10s")).to("out"))
        self.begun = begun = begin(pipeline, log, options, 3, self.clock)
        self.worker = Worker(
            pipeline, begun.prepared, begun.layout.stages, log, options, self.clock, begun.run, together(log)
        )
        self.worker.take(begun.layout.tasks, 1)
        self.steps: list[TaskName] = []
        step = Task.step

        def noted(task, most=None):
            self.steps.append(self.worker.working)
            return step(task, most)

        monkeypatch.setattr(Task, "step", noted)

    def turn(self):
        """The tasks that were asked in a turn."""
        self.steps.clear()
        self.worker.turn()
        return list(self.steps)

    def rest(self):
        """Turns until all sleep."""
        for _ in range(100):
            if not self.turn() and not any(task.committing for task in self.worker.tasks.values()):
                return
        pytest.fail("some task never sleeps")


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        yield opened


def test_only_the_task_whose_partition_has_rows_is_asked(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0))
    asked.rest()
    asked.topic.append(rows(1), partition=3)
    assert asked.turn() == [TaskName(0, 3)]
    log.create_topic("another", SCHEMA).append(rows(1))
    asked.rest()
    assert asked.turn() == []


def test_a_task_is_asked_when_its_commit_is_due_and_others_that_soon_would_be_commit_with_it(
    log, monkeypatch
):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0))
    asked.worker.commit()
    asked.topic.append(rows(1), partition=1)
    asked.turn()
    asked.clock.advance("700ms")
    asked.topic.append(rows(2), partition=2)
    asked.rest()
    assert log["out"].offsets()[0][1] == 0
    asked.clock.advance("300ms")
    asked.rest()
    assert log["out"].offsets()[0][1] == 2


def test_a_task_is_asked_when_silence_ends(log, monkeypatch):
    def counted(stream):
        return stream.window(mamba.tumbling("10s"), by="key").agg(rows=pl.len())

    asked = Asked(log, monkeypatch, counted, partitions=2)
    asked.topic.append(rows(1), partition=0)
    asked.topic.append(rows(100), partition=1)
    for _ in range(4):
        asked.rest()
        asked.clock.advance("1s")
    assert log["out"].offsets()[0][1] == 0
    # Partition 0 was silent for so long that it holds back time no more.
    for _ in range(12):
        asked.clock.advance("1s")
        asked.rest()
    assert log["out"].offsets()[0][1] == 1


def test_tasks_are_asked_when_the_topic_ends_and_when_they_are_to_leave(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0))
    asked.rest()
    asked.topic.end()
    assert len(asked.turn()) == 5
    assert not asked.worker.tasks


def test_tasks_that_sleep_leave_when_they_are_told(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0))
    asked.rest()
    asked.worker.leave()
    asked.turn()
    assert not asked.worker.tasks
    assert len(asked.worker.ended()) == 5


def test_what_did_nothing_is_no_news(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0))
    asked.rest()
    assert len(asked.worker.news()) == 5
    asked.topic.append(rows(1), partition=4)
    asked.turn()
    assert [name for name, _ in asked.worker.news()] == [TaskName(0, 4)]
    assert asked.worker.news() == []


class Held(Placed):
    """A commit that goes on for as long as it is said to."""

    made: ClassVar[list[Held]] = []

    def __init__(self, together):
        super().__init__(together)
        self.going_on = False
        self.made.append(self)

    @property
    def done(self):
        return super().done and not (self.busy and self.going_on)


class HeldTogether(Together):
    """Gives each task such commits."""

    def place(self):
        return Held(self)


def test_a_task_whose_commit_ends_as_those_it_reads_from_end_sees_that_they_did(log, monkeypatch):
    def counted(stream):
        return stream.window(mamba.tumbling("10s"), by="key").agg(rows=pl.len())

    asked = Asked(log, monkeypatch, counted, partitions=1, together=HeldTogether)
    asked.rest()
    _, *second_stage = Held.made[-4:]
    for held in second_stage:
        held.going_on = True
    asked.topic.append(rows(1))
    asked.clock.advance("1s")
    for _ in range(4):
        asked.turn()
    assert [name.stage for name, task in asked.worker.tasks.items() if task.committing] == [1]
    asked.topic.end()
    asked.turn()
    for held in second_stage:
        held.going_on = False
    asked.rest()
    assert len(asked.worker.ended()) == 4


def beside(asked, *stages):
    """Another worker of the same job, with the tasks of some stages."""
    worker = Worker(
        asked.worker._pipeline,
        asked.begun.prepared,
        asked.begun.layout.stages,
        asked.log,
        asked.worker._options,
        asked.clock,
        asked.begun.run,
        Together(asked.log),
    )
    names = [name for name in asked.begun.layout.tasks if name.stage in stages]
    for name in names:
        del asked.worker.tasks[name]
    assert worker.take(names, 2) == names
    return worker


def test_what_is_said_while_a_worker_looks_around_is_heard_in_the_next_turn(log, monkeypatch):
    def counted(stream):
        return stream.window(mamba.tumbling("10s"), by="key").agg(rows=pl.len())

    asked = Asked(log, monkeypatch, counted, partitions=1, until=None)
    others = beside(asked, 0)
    asked.rest()
    look, meanwhile = Board.look, [others.turn]

    def looked(board):
        look(board)
        if board is asked.worker._board and meanwhile:
            meanwhile.pop()()

    monkeypatch.setattr(Board, "look", looked)
    asked.topic.end()
    asked.turn()
    assert not meanwhile
    assert not others.tasks
    asked.rest()
    assert not asked.worker.tasks


def test_a_task_whose_last_runner_commits_while_it_is_taken_over_begins_behind_that_commit(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0), partitions=1)
    asked.topic.append(rows(1))
    asked.turn()
    load, meanwhile = Checkpoints.load, [asked.worker.tasks[TaskName(0, 0)]]

    def loaded(checkpoints):
        saved = load(checkpoints)
        if meanwhile:
            meanwhile.pop().commit("running")
        return saved

    monkeypatch.setattr(Checkpoints, "load", loaded)
    others = beside(asked, 0)
    asked.topic.append(rows(2))
    others.turn()
    others.commit()
    assert log["out"].scan().collect()["value"].to_list() == [1, 2]


def test_of_tasks_that_are_taken_together_those_that_were_given_to_another_since_are_left_alone(
    log, monkeypatch
):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0), partitions=4)
    late, another = beside(asked), beside(asked)
    first, second, third, fourth = asked.begun.layout.tasks
    assert another.take([second], 3) == [second]
    load, meanwhile = Checkpoints.load, [third]

    def loaded(checkpoints):
        saved = load(checkpoints)
        if meanwhile:
            # Behind its look at them, and before its own change of them.
            assert another.take([meanwhile.pop()], 4) == [third]
        return saved

    monkeypatch.setattr(Checkpoints, "load", loaded)
    assert late.take([third, first, second, fourth], 2) == [first, fourth]
    for partition in range(4):
        asked.topic.append(rows(partition + 1), partition=partition)
    for worker in (late, another):
        worker.turn()
        worker.commit()
    assert sorted(log["out"].scan().collect()["value"]) == [1, 2, 3, 4]
    with pytest.raises(JobFailed, match="taken over task 0"):
        asked.worker.commit()


@pytest.mark.embedded
def test_tasks_are_taken_over_and_commit_in_one_call(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0), partitions=9)
    for partition in range(9):
        asked.topic.append(rows(partition + 1), partition=partition)
    calls = log.statistics().commits
    other = beside(asked, 0)
    assert log.statistics().commits == calls + 1
    other.turn()
    asked.clock.advance("1s")
    other.turn()
    assert log.statistics().commits == calls + 2
    assert log["out"].offsets()[0][1] == 9


def test_a_task_that_was_taken_over_shows_soon_that_it_goes_on(log, monkeypatch):
    asked = Asked(log, monkeypatch, lambda stream: stream.filter(pl.col("value") > 0), partitions=1)
    asked.topic.append(rows(1))
    other = beside(asked, 0)
    other.turn()
    assert log["out"].offsets()[0][1] == 0
    asked.clock.advance("100ms")
    other.turn()
    assert log["out"].offsets()[0][1] == 1
    asked.topic.append(rows(2))
    other.turn()
    asked.clock.advance("900ms")
    other.turn()
    assert log["out"].offsets()[0][1] == 1, "the next one comes when it is due"
    asked.clock.advance("100ms")
    other.turn()
    assert log["out"].offsets()[0][1] == 2
