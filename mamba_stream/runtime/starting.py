"""Beginning a job as what it is to be: one task in this process, or many that workers run."""

from __future__ import annotations

from msgspec.structs import replace

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.log import Log
from mamba_stream.plan.alone import alone
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.staging import PARTITIONS
from mamba_stream.runtime.job import Job
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.processors import processors
from mamba_stream.runtime.progress import decode_record
from mamba_stream.runtime.saved import read_state
from mamba_stream.runtime.singlejob import SingleJob
from mamba_stream.runtime.standing import JOBS
from mamba_stream.runtime.workers.beginning import Begun
from mamba_stream.runtime.workers.executor import Executor
from mamba_stream.runtime.workers.layout import layout_of_job
from mamba_stream.runtime.workers.pool import PoolSettings
from mamba_stream.runtime.workers.pooledjob import PooledJob
from mamba_stream.runtime.workers.processes import ProcessExecutor
from mamba_stream.runtime.workers.threads import ThreadExecutor
from mamba_stream.runtime.workers.worker import Worker


def start_job(pipeline: Pipeline, log: Log, options: RunOptions, clock: Clock | None = None) -> Job:
    """Begins a job.

    Args:
        pipeline: The pipeline.
        log: The log.
        options: How it is run, ``options.workers`` among that.
        clock: The clock.

    Raises:
        JobRunning: A live job has this name.
        PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
    """
    clock = clock or SystemClock()
    if options.anew or options.savepoint is not None or not _has_tasks(log, pipeline.name):
        why = "" if options.workers == 1 else one_is_better(pipeline, log, options)
        if options.workers == 1 or why:
            return SingleJob(pipeline, log, replace(options, workers=1, least=None), clock, why)
    settings = PoolSettings(options.least or options.workers)

    def starting(begun: Begun) -> Executor:
        if options.workers == 1:
            return ThreadExecutor(lambda: _worker(pipeline, begun, log, options, clock), log)
        return ProcessExecutor(
            pipeline,
            log,
            options,
            partitions=begun.partitions,
            run=begun.run,
            workers=options.workers,
            schemas=begun.prepared.schemas,
        )

    return PooledJob(pipeline, log, options, settings, starting, clock=clock)


def one_is_better(pipeline: Pipeline, log: Log, options: RunOptions) -> str:
    """Why one worker does a job faster than those that are asked for; empty where it does not, or is not to.

    Args:
        pipeline: The pipeline.
        log: The log.
        options: How it is to be run.
    """
    if options.exactly or options.savepoint is not None:
        return ""
    found = alone(layout_of_job(Prepared(pipeline, log), PARTITIONS).stages)
    if found is None or not found.is_better(min(options.workers, processors())):
        return ""
    return found.why


def _has_tasks(log: Log, job: str) -> bool:
    """Whether a job was begun over workers: then what it remembers is that of its tasks."""
    data = log.record(JOBS, job)
    return data is not None and read_state(log, job, decode_record(data).base).progress.layout is not None


def _worker(pipeline: Pipeline, begun: Begun, log: Log, options: RunOptions, clock: Clock) -> Worker:
    return Worker(pipeline, begun.prepared, begun.layout.stages, log, options, clock, begun.run)
