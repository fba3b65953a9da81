"""How much waits between stages: a stage whose rows are not taken as fast as they come is held back until they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mamba_stream.log import Log, Topic
from mamba_stream.plan.stages import Stage
from mamba_stream.runtime.exchanges import exchange_topic

MOST: Final = 256 << 20
"""So many bytes may wait in an exchange, or a quarter of the job's memory, whichever is less."""


class Backlog:
    """The exchanges of a job, as of when they were last looked at."""

    def __init__(self, log: Log, job: str, stages: Sequence[Stage], most: int) -> None:
        """Nothing was looked at.

        Args:
            log: The log.
            job: The job's name.
            stages: Its stages.
            most: How many bytes may wait in an exchange.
        """
        self._log = log
        self._most = most
        self._topics: dict[int, list[Topic]] = {
            stage.number: [log[exchange_topic(job, exchange)] for exchange in stage.leaves]
            for stage in stages
        }
        self._full: dict[int, bool] = {}
        self._looked: dict[int, int] = {}

    def full(self, stage: int) -> bool:
        """Whether a stage is to wait until what it has given is taken."""
        topics = self._topics[stage]
        if not topics:
            return False
        # What waits changes with a commit, and not otherwise.
        lsn = self._log.heard()
        if self._looked.get(stage) != lsn:
            self._looked[stage] = lsn
            self._full[stage] = any(sum(topic.sizes().values()) > self._most for topic in topics)
        return self._full[stage]
