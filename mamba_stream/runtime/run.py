"""One run of a job that is a single task: it takes the job over, and goes on from its last commit."""

from __future__ import annotations

from collections.abc import Callable

from mamba_stream.core.clock import Clock
from mamba_stream.core.names import check_name
from mamba_stream.log import Log
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.stages import whole
from mamba_stream.runtime.altered import going_on
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.held import forget_tasks
from mamba_stream.runtime.left import left_for
from mamba_stream.runtime.merging import merged
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import make_topics
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import Progress
from mamba_stream.runtime.saved import make_state
from mamba_stream.runtime.share import Share
from mamba_stream.runtime.sources import groups_of
from mamba_stream.runtime.standing import OWNED, place_of_job
from mamba_stream.runtime.task import Task
from mamba_stream.runtime.upgrade import check_resumable


class Run(Task):
    """A pipeline over a log, from its last commit on."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        options: RunOptions,
        clock: Clock,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        """Checks everything that can be checked, takes the job over, and puts its state back.

        Args:
            pipeline: What to run.
            log: The log.
            options: How.
            clock: The clock.
            ring: Called from any thread when there is something to do for whoever waits.

        Raises:
            PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
            OffsetTrimmed: Rows that were to be read next are gone.
        """
        prepared = Prepared(pipeline, log)
        self.pipeline, self._options = pipeline, options
        self.names = prepared.names
        """What the sources are called."""
        for group in groups_of(pipeline.name, prepared.analysis.sources):
            check_name(group, "group")
        make_state(log, pipeline.name)
        checkpoints = Checkpoints(log, place_of_job(pipeline.name), clock)
        left = left_for(log, pipeline, options, checkpoints)
        if left is not None and not options.upgrade:
            prepared = going_on(prepared, pipeline, log, left.saved.progress)
        saved = None if left is None else merged(left.tasks, prepared) if left.tasks else left.saved
        self.upgrade = prepared.upgrade(saved.progress if saved is not None else Progress())
        if saved is not None:
            check_resumable(self.upgrade, options)
        share = Share(whole(prepared.analysis))
        super().__init__(
            pipeline, prepared, share, log, checkpoints, saved, self.upgrade.kept, options, clock, ring=ring
        )
        self._take_over(log)

    @property
    def number(self) -> int:
        """Which of the job's runs it is."""
        assert self._checkpoints.record is not None
        return self._checkpoints.record.epoch

    def _take_over(self, log: Log) -> None:
        job = self.pipeline.name
        owned = {key.partition("/")[2] for key in log.records(OWNED) if key.startswith(f"{job}/")}
        anew = self._checkpoints.record is None or self._options.anew
        shapes = {output: self.analysis.shapes[output] for output in self.pipeline.topics}
        made = make_topics(log, self.pipeline.topics, shapes, replace=owned if self._options.anew else set())
        if self.faults.policy == "dead_letter":
            made += self._letters.make()
        empty = [name for name in owned if name in log] if self._options.anew else []
        # What the topic of state holds is not what this run begins with: it is written anew.
        replaces = not anew and (self._options.savepoint is not None or not self.upgrade.fits)
        self._checkpoints.claim(
            self._progress(),
            anew=anew,
            owned=[name for name in made if name not in owned],
            empty=empty,
            replaced={node.name: step for node, step in self.engine.flow.steps.items()} if replaces else None,
            also=(lambda tx: forget_tasks(tx, log, job)) if anew or replaces else None,
        )()
        # Not before: from here on no other runner can commit.
        self._deliveries.recover(anew=self._options.anew or self._checkpoints.starts_over)
