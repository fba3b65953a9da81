"""A job's durable side: one transaction holds what it put out, how far it read, and what its state became.

State goes to an internal topic as Arrow: usually what came since the last commit, now and then everything, after
which what lies before is trimmed away. The job's record points at the first row that is still needed, and every
commit requires the record to be as this runner left it: a runner that was taken for dead can commit nothing more.

Much state is written whole in pieces, some with each commit, and says of each where what came after it begins. They
count once the record points there, which is with the last of them; until then the state is what it was before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa

from mamba_stream.core.clock import Clock
from mamba_stream.core.durability import Durability
from mamba_stream.log import Log, Transaction
from mamba_stream.operators.step import StatefulStep
from mamba_stream.runtime.commits import Commit
from mamba_stream.runtime.held import add_savepoint, held_states, savepoints
from mamba_stream.runtime.progress import (
    JobRecord,
    MarkRecord,
    Progress,
    Savepoint,
    decode_record,
    encode,
)
from mamba_stream.runtime.saved import (
    PIECE,
    PIECE_BYTES,
    Held,
    Saved,
    batches_of,
    held_in,
    read_between,
)
from mamba_stream.runtime.standing import JOBS, OWNED, RESETS, Place

_PIECES = 4
"""So many pieces are written with a commit, and no less than what has come: what waits to be written is kept for that,
even if the step has replaced it meanwhile."""
_SLACK = 1 << 20
_NOTHING_READ: Final[Mapping[str, int]] = MappingProxyType({})
_NO_MARKS: Final[Mapping[int, MarkRecord]] = MappingProxyType({})


class _Whole(msgspec.Struct):
    """State that is on its way to be written whole.

    Attributes:
        since: Where what came after it begins.
        pieces: What is left to write.
    """

    since: int
    pieces: deque[Held]

    def take(self, size: int | None) -> list[Held]:
        """The next pieces of about so many bytes together, at least one; all for ``None``."""
        taken: list[Held] = []
        while self.pieces and (not taken or size is None or size > 0):
            name, part, frame = self.pieces.popleft()
            taken.append((name, f"{PIECE}{self.since} {part}", frame))
            size = None if size is None else size - int(frame.estimated_size())
        return taken


class Checkpoints:
    """The commits of one job, or one task, by one runner."""

    def __init__(
        self, log: Log, place: Place, clock: Clock, run: int = 0, lease: int = 0, *, settled: bool = False
    ) -> None:
        """Looks up what the last commit left.

        Args:
            log: The log, which has the topic of state.
            place: Where the record and the state are.
            clock: The clock.
            run: Of a task, the run of its job.
            lease: Of a task, the number under which it was given to this runner; later ones are greater.
            settled: The log was settled since the runner before was known to be gone. It may have been killed in its
                last commit, which is to count from here on and not later.
        """
        self._log = log
        self._place = place
        self._clock = clock
        self._run, self._lease = run, lease
        if not settled:
            log.settle()
        self._bytes = log.record(place.namespace, place.key)
        self._record = None if self._bytes is None else decode_record(self._bytes)
        reset = log.record(RESETS, place.key) if place.namespace == JOBS else None
        self._reset = None if reset is None else decode_record(reset)
        self._end = log[place.topic].heads([place.partition])[place.partition].end
        self._written = 0
        self._whole: _Whole | None = None
        self.lsn: int | None = None

    @property
    def record(self) -> JobRecord | None:
        """The job's record as of its last commit; ``None`` if it never ran."""
        return self._record

    @property
    def outdated(self) -> bool:
        """Whether somebody else has committed since this was made, or taken over."""
        return self._log.record(self._place.namespace, self._place.key) != self._bytes

    @property
    def given_on(self) -> bool:
        """Whether the task was given to another worker since, which was there first: it is to be left alone."""
        record = self._record
        return (
            bool(self._run) and record is not None and (record.run, record.lease) >= (self._run, self._lease)
        )

    @property
    def starts_over(self) -> bool:
        """Whether the job starts over and has not committed since: what its sinks have is to be removed."""
        return self._reset is not None

    @property
    def next_epoch(self) -> int:
        """A number for the next commit: larger than all before it, also those of runs that did not commit."""
        assert self._record is not None
        return (self._record.epoch << 32) + self._record.commits + 1

    def load(self) -> Saved | None:
        """What the last commit left; ``None`` if the job never ran."""
        if self._record is None:
            return None
        saved = read_between(self._log[self._place.topic], self._place.partition, self._record.base, None)
        self._written = sum(int(frame.estimated_size()) for _, _, frame in saved.state)
        return saved

    def claim(
        self,
        progress: Progress,
        *,
        anew: bool,
        owned: Sequence[str],
        empty: Sequence[str],
        replaced: Mapping[str, StatefulStep] | None = None,
        also: Callable[[Transaction], None] | None = None,
    ) -> Commit:
        """Takes the job over: once what this gives is committed, no other runner's commit goes through.

        Args:
            progress: Where this run begins.
            anew: Forget what the job did before.
            owned: Output topics that this job made.
            empty: Output topics to empty, together with the state.
            replaced: Steps whose state takes the place of what the last commit left.
            also: What else belongs to it.

        Returns:
            What commits it, in any thread, before anything else is done here.
        """
        before = None if anew else self._record
        now = self._clock.now()
        base = self._end if before is None or replaced is not None else before.base
        reset = self._record if anew and self._record is not None else self._reset
        # What a sink holds from before a reset must not have the numbers of what comes.
        epoch = 1 + max((known.epoch for known in (self._record, reset) if known is not None), default=0)
        started = now if before is None else before.started
        commits, marks = (before.commits, before.marks) if before is not None else (0, {})
        record = JobRecord(epoch, base, "running", commits, started, now, self._run, self._lease, marks)
        written = 0

        def write(tx: Transaction) -> JobRecord:
            nonlocal written
            if also is not None:
                also(tx)
            for name in empty:
                tx.trim(name, {p: end for p, (_, end) in self._log[name].offsets().items()})
            for name in owned:
                tx.put_record(OWNED, f"{self._place.job}/{name}", b"")
            for rows in batches_of(encode(progress), held_in((replaced or {}).items(), whole=True)):
                tx.append(self._place.topic, rows, partition=self._place.partition)
                written += rows.nbytes
            if before is None or replaced is not None:
                self._trim(tx, base)
            if reset is not self._reset:
                assert reset is not None
                tx.put_record(RESETS, self._place.key, encode(reset))
            return record

        def settled() -> None:
            self._reset = reset
            if before is None or replaced is not None:
                self._written = written

        return self._commit(write, settled)

    def take(
        self,
        *,
        outputs: Sequence[tuple[str, pl.DataFrame | pa.RecordBatch]],
        offsets: Mapping[str, Mapping[tuple[str, int], int]],
        progress: Progress,
        steps: Mapping[str, StatefulStep],
        status: str,
        read: Mapping[str, int] = _NOTHING_READ,
        marks: Mapping[int, MarkRecord] = _NO_MARKS,
        durability: Durability = "commit",
    ) -> Commit:
        """Takes what happened since the last commit, to be committed.

        Args:
            outputs: Rows by topic.
            offsets: What to read next, by group.
            progress: How far the job has come.
            steps: The steps with state, by name.
            status: ``running``, or how the run ends.
            read: Of exchanges, by topic, up to where the task's partition was read: what is before can go.
            marks: How far time has come in the rows that went to exchanges, by their numbers.
            durability: What has to be true before it counts as committed.

        Returns:
            What commits it, in any thread, before anything is taken again.
        """
        assert self._record is not None
        before, base, ends = self._record, self._record.base, status != "running"
        state = sum(step.bytes for step in steps.values())
        due = self._whole is None and self._written > 2 * state + _SLACK
        at_once = due and (ends or state <= PIECE_BYTES)
        held = [*held_in(steps.items(), whole=at_once)]
        if at_once:
            base, self._written = self._end, 0
        elif self._whole is not None:
            came = sum(int(frame.estimated_size()) for _, _, frame in held)
            held += self._whole.take(None if ends else max(_PIECES * PIECE_BYTES, came))
            if not self._whole.pieces:
                base, self._whole = self._whole.since, None
        # What has come is in `held`: what is here is what came before the end of this commit.
        pieces = deque(held_in(steps.items(), whole=True)) if due and not at_once else None
        come = encode(progress)

        def write(tx: Transaction) -> JobRecord:
            if self._reset is not None:
                tx.delete_record(RESETS, self._place.key)
            for name, frame in outputs:
                tx.append(name, frame)
            for group, positions in offsets.items():
                tx.commit_offsets(group, positions)
            for topic, position in read.items():
                tx.trim(topic, {self._place.partition: position})
            if base != before.base:
                self._trim(tx, base)
            for rows in batches_of(come, held):
                tx.append(self._place.topic, rows, partition=self._place.partition)
                self._written += rows.nbytes
            commits, now = before.commits + 1, self._clock.now()
            return msgspec.structs.replace(
                before, base=base, status=status, commits=commits, updated=now, marks={**marks}
            )

        def settled() -> None:
            self._reset = None
            if pieces is not None:
                self._whole, self._written = _Whole(self._end, pieces), 0

        return self._commit(write, settled, durability)

    def keep(self, name: str) -> None:
        """Keeps what the last commit left under a name, for as long as nobody deletes it.

        Raises:
            AlreadyExists: There is a savepoint of this name.
        """
        assert self._record is not None
        tx = self._begin("commit")
        add_savepoint(
            tx, self._log, self._place.job, name, Savepoint(self._record.base, self._end, self._clock.now())
        )
        tx.commit()

    def _trim(self, tx: Transaction, base: int) -> None:
        """Lets go of state before an offset, but not of what savepoints hold."""
        job = self._place.job
        if self._place.namespace == JOBS:
            held = [savepoint.base for savepoint in savepoints(self._log, job).values()]
        else:
            held = held_states(self._log, job).get(self._place.key, [])
        tx.trim(self._place.topic, {self._place.partition: min([base, *held])})

    def _begin(self, durability: Durability) -> Transaction:
        tx = self._log.transaction(durability=durability)
        tx.require_record(self._place.namespace, self._place.key, self._bytes)
        return tx

    def _commit(
        self,
        write: Callable[[Transaction], JobRecord],
        settled: Callable[[], None],
        durability: Durability = "commit",
    ) -> Commit:
        """A commit.

        Args:
            write: Writes it; gives the record that it leaves.
            settled: Called when it came through.
            durability: What has to be true before it has.
        """
        left: list[tuple[JobRecord, bytes]] = []

        def written() -> Transaction:
            tx = self._begin(durability)
            record = write(tx)
            data = encode(record)
            tx.put_record(self._place.namespace, self._place.key, data)
            left.append((record, data))
            return tx

        def note(tx: Transaction) -> None:
            self._record, self._bytes = left[-1]
            self._end = tx.offsets[self._place.topic, self._place.partition][1]
            self.lsn = tx.lsn
            settled()

        return Commit(written, note, self._place.words)
