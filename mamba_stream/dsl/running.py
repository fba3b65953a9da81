"""Setting streams and pipelines to work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Log, locate
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.collecting import collect
from mamba_stream.runtime.facts import RunSummary
from mamba_stream.runtime.job import Job
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.starting import start_job


def start(
    pipeline: Pipeline,
    log: Any = None,
    until: str | datetime | date | None = None,
    state: str = "resume",
    memory: str | float | None = None,
    commit: str | timedelta = "1s",
    workers: int | str = 1,
    on_gap: str = "fail",
    latency: str | timedelta | None = None,
    durability: str = "interval",
) -> Job:
    """Sets a pipeline to work in the background; arguments as for :func:`run`."""
    if not isinstance(pipeline, Pipeline):
        raise PipelineRefused(
            f"this is no pipeline: {pipeline!r:.80}; make one with mamba.pipeline(name, *outputs)"
        )
    options = run_options(
        until=until,
        state=state,
        workers=workers,
        memory=memory,
        commit=commit,
        on_gap=on_gap,
        latency=latency,
        durability=durability,
    )
    return start_job(pipeline, _log_of(pipeline.nodes, log), options)


def run(
    pipeline: Pipeline,
    log: Any = None,
    until: str | datetime | date | None = None,
    state: str = "resume",
    memory: str | float | None = None,
    commit: str | timedelta = "1s",
    workers: int | str = 1,
    on_gap: str = "fail",
    latency: str | timedelta | None = None,
    durability: str = "interval",
) -> RunSummary:
    """Runs a pipeline and waits for its end.

    Whatever was committed stays, and running the pipeline again goes on from there: killed at any moment, it gives
    the rows of a run that was not.

    Args:
        pipeline: The pipeline.
        log: A directory, an open log, or nothing for the default one.
        until: ``"now"`` reads to where the topics end now, a datetime to where the streams' times reach it (or to the
            ends as they are now, if they do not), and both leave windows open for the next run; ``"stopped"`` goes on
            until it is stopped. Left out, a run whose sources are all bounded (frames, ended topics) goes to their
            end and closes all windows; any other until it is stopped.
        state: ``"new"`` forgets what the job did before, and empties the topics that it made. ``"upgrade"`` lets a
            changed pipeline keep the state of the steps that it still fits (``pipeline.check_upgrade()`` says which). A
            savepoint's name goes back to it.
        memory: ``"2GB"``, bytes, or a share of the machine's; 0.6 of what there is if left out.
        commit: How often to commit.
        workers: How many workers run it. One is this process; more are processes of their own, to which the pipeline
            is sent, with the functions in it. Its state is then cut by key among them, and stays so: run with one
            worker later, it is run by this process alone, but goes on as it was cut. Where one worker is faster than
            so many, there is one, and ``job.note`` says why; ``"exactly:4"`` has four all the same. ``"auto"`` has as
            many as the load takes, up to the number of processors; ``"auto:2-8"`` between two and eight.
        on_gap: ``"earliest"`` goes on behind rows that were trimmed away before they were read.
        latency: How long a row should be on its way at most, as far as that is up to the run: it reads so much at a
            time, and commits results so soon. Left out, it reads as much as is efficient, and commits every ``commit``.
        durability: What a loss of power can undo; the death of a process undoes nothing. ``"interval"``: the last
            second, which the next run does again. ``"commit"``: nothing. ``"os"``: what came since the log was last
            flushed. What is told to somebody outside, by a connector, is on the disk before, and so is all of it when
            the run ends.

    Returns:
        What the run did.
    """
    job = start(
        pipeline,
        log,
        until=until,
        state=state,
        memory=memory,
        commit=commit,
        workers=workers,
        on_gap=on_gap,
        latency=latency,
        durability=durability,
    )
    try:
        return job.wait()
    except KeyboardInterrupt:
        job.stop()
        raise


def collect_stream(node: n.Node, log: Any, *, limit: Any) -> pl.DataFrame:
    """What ``Stream.collect`` and ``Stream.head`` do."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise PipelineRefused(f"head takes a number of rows, not {limit!r}")
    nodes = n.walk([node])
    topics = any(isinstance(found, n.TopicSource) for found in nodes)
    return collect(node, _log_of(nodes, log) if topics else None, limit=limit)


def _log_of(nodes: Sequence[n.Node], log: Any) -> Log:
    """The log that was named; else that of the first bound topic; else the default one."""
    bound = [node.bound for node in nodes if isinstance(node, n.TopicSource) and node.bound is not None]
    found: Log = bound[0].log if log is None and bound else locate(log)
    for topic in bound:
        if topic.log.place != found.place:
            raise PipelineRefused(
                f"topic {topic.name!r} belongs to the log in {topic.log.place}, and this runs over {found.place}: "
                "leave log= out, or name the topic instead of passing it"
            )
    return found
