"""Upkeep of a log beside its model: what is kept, what goes, and what is never wrong whoever is interrupted.

What a run of upkeep does depends on which files are sealed by then, and on its budget. So the model says what it may
take away and what it must leave; where everything is closed and there is no budget, it says exactly what is left.
"""

from __future__ import annotations

import copy as copying
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import precondition, rule

from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log, restore, restoring
from mamba_stream.log.doctor import Report
from mamba_stream.log.store import acquire
from tests.log.beside import MINUTE, SETTINGS, SIDES, WHO, Beside
from tests.log.desk import ADDED, Desk
from tests.log.handclock import DAY
from tests.log.model import Model, Partition, Topic, due, keys_of
from tests.log.pictures import rows_of, unsound

_DAYS = 5
"""Producers that nobody heard of for a week are forgotten, and the model does not forget."""
AGES = st.sampled_from([0, 1, 30_000_000, 2 * MINUTE, 2 * MINUTE, DAY + 1])
BUDGETS = st.sampled_from([None, None, 0, 500, 3_000])

Bounds = dict[int, tuple[int, int]]
"""By partition the least and the greatest of what an offset may be."""


class Upkeep(Beside):
    """Steps that take away what is not to be kept, and lay anew what is."""

    days = 0

    def time_passes(self, by: int) -> None:
        if by > DAY:
            if self.days == _DAYS:
                return
            self.days += 1
        self.clock.set(self.clock.now() + by)

    @precondition(lambda self: self.model.topics)
    @rule(side=SIDES, settings=SETTINGS, data=st.data())
    def keep_otherwise(self, side: str, settings: dict[str, Any], data: st.DataObject) -> None:
        self.keep(side, self.some_topic(data), settings)

    @precondition(lambda self: any(t.key and not t.ended for t in self.model.topics.values()))
    @rule(side=SIDES, keys=st.lists(WHO, min_size=1, max_size=3), data=st.data())
    def delete_keys(self, side: str, keys: list[str | None], data: st.DataObject) -> None:
        """Rows that have nothing but a key."""
        names = sorted(n for n, t in self.model.topics.items() if t.key and not t.ended)
        name = data.draw(st.sampled_from(names), "topic")
        with_x = "x" in self.model.topics[name].key
        rows = [[None, None, who, 1.0 if with_x else None] for who in keys]
        self.landed(name, rows, self.ok(side, do="append", topic=name, rows=rows, form="dicts"), None)
        self.model.lsn += 1

    @rule(side=SIDES, budget=BUDGETS, by=AGES, sealed=st.booleans())
    def maintain(self, side: str, budget: int | None, by: int, sealed: bool) -> None:
        """After some time; what another process has open is not sealed."""
        self.time_passes(by)
        if sealed:
            self.reopen("there" if side == "here" else "here")
        begins = self.begins_after_retention()
        answer = self.ok(side, do="maintain", budget=budget)
        self.retained(answer, begins)
        self.compacted(answer)

    @rule(side=SIDES, by=AGES)
    def everything_is_done(self, side: str, by: int) -> None:
        """With no file open, upkeep without a budget comes to its end."""
        self.time_passes(by)
        for each in self.sides:
            self.ok(each, do="close")
        self.open(side)
        begins = self.begins_after_retention(side)
        answer = self.ok(side, do="maintain", budget=None)
        assert answer["done"]
        self.open("there" if side == "here" else "here")
        self.retained(answer, begins)
        now = self.clock.now()
        must: dict[tuple[str, int], set[int]] = {}
        for name, topic in self.model.topics.items():
            for p, part in enumerate(topic.partitions):
                old = all(time <= now - topic.settings.compact_after for time in part.times[part.begin :])
                if topic.settings.compact and old:
                    must[name, p] = due(topic, part, now) | {at for at in part.gone if at >= part.begin}
        self.compacted(answer)
        for (name, p), gone in must.items():
            assert self.model.topics[name].partitions[p].gone == gone, (name, p)
        # There is nothing left to do.
        again = self.ok(side, do="maintain", budget=None)
        assert (again["trimmed"], again["compacted"]) == (0, 0)

    @rule(side=SIDES, most=st.sampled_from([None, 1, 2_000]))
    def scrub(self, side: str, most: int | None) -> None:
        assert self.scrubbed(side, most)["damaged"] == []

    def scrubbed(self, side: str, most: int | None) -> dict[str, Any]:
        found: dict[str, Any] = self.ok(side, do="scrub", most=most)
        # Where it has come to is a record.
        lsn = self.ok(side, do="lsn")
        assert self.model.lsn <= lsn <= self.model.lsn + 1
        self.model.lsn = lsn
        return found

    # --- what upkeep may do ----------------------------------------------------------------------

    def begins_after_retention(self, side: str = "here") -> dict[str, Bounds]:
        """Between which offsets partitions may begin once retention was at work: whole batches go."""
        found: dict[str, Bounds] = {}
        for name, topic in self.model.topics.items():
            if topic.settings.retention is None and topic.settings.retention_bytes != 1:
                continue
            batches: dict[int, list[tuple[int, int, int]]] = {}
            for batch in self.ok(side, do="read", topic=name):
                place = batch["offset"], batch["next"], batch["time"]
                batches.setdefault(batch["partition"], []).append(place)
            found[name] = {
                p: self.begin_of(topic, part, batches.get(p, [])) for p, part in enumerate(topic.partitions)
            }
        return found

    def begin_of(self, topic: Topic, part: Partition, batches: list[tuple[int, int, int]]) -> tuple[int, int]:
        """Between batches there may be others that have no rows left, of which nobody tells."""
        low = high = part.begin
        if topic.settings.retention is not None:
            oldest = self.clock.now() - topic.settings.retention
            young = [offset for offset, _, time in batches if time >= oldest]
            low = max([low, *(following for _, following, time in batches if time < oldest)])
            high = max(high, young[0] if young else part.end)
        if topic.settings.retention_bytes == 1 and batches:
            offset, following, _ = batches[-1]
            whole = following == part.end
            low = max(low, offset if whole else following)
            high = max(high, offset if whole else part.end)
        return low, high

    def retained(self, answer: dict[str, Any], begins: dict[str, Bounds]) -> None:
        least = most = 0
        unread = {(group, name): count for group, name, count in answer["unread"]}
        for name, topic in sorted(self.model.topics.items()):
            moved: dict[int, tuple[int, int]] = {}
            for p, begin, end in self.ok("here", do="offsets", topic=name):
                part = topic.partitions[p]
                low, high = begins.get(name, {}).get(p, (part.begin, part.begin))
                assert low <= begin <= high, (name, p, begin)
                assert end == part.end
                if begin > part.begin:
                    moved[p] = part.begin, begin
                    part.begin = begin
            rows, offsets = self.model.went(name, moved)
            least, most = least + rows, most + offsets
            for group, (rows, offsets) in self.model.unread(name, moved).items():
                assert rows <= unread.pop((group, name), 0) <= offsets
            self.model.lsn += len(moved)
        assert least <= answer["trimmed"] <= most
        assert unread == {}

    def compacted(self, answer: dict[str, Any]) -> None:
        now, went, hidden = self.clock.now(), 0, 0
        seen = self.seen_by("here")["topics"]
        for name, topic in self.model.topics.items():
            for p, part in enumerate(topic.partitions):
                there = {offset for offset, _ in seen[name]["rows"].get(p, [])}
                missing = set(range(part.begin, part.end)) - there
                fresh = missing - part.gone
                assert part.gone & there == set(), "rows came back"
                assert fresh <= (due(topic, part, now) if topic.settings.compact else set()), (name, p)
                went += len(fresh)
                # Rows that were trimmed away may lie in the first batch still, and go with it.
                hidden += part.begin if topic.settings.compact else 0
                part.gone |= fresh
                part.gone -= set(range(part.begin))
                for key, offsets in keys_of(topic, part).items() if topic.settings.compact else ():
                    gone = [offset in part.gone for offset in offsets]
                    assert gone == sorted(gone, reverse=True), f"{key}: an earlier row outlived a later one"
        assert went <= answer["compacted"] <= went + hidden


