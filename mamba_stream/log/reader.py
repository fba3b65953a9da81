"""Reading a topic from its files: a reader that remembers where it is in every partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from mamba_stream.errors import DataCorrupted, MambaStreamError, OffsetTrimmed, TopicNotFound
from mamba_stream.log.asked import check_bounds
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.positions import Positioned
from mamba_stream.log.rows import Head, TopicRow
from mamba_stream.log.shelf import Placed, Shelf
from mamba_stream.log.skipping import NOTHING, Skipped

_LOOKED_UP = 512
"""So many entries are looked up at a time by a reader on its way; at first fewer, for it may want only one."""
_FIRST_LOOKED_UP = 2
_FEW = 16


class ShelfReader(Positioned):
    """Reads partitions from given offsets on, in the order of offsets within each.

    A reader never blocks and holds no lock; it belongs to one thread.
    """

    def __init__(
        self,
        shelf: Callable[[], Shelf],
        topic: TopicRow,
        positions: Mapping[int, int],
        wanted: tuple[int, ...] | None,
        ends: Mapping[int, int] | None,
        between: tuple[int | None, int | None] = (None, None),
        passed_over: Callable[[Skipped], object] | None = None,
    ) -> None:
        """Begins at ``positions``; goes on behind what is damaged where somebody counts what was ``passed_over``."""
        super().__init__(topic, positions, ends)
        self._passed_over = passed_over
        self._skipped = NOTHING
        self._shelf = shelf
        self._wanted = wanted
        self._between = between
        self._ahead: dict[int, deque[Placed]] = {}
        self._ready: dict[int, deque[LogBatch]] = {}
        self._look_up = dict.fromkeys(self._positions, _FIRST_LOOKED_UP)
        self._turn = deque(sorted(self._positions))

    @property
    def skipped(self) -> Skipped:
        """What was damaged or lost, and passed over."""
        return self._skipped

    def poll(self, *, max_rows: int = 65_536, max_bytes: int | None = None) -> list[LogBatch]:
        """The batches that come next, around ``max_rows`` rows together; none at the end. Never waits.

        The partitions take turns, so that none starves.

        Raises:
            OffsetTrimmed: The rows to read next were trimmed away.
            DataCorrupted: Stored bytes are damaged, and not to be skipped; ``seek`` behind them to go on.
            InvalidInput: A bound is not a number.
        """
        check_bounds("poll", max_rows=max_rows, max_bytes=max_bytes)
        batches: list[LogBatch] = []
        room, space = max_rows, max_bytes if max_bytes is not None else 1 << 62
        for _ in range(len(self._turn)):
            partition = self._turn[0]
            while room > 0 and space > 0:
                try:
                    found = self._batch(partition)
                    if found is None:
                        break
                    placed, batch = found
                except MambaStreamError:
                    self._forget(partition)
                    if batches:
                        # What was read before is not lost: the next poll meets the error again.
                        return batches
                    raise
                self._positions[partition] = batch.next_offset
                room -= batch.data.num_rows
                # What is compressed takes as much as its rows do, of which a few bytes may hold very many.
                space -= batch.data.nbytes if placed.entry.compressed else placed.entry.length
                if batch.data.num_rows:
                    batches.append(batch)
            if room <= 0 or space <= 0:
                self._turn.rotate(-1)
                break
            self._turn.rotate(-1)
        return batches

    def close(self) -> None:
        """Lets go of what was looked up ahead."""
        self._ahead.clear()
        self._ready.clear()

    def _forget(self, partition: int) -> None:
        self._ahead.pop(partition, None)
        self._ready.pop(partition, None)

    def _batch(self, partition: int) -> tuple[Placed, LogBatch] | None:
        """The partition's next batch, behind what is damaged if that is to be skipped."""
        while True:
            try:
                placed = self._next(partition)
                return None if placed is None else (placed, self._cut(partition, placed))
            except DataCorrupted:
                self._forget(partition)
                if self._passed_over is None:
                    raise
                if not self._skip(partition):
                    return None

    def _skip(self, partition: int) -> bool:
        """Goes on behind what comes next, if that is what is damaged; whether anything may lie there."""
        position, shelf = self._positions[partition], self._shelf()
        # The damage may lie further on, at an entry that was looked up ahead.
        self._look_up[partition] = 1
        rows = batches = 0
        try:
            found = shelf.entries(self._topic, partition, position, 1)
        except DataCorrupted:
            following = shelf.sound_from(self._topic, partition, position)
        else:
            placed = found[0]
            try:
                shelf.batch(self._topic, partition, placed, self._wanted)
            except DataCorrupted:
                following, rows, batches = placed.next_offset, placed.entry.rows, not placed.entry.lost
            else:
                return True
        following = min(following, self._ends.get(partition, following))
        offsets = following - position
        if offsets <= 0:
            return False
        skipped = Skipped(int(batches), min(rows, offsets), offsets)
        self._positions[partition] = following
        self._skipped += skipped
        assert self._passed_over is not None
        self._passed_over(skipped)
        return True

    def _next(self, partition: int) -> Placed | None:
        while (placed := self._following(partition)) is not None and not placed.entry.meets(*self._between):
            self._positions[partition] = min(
                placed.next_offset, self._ends.get(partition, placed.next_offset)
            )
            if ready := self._ready.get(partition):
                ready.popleft()
        return placed

    def _following(self, partition: int) -> Placed | None:
        position = self._positions[partition]
        if position >= self._ends.get(partition, 1 << 63):
            return None
        ahead = self._ahead.get(partition)
        if not ahead:
            begin, found = self._looked_up(partition, position)
            # Even where an entry holds the position: its first rows may be the ones that were trimmed away.
            if position < begin:
                raise OffsetTrimmed(
                    f"topic {self._topic.name!r}, partition {partition}: offset {position} was trimmed away; "
                    f"the first row is now {begin}. Read from there with start={{{partition}: {begin}}}"
                )
            if not found:
                return None
            ahead = self._ahead[partition] = deque(found)
        return ahead.popleft()

    def _looked_up(self, partition: int, position: int) -> tuple[int, list[Placed]]:
        """Where the partition begins, and the entries that come next, more of them each time.

        Before damage to the index those that are sound.
        """
        left = self._ends.get(partition, 1 << 63) - position
        # Where few rows are wanted one look finds all: there are no more entries than rows.
        limit = left if left <= _FEW else self._look_up[partition]
        while True:
            try:
                head, found = self._shelf().following(self._topic, partition, position, limit)
            except DataCorrupted:
                if limit == 1:
                    raise
                limit //= 2
            else:
                if head is None:
                    raise TopicNotFound(f"topic {self._topic.name!r} was deleted")
                self._look_up[partition] = min(limit * 4, _LOOKED_UP)
                return head.begin, found

    def _read(self, partition: int, placed: Placed) -> LogBatch:
        """The rows of an entry; those of small ones that come next may be read with it."""
        ready = self._ready.get(partition)
        if not ready:
            following = [placed, *self._ahead[partition]]
            found = self._shelf().batches(self._topic, partition, following, self._wanted)
            ready = self._ready[partition] = deque(found)
        return ready.popleft()

    def _cut(self, partition: int, placed: Placed) -> LogBatch:
        return self._read(partition, placed).between(
            self._positions[partition], self._ends.get(partition, placed.next_offset)
        )

    def _heads(self) -> dict[int, Head]:
        return self._shelf().heads(self._topic, sorted(self._positions))
