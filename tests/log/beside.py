"""A log beside its model: who does the steps, what is always so, and how rows get from the one to the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.log.desk import Desk
from tests.log.handclock import DAY, FileClock
from tests.log.model import NAMES, Model, Row, Topic
from tests.log.neighbour import Neighbour
from tests.log.pictures import unsound

TOPICS = ("alpha", "beta", "Gamma.1-x_y")
TIMES = st.integers(0, 40).map(lambda n: n * 1_000_000 + n % 3)
WHO = st.sampled_from(["ann", "bob", "cyd", "", "zoë"]) | st.none()
VALUES = st.tuples(TIMES | st.none(), WHO, st.integers(-8, 8).map(float) | st.none())
PREDICATES = st.recursive(
    st.one_of(
        st.tuples(st.sampled_from(["<", "<=", "==", ">=", ">"]), st.just("ts"), TIMES),
        st.tuples(st.just("between"), st.just("ts"), TIMES, TIMES),
        st.tuples(st.sampled_from(["<", "==", ">"]), st.just("x"), st.integers(-8, 8).map(float)),
        st.tuples(st.just("null"), st.sampled_from(["ts", "who"])),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)
    ),
    max_leaves=4,
)
SIDES = st.sampled_from(["here", "there"])
GROUPS = st.sampled_from(["readers", "writers"])
KEYS = st.sampled_from(["a", "b"])

MINUTE = 60_000_000
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "retention": st.sampled_from([None, {"us": MINUTE}, {"us": DAY}]),
        "retention_bytes": st.sampled_from([None, None, 1, 1 << 30]),
        "compact": st.sampled_from([True, True, False]),
        "compact_after": st.sampled_from([{"us": 0}, {"us": MINUTE}]),
        "tombstones": st.sampled_from([{"us": 0}, {"us": DAY}]),
        "seal_compression": st.sampled_from([None, "none", "lz4", "zstd"]),
    },
)


class Beside(RuleBasedStateMachine):
    """Every step is done by this process or by its neighbour, at the same directory or as clients of one server."""

    address: str
    neighbour: Neighbour
    placed: Callable[[Path, FileClock], AbstractContextManager[str]]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name) / "log"
        self.sides: dict[str, Desk | Neighbour] = {"here": Desk(), "there": self.neighbour}
        self.clock = FileClock(Path(self.place.name) / "clock")
        self.clock.set(20_000 * DAY)
        self.rows = 0
        self.left = ExitStack()

    # --- what is always so -----------------------------------------------------------------------

    @invariant()
    def both_sides_see_what_the_model_says(self) -> None:
        if not self.path.exists():
            return
        expected = self.model.everything()
        assert self.seen_by("here") == expected

    def teardown(self) -> None:
        try:
            if self.path.exists():
                assert self.seen_by("there") == self.model.everything()
                for side in self.sides:
                    self.ok(side, do="close")
                self.left.close()
                assert unsound(self.path) == []
        finally:
            for side in self.sides.values():
                side.do({"do": "close"})
            self.left.close()
            self.place.cleanup()

    # --- how it is done --------------------------------------------------------------------------

    def do(self, side: str, **command: Any) -> dict[str, Any]:
        return self.sides[side].do(command)

    def ok(self, side: str, **command: Any) -> Any:
        answer = self.do(side, **command)
        assert "ok" in answer, answer
        return answer["ok"]

    def some_topic(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.topics)), "topic")

    def some_open_topic(self, data: st.DataObject) -> str:
        names = sorted(name for name, topic in self.model.topics.items() if not topic.ended)
        return data.draw(st.sampled_from(names), "topic")

    def some_partition(self, data: st.DataObject, name: str) -> int:
        return data.draw(st.integers(0, len(self.model.topics[name].partitions) - 1), "partition")

    def fresh(self, name: str, values: list[Any]) -> list[list[Any]]:
        """Rows with numbers that no other row has, and that the topic's column holds."""
        self.rows += len(values)
        large = 1 << 40 if self.model.topics[name].large and self.rows % 2 else 0
        return [[large + self.rows - len(values) + at, *value] for at, value in enumerate(values)]

    def landed(self, name: str, rows: list[list[Any]], ranges: list[list[int]], directed: int | None) -> None:
        """Takes appended rows into the model, once they are proven to lie where the answer says."""
        topic = self.model.topics[name]
        if not rows:
            assert ranges == []
            return
        if directed is not None or not topic.key:
            # Without a key, an append of a few rows goes to one partition.
            assert len(ranges) == 1
            assert directed in (None, ranges[0][0])
        expected = [tuple(row) for row in rows]
        found: list[Row] = []
        for partition, first, following in ranges:
            part = topic.partitions[partition]
            assert first == part.end
            batches = self.ok("here", do="read", topic=name, start={partition: first}, partitions=[partition])
            part_rows = [tuple(row) for batch in batches for row in batch["rows"]]
            assert len(part_rows) == following - first
            assert part_rows == [row for row in expected if row in part_rows]
            self.note_homes(topic, partition, part_rows, directed=directed is not None)
            part.take(part_rows, self.clock.now())
            found += part_rows
        assert sorted(found, key=repr) == sorted(expected, key=repr)

    def note_homes(self, topic: Topic, partition: int, rows: list[Row], directed: bool) -> None:
        if directed or not topic.key:
            return
        for row in rows:
            key = tuple(row[NAMES.index(column)] for column in topic.key)
            assert topic.homes.setdefault(key, partition) == partition

    def open(self, side: str) -> None:
        clock = str(self.clock.path) if self.address == str(self.path) else None
        self.ok(side, do="open", path=self.address, clock=clock)

    def keep(self, side: str, name: str, settings: dict[str, Any]) -> None:
        """Has a topic kept so from now on."""
        topic = self.model.topics[name]
        answer = self.do(side, do="keep", topic=name, **settings)
        plain = {n: value["us"] if isinstance(value, dict) else value for n, value in settings.items()}
        kept = replace(topic.settings, **plain)
        if kept.compact and not topic.key:
            assert answer["error"] == "InvalidInput", answer
            return
        assert "error" not in answer, answer
        self.model.lsn += kept != topic.settings
        topic.settings = kept

    def reopen(self, side: str) -> None:
        self.ok(side, do="close")
        self.open(side)

    def seen_by(self, side: str) -> dict[str, Any]:
        return self.seen_at(self.sides[side])

    def seen_at(self, desk: Desk | Neighbour) -> dict[str, Any]:
        """As ``Model.everything`` has it."""
        answer = desk.do({"do": "everything"})
        assert "ok" in answer, answer
        seen: dict[str, Any] = answer["ok"]
        for topic in seen["topics"].values():
            topic["rows"] = self.joined(topic["rows"])
        return seen

    def joined(self, batches: list[dict[str, Any]]) -> dict[int, list[tuple[int, Row]]]:
        """Offsets and rows of batches, by partition."""
        found: dict[int, list[tuple[int, Row]]] = {}
        for batch in batches:
            rows = zip(batch["offsets"], map(tuple, batch["rows"]), strict=True)
            found.setdefault(batch["partition"], []).extend(rows)
        return found