class Copies(Upkeep):
    """Steps that need the directory: backups and what is restored, copies, and damage that is undone."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = Path(self.place.name) / "kept"
        self.backups: dict[int, Model] = {}

    @rule(side=SIDES)
    def backup(self, side: str) -> None:
        assert self.ok(side, do="backup", target=str(self.kept)) == self.model.lsn
        self.backups[self.model.lsn] = copying.deepcopy(self.model)

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        lsns = sorted(self.backups)
        lsn = data.draw(st.sampled_from(lsns), "backup")
        following = [later for later in lsns if later > lsn]
        to = data.draw(st.integers(lsn, following[0] - 1 if following else lsn + 1), "to")
        back = Path(self.place.name) / "back"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(restoring, "examine", lambda log: Report(log, (), {}, True))
            assert restore(self.kept, back, to).lsn == lsn
        assert unsound(back) == []
        desk = Desk()
        desk.do({"do": "open", "path": str(back), "clock": str(self.clock.path)})
        assert self.seen_at(desk) == self.backups[lsn].everything()
        desk.close()
        shutil.rmtree(back)

    @precondition(lambda self: self.model.topics)
    @rule(column=st.sampled_from(ADDED), data=st.data())
    def copy(self, column: str, data: st.DataObject) -> None:
        name = self.some_topic(data)
        topic = self.model.topics[name]
        there = Path(self.place.name) / "copy"
        source = self.sides["here"].log
        assert source is not None
        with Log(acquire(there, self.clock)) as other:
            if any(at >= part.begin for part in topic.partitions for at in part.gone):
                with pytest.raises(InvalidInput, match="compacted away"):
                    source.copy(name, other)
            else:
                for turn in range(2):
                    count = sum(len(part.kept()) for part in topic.partitions)
                    assert source.copy(name, other).rows == (
                        1 if turn and not topic.ended else count * (not turn)
                    )
                    assert rows_of(other[name]) == rows_of(source[name])
                    assert other[name].offsets() == source[name].offsets()
                    assert other[name].schema.equals(source[name].schema)
                    assert other[name].ended == topic.ended
                    if not turn and not topic.ended:
                        # What comes later may have columns that the copy does not have yet.
                        if column not in topic.added:
                            topic.added.append(column)
                            self.model.lsn += 1
                        self.ok("there", do="alter", topic=name, column=column)
                        rows = self.fresh(name, [(0, "ann", 1.0)])
                        answer = self.ok("there", do="append", topic=name, rows=rows, form="polars")
                        self.landed(name, rows, answer, None)
                        self.model.lsn += 1
        shutil.rmtree(there)

    @precondition(lambda self: any(part.kept() for t in self.model.topics.values() for part in t.partitions))
    @rule(at=st.integers(0, 1 << 20), mask=st.integers(1, 255), data=st.data())
    def damage_a_batch_and_undo_it(self, at: int, mask: int, data: st.DataObject) -> None:
        places = self.ok("here", do="places")
        name, p, first, following, file, position, length = data.draw(st.sampled_from(places), "batch")
        for side in self.sides:
            self.ok(side, do="close")
        with _flipped(Path(file), position + at % length, mask):
            self.open("here")
            expected = {
                q: [
                    (at, row)
                    for at, row in part.there(part.begin, part.end)
                    if q != p or not first <= at < following
                ]
                for q, part in enumerate(self.model.topics[name].partitions)
            }
            found = self.joined(self.ok("here", do="read", topic=name, skip_corrupt=True))
            assert found == {q: rows for q, rows in expected.items() if rows}
            assert self.do("here", do="read", topic=name)["error"] == "DataCorrupted"
            self.scrubbed("here", None)
            # From the beginning, wherever the one before began.
            assert self.scrubbed("here", None)["damaged"] == [[name, p, first]]
            self.ok("here", do="close")
        for side in self.sides:
            self.open(side)


@contextmanager
def _flipped(path: Path, at: int, mask: int) -> Iterator[None]:
    """A byte of a file is another meanwhile."""
    _flip(path, at, mask)
    yield
    _flip(path, at, mask)


def _flip(path: Path, at: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ mask]))
