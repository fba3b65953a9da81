"""What an index still holds, however damaged: its rows, each proven by its checksum, all of one state.

Of the two states that a database keeps, the newest whole one is taken: where a page of the newest state is damaged and
the one before it is whole, the log goes back by one commit, rather than to lose pieces of many. What lies over the
index and waits for the disk is taken whole or not at all, for the same reason.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mamba_stream.core.machine import boot
from mamba_stream.log import directory, rows
from mamba_stream.log.format import Damaged
from mamba_stream.log.overlay import GONE
from mamba_stream.log.pages import Hole, State, Walk, states
from mamba_stream.log.recent import GENERATION, number_in

_FIRST_ROW: Final = b"\1"
DATA: Final = "data.mdb"


@dataclass
class Salvaged:
    """What an index still holds.

    Attributes:
        few: All rows but the entries, by key.
        holes: Where rows may be missing.
        notes: What was not taken, in words.
        generation: Of what lay over the index and was taken; 0 where nothing was.
        places: The partitions, each by (topic, number), that have entries.
    """

    few: dict[bytes, bytes] = field(default_factory=dict)
    holes: list[Hole] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    generation: int = 0
    places: set[tuple[int, int]] = field(default_factory=set)
    _walk: Walk | None = None
    _above: dict[bytes, bytes] = field(default_factory=dict)

    def missing(self, key: bytes) -> bool:
        """Whether a row of this key may have been there, and is not any more."""
        return key not in self.few and any(_within(hole, key) for hole in self.holes)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries, in the order of keys."""
        return (row for row in self._rows() if row[0][:1] == rows.ENTRY)

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows: keys and values without their checksums."""
        below = self._sound() if self._walk is not None else iter(())
        if not self._above:
            yield from below
            return
        upper = iter(sorted(self._above.items()))
        above, row = next(upper, None), next(below, None)
        while above is not None or row is not None:
            if above is None or (row is not None and row[0] < above[0]):
                assert row is not None
                yield row
                row = next(below, None)
                continue
            if row is not None and row[0] == above[0]:
                row = next(below, None)
            if above[1] != GONE:
                yield above[0], rows.unseal(*above)
            above = next(upper, None)

    def _sound(self) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the index that match their checksums; the others are holes."""
        assert self._walk is not None
        before, broken = b"", False
        for key, sealed in self._walk.rows():
            if broken:
                # The key may be what is damaged.
                self._walk.holes.append(Hole(before, key, "a row of the index does not match its checksum"))
            try:
                value = rows.unseal(key, sealed)
            except Damaged:
                broken = True
                continue
            broken, before = False, key
            yield key, value
        if broken:
            self._walk.holes.append(Hole(before, None, "a row of the index does not match its checksum"))

    def look(self) -> None:
        """Takes in all rows but the entries, and notes the holes."""
        for key, value in self._rows():
            if key[:1] != rows.ENTRY:
                self.few[key] = value
            elif len(key) == rows.ENTRY_KEY_BYTES:
                self.places.add(rows.entry_place(key)[:2])
        self.holes = list(self._walk.holes) if self._walk is not None else [_ALL]


_ALL: Final = Hole(b"", None, "there is no index")


def salvage(log: Path) -> Salvaged:
    """What the index of this log still holds, and what lies over it. Nobody may have the log open."""
    data = _bytes_of(log / directory.INDEX / DATA)
    found = Salvaged()
    kept = states(data)
    if not kept:
        found.notes.append("the index holds nothing that can be read")
        found.holes = [_ALL]
        return found
    state = _best(data, kept)
    if state is not kept[0]:
        found.notes.append(
            "the newest state of the index is damaged: the log goes back to the commit before, which is whole"
        )
    elif len(kept) == 1 or kept[0].number - kept[1].number != 1:
        found.notes.append("the newest state of the index may be missing, and with it the last commit")
    found._walk = Walk(data, state)
    if state is kept[0]:
        _lay_over(log, found)
    elif _recent(log) is not None:
        found.notes.append("what was committed since, without waiting for the disk, is not taken")
    found.look()
    if rows.META not in found.few and not found.holes:
        # It was made anew, empty, by somebody who opened the log after it had gone.
        found.notes.append("the index is empty: it was deleted, or cut off")
        found.holes = [_ALL]
    return found


def _best(data: memoryview, kept: list[State]) -> State:
    for state in kept:
        walk = Walk(data, state)
        for _ in walk.rows():
            pass
        if not walk.holes:
            return state
    return kept[0]


def _lay_over(log: Path, found: Salvaged) -> None:
    """Takes what waits for the disk, if all of it is there."""
    place = _recent(log)
    if place is None:
        return
    data = _bytes_of(place)
    kept = states(data)
    walk = Walk(data, kept[0]) if kept else None
    above: dict[bytes, bytes] = dict(walk.rows()) if walk is not None else {}
    generation = number_in(above.get(GENERATION))
    assert found._walk is not None
    flushed = next((value for key, value in found._sound() if key == rows.RECENT), None)
    if walk is not None and not walk.holes and generation <= number_in(flushed):
        # All of it is in the index already.
        return
    real = {key: value for key, value in above.items() if key >= _FIRST_ROW}
    with contextlib.suppress(Damaged):
        for key, value in real.items():
            if value != GONE:
                rows.unseal(key, value)
        if walk is not None and not walk.holes:
            found._above, found.generation = real, generation
            return
    found.notes.append(
        "what was committed since the last flush, without waiting for the disk, is damaged and not taken: the log "
        "goes back to the flush"
    )


def _recent(log: Path) -> Path | None:
    """The database of what waits for the disk, if there is one of this boot."""
    place = log / directory.RECENT / boot() / DATA
    return place if place.exists() else None


def _bytes_of(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except (FileNotFoundError, ValueError):
        # Not there, or empty.
        return memoryview(b"")


def _within(hole: Hole, key: bytes) -> bool:
    return hole.low <= key and (hole.high is None or key < hole.high)
