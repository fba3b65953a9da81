"""Questions to a log beside its model: whoever reads, scans or seeks gets what the model says."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import precondition, rule

from tests.log.beside import PREDICATES, SIDES, Beside
from tests.log.model import NAMES, Row, holds


class Questions(Beside):
    """Steps that change nothing."""

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        columns=st.none() | st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
        most=st.none() | st.integers(0, 20),
        some=st.booleans(),
        ends=st.booleans(),
        kind=st.sampled_from(["earliest", "latest", "offsets", "offset"]),
        skip=st.booleans(),
        data=st.data(),
    )
    def read(
        self,
        side: str,
        columns: list[str] | None,
        most: int | None,
        some: bool,
        ends: bool,
        kind: str,
        skip: bool,
        data: st.DataObject,
    ) -> None:
        name = self.some_topic(data)
        parts = self.model.topics[name].partitions
        partitions = [p for p in range(len(parts)) if not some or data.draw(st.booleans(), f"partition {p}")]
        begins = {p: parts[p].end if kind == "latest" else parts[p].begin for p in partitions}
        start: Any = kind
        if kind == "offsets":
            start = {
                p: data.draw(st.integers(0, parts[p].end), f"start of {p}")
                for p in partitions
                if data.draw(st.booleans(), f"start {p} somewhere")
            }
            begins |= start
        elif kind == "offset":
            start = data.draw(st.integers(0, min([part.end for part in parts])), "start")
            begins = dict.fromkeys(partitions, start)
        stops = {p: data.draw(st.integers(0, parts[p].end), f"end of {p}") for p in partitions if ends}
        answer = self.do(
            side, do="read", topic=name, start=start, columns=columns, max_rows=most,
            partitions=partitions, end=stops or None, skip_corrupt=skip,
        )  # fmt: skip
        limits = {p: stops.get(p, parts[p].end) for p in partitions}
        if most != 0 and any(begins[p] < min(parts[p].begin, limits[p]) for p in partitions):
            if "error" in answer:
                assert answer["error"] == "OffsetTrimmed"
                return
            # Enough rows came before the gap was met.
            assert most is not None
        wanted = [NAMES.index(column) for column in columns or NAMES]
        seen: dict[int, list[tuple[int, Row]]] = {p: [] for p in partitions}
        reached = dict(begins)
        for batch in answer["ok"]:
            rows, p = batch["rows"], batch["partition"]
            assert rows
            assert batch["columns"] == list(columns or NAMES)
            assert reached[p] <= batch["offset"] <= batch["offsets"][0]
            assert batch["offsets"][-1] < batch["next"]
            if not parts[p].gone:
                assert batch["offset"] == reached[p]
            reached[p] = batch["next"]
            seen[p].extend((at, tuple(row)) for at, row in zip(batch["offsets"], rows, strict=True))
        there = {p: parts[p].there(begins[p], limits[p]) for p in partitions}
        for p, found in seen.items():
            cut = [(offset, tuple(row[at] for at in wanted)) for offset, row in there[p]]
            assert found == cut[: len(found)]
        total = sum(map(len, seen.values()))
        available = sum(map(len, there.values()))
        assert total == (available if most is None else min(available, most))

    @precondition(lambda self: any(topic.time for topic in self.model.topics.values()))
    @rule(side=SIDES, when=st.integers(-1, 42_000_000), data=st.data())
    def offset_at_a_time(self, side: str, when: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, t in self.model.topics.items() if t.time)), "topic")
        found = self.ok(side, do="offset_at", topic=name, when=when, by="time")
        parts = self.model.topics[name].partitions
        for p, part in enumerate(parts):
            reached = [i for i, row in enumerate(part.rows) if row[1] is not None and row[1] >= when]
            first = next((i for i in reached if i >= part.begin and i not in part.gone), part.end)
            if part.gone:
                # Before it no row has that time.
                assert part.begin <= found[p] <= first
            elif reached and reached[0] < part.begin < part.end:
                # Rows that were trimmed away had reached it.
                assert found[p] in (part.begin, first)
            else:
                assert found[p] == first
        batches = self.ok(side, do="read", topic=name, start={"time": when})
        starts: dict[int, int] = {}
        for batch in batches:
            starts.setdefault(batch["partition"], batch["offset"])
        for p, start in starts.items():
            assert start >= found[p] if parts[p].gone else start == found[p]

    @precondition(lambda self: self.model.topics)
    @rule(side=SIDES, data=st.data())
    def offset_at_the_time_of_an_append(self, side: str, data: st.DataObject) -> None:
        name = self.some_topic(data)
        batches = self.ok(side, do="read", topic=name)
        appended: dict[int, list[tuple[int, int]]] = {}
        for batch in batches:
            # Batches that were merged hold appends of several moments.
            appended.setdefault(batch["partition"], []).extend(tuple(place) for place in batch["appended"])
        for times in appended.values():
            assert times == sorted(times)
        if not batches:
            return
        moments = sorted({time for times in appended.values() for time, _ in times})
        when = data.draw(st.sampled_from(moments), "moment") + data.draw(st.integers(0, 1), "after")
        found = self.ok(side, do="offset_at", topic=name, when=when, by="append")
        for p, part in enumerate(self.model.topics[name].partitions):
            later = [offset for time, offset in appended.get(p, []) if time >= when]
            first = later[0] if later else part.end
            assert part.begin <= found[p] <= first if part.gone else found[p] == first
            assert [time for time, _ in appended.get(p, [])] == [
                part.times[offset] for offset, _ in part.there(part.begin, part.end)
            ]

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        predicate=PREDICATES | st.none(),
        columns=st.none() | st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
        limit=st.none() | st.integers(0, 10),
        data=st.data(),
    )
    def scan(
        self,
        side: str,
        predicate: Any,
        columns: list[str] | None,
        limit: int | None,
        data: st.DataObject,
    ) -> None:
        name = self.some_topic(data)
        rows = self.ok(side, do="scan", topic=name, predicate=predicate, columns=columns, limit=limit)
        wanted = [NAMES.index(column) for column in columns or NAMES]
        expected = [
            [row[at] for at in wanted]
            for part in self.model.topics[name].partitions
            for row in part.kept()
            if predicate is None or holds(list(predicate), row)
        ]
        assert rows == expected[:limit]
