"""What the tasks of a job have said in their records, for those that read what they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mamba_stream.log import Log
from mamba_stream.plan.stages import Exchange, Stage
from mamba_stream.runtime.exchanges import NOTHING_SAID, Word
from mamba_stream.runtime.progress import JobRecord, decode_record
from mamba_stream.runtime.standing import task_key, tasks_of
from mamba_stream.runtime.watermarks import Mark, combined


class Board:
    """The records of all tasks of a job, as of when it was last looked at."""

    def __init__(self, log: Log, job: str, stages: Sequence[Stage], run: int) -> None:
        """Nothing was looked at.

        Args:
            log: The log.
            job: The job's name.
            stages: Its stages.
            run: The run of the job: what records say of other runs' ends does not count.
        """
        self._log = log
        self._job = job
        self._run = run
        self._writers = {
            exchange: [
                task_key(stage.number, task)
                for stage in stages
                if exchange in stage.leaves
                for task in range(stage.tasks)
            ]
            for one in stages
            for exchange in one.exchanges
        }
        self._words: dict[Exchange, Word] = {}
        self._known: dict[str, bytes] = {}
        self._records: dict[str, JobRecord] = {}
        self._lsn = -1

    def look(self) -> None:
        """Looks at the records, if there was a commit since the last time."""
        lsn = self._log.heard()
        if lsn == self._lsn or not self._writers:
            return
        self._lsn = lsn
        found = self._log.records(tasks_of(self._job))
        changed = {key for key, data in found.items() if self._known.get(key) != data}
        self._known = found
        for key in changed:
            self._records[key] = decode_record(found[key])
        if changed:
            for exchange, writers in self._writers.items():
                if not changed.isdisjoint(writers):
                    self._hear(exchange, writers)

    def words(self, exchange: Exchange) -> Callable[[], Word]:
        """What gives how far those that write to an exchange have come."""
        return lambda: self._words.get(exchange, NOTHING_SAID)

    def _hear(self, exchange: Exchange, writers: Sequence[str]) -> None:
        records = [self._records.get(key) for key in writers]
        marks = [_mark(record, exchange) for record in records]
        done = all(record is not None and self._is_over(record) for record in records)
        word = Word(combined(marks), done)
        if word != self._words.get(exchange):
            self._words[exchange] = word

    def _is_over(self, record: JobRecord) -> bool:
        return record.run == self._run and record.status != "running"


def _mark(record: JobRecord | None, exchange: Exchange) -> Mark:
    known = None if record is None else record.marks.get(exchange.number)
    return NOTHING_SAID.mark if known is None else Mark(known.watermark, known.idle, known.greatest)
