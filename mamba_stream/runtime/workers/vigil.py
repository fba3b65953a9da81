"""Which tasks of a worker have something to do but to commit; the others sleep, however many they are.

To let a task look for itself costs a third of a millisecond, and of hundreds that a worker has one may have rows. So
what tasks wait for is looked at together: the heads of the topics that they read, once after a commit to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from mamba_stream.core.clock import Clock
from mamba_stream.log import Log, Topic
from mamba_stream.log.storage import PartitionHead
from mamba_stream.runtime.exchanges import Word
from mamba_stream.runtime.feeds import TopicFeed
from mamba_stream.runtime.task import Task
from mamba_stream.runtime.workers.layout import TaskName


class _Sleep(msgspec.Struct):
    """A task that found nothing to do.

    Attributes:
        until: When it has something to do in any case, but to commit: for that it need not be awake.
        lsn: The number that the log had reached when it was last found to have nothing to do.
        places: What it reads: the topic, the partition, and the next offset.
        words: What gives the words of those that it reads from, and what they had said.
    """

    until: float
    lsn: int
    places: Sequence[tuple[Topic, int, int]]
    words: Sequence[tuple[Callable[[], Word], Word]]


class Vigil:
    """Knows which tasks sleep, and when one is to be woken."""

    def __init__(self, log: Log, clock: Clock) -> None:
        """No task sleeps."""
        self._log = log
        self._clock = clock
        self._asleep: dict[TaskName, _Sleep] = {}
        self._lsn = -1
        self._heads: dict[str, Mapping[int, PartitionHead]] = {}

    def look(self) -> None:
        """A turn begins: what tasks find from here on is known of them when the log has come no further."""
        lsn = self._log.heard()
        if lsn != self._lsn:
            self._lsn, self._heads = lsn, {}

    def sleeps(self, name: TaskName) -> bool:
        """Whether a task sleeps on; if not, it is awake."""
        sleep = self._asleep.get(name)
        if sleep is None:
            return False
        if self._clock.monotonic() >= sleep.until or self._has_news(sleep):
            del self._asleep[name]
            return False
        sleep.lsn = self._lsn
        return True

    def lay(self, name: TaskName, task: Task, words: Sequence[Callable[[], Word]]) -> None:
        """A task has found nothing to do in this turn: it sleeps until that changes.

        Args:
            name: The task.
            task: The same.
            words: What gives the words of those that it reads from.
        """
        feeds = [feed for feed in task.feeds if isinstance(feed, TopicFeed) and not feed.done]
        self._asleep[name] = _Sleep(
            self._clock.monotonic() + task.seconds_to_work(),
            self._lsn,
            [(feed.topic, feed.partition, feed.position) for feed in feeds],
            [(word, word()) for word in words],
        )

    def wake(self, name: TaskName) -> None:
        """A task is to work in the next turn."""
        self._asleep.pop(name, None)

    def seconds(self, name: TaskName) -> float | None:
        """How long a task sleeps if nothing comes; ``None`` for one that is awake."""
        sleep = self._asleep.get(name)
        return None if sleep is None else max(0.0, sleep.until - self._clock.monotonic())

    def _has_news(self, sleep: _Sleep) -> bool:
        if sleep.lsn == self._lsn:
            return False
        if any(word() is not said for word, said in sleep.words):
            return True
        for topic, partition, position in sleep.places:
            heads = self._heads.get(topic.name)
            if heads is None:
                heads = self._heads[topic.name] = topic.heads()
            if heads[partition].end > position or heads[partition].ended:
                return True
        return False
