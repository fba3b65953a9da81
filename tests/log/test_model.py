"""The log beside a model of it in plain Python, driven from two processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.log.desk import FORMS, Desk
from tests.log.model import NAMES, Model, Partition, Row, Topic, holds
from tests.log.neighbour import Neighbour
from tests.log.pictures import unsound
from tests.served import serving

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


class LogBesideModel(RuleBasedStateMachine):
    """Every step is done by this process or by its neighbour, at the same directory or as clients of one server."""

    neighbour: Neighbour
    placed: Callable[[Path], AbstractContextManager[str]]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name) / "log"
        self.sides: dict[str, Desk | Neighbour] = {"here": Desk(), "there": self.neighbour}
        self.rows = 0
        self.left = ExitStack()

    # --- steps -----------------------------------------------------------------------------------

    @initialize(
        first=SIDES,
        settings=st.lists(
            st.fixed_dictionaries(
                {
                    "partitions": st.integers(1, 3),
                    "key": st.sampled_from([[], ["who"]]),
                    "time": st.just("ts"),
                    "compression": st.sampled_from(["none", "zstd"]),
                }
            ),
            min_size=1,
            max_size=2,
        ),
        values=st.lists(VALUES, min_size=1, max_size=6),
    )
    def both_open_it(self, first: str, settings: list[dict[str, Any]], values: list[Any]) -> None:
        self.address = self.left.enter_context(type(self).placed(self.path))
        for side in (first, "there" if first == "here" else "here"):
            self.ok(side, do="open", path=self.address)
        for name, options in zip(TOPICS, settings, strict=False):
            self.create_topic(side="there", name=name, exist_ok=False, **options)
            self.append_here_and_there(name, values)

    def append_here_and_there(self, name: str, values: list[Any]) -> None:
        """As many appends as there are rows, from the two sides in turn."""
        for at, value in enumerate(values):
            rows = self.fresh([value])
            side = ("here", "there")[at % 2]
            self.landed(name, rows, self.ok(side, do="append", topic=name, rows=rows, form="polars"), None)
            self.model.lsn += 1

    @rule(
        side=SIDES,
        name=st.sampled_from(TOPICS),
        partitions=st.integers(1, 4),
        key=st.sampled_from([[], ["who"], ["who", "x"]]),
        time=st.sampled_from(["ts", "ts", None]),
        compression=st.sampled_from(["none", "none", "lz4", "zstd"]),
        exist_ok=st.booleans(),
    )
    def create_topic(self, side: str, name: str, exist_ok: bool, **settings: Any) -> None:
        answer = self.do(side, do="create", topic=name, exist_ok=exist_ok, **settings)
        known = self.model.topics.get(name)
        if known is None:
            assert "error" not in answer, answer
            parts = [Partition() for _ in range(settings["partitions"])]
            self.model.topics[name] = Topic(parts, settings["key"], settings["time"], settings["compression"])
            self.model.lsn += 1
            return
        same = (len(known.partitions), known.key, known.time) == (
            settings["partitions"],
            settings["key"],
            settings["time"],
        )
        assert answer.get("error") == (None if exist_ok and same else "AlreadyExists"), answer

    @rule(side=SIDES, name=st.sampled_from(TOPICS))
    def names_are_told_apart_by_more_than_case(self, side: str, name: str) -> None:
        for command in ({"do": "offsets"}, {"do": "delete"}, {"do": "append", "rows": [], "form": "dicts"}):
            answer = self.do(side, topic=name.swapcase(), **command)
            assert answer["error"] == "TopicNotFound", answer
        answer = self.do(
            side, do="create", topic=name.swapcase(), partitions=1, key=[], time=None, compression="none",
            exist_ok=True,
        )  # fmt: skip
        if name in self.model.topics:
            assert answer["error"] == "AlreadyExists"
        else:
            self.ok(side, do="delete", topic=name.swapcase())
            self.model.lsn += 2

    @precondition(lambda self: len(self.model.topics) > 2)
    @rule(side=SIDES, data=st.data())
    def delete_topic(self, side: str, data: st.DataObject) -> None:
        name = self.some_topic(data)
        self.ok(side, do="delete", topic=name)
        self.model.delete(name)
        self.model.lsn += 1

    @precondition(lambda self: any(not topic.ended for topic in self.model.topics.values()))
    @rule(values=st.lists(VALUES, min_size=2, max_size=8), data=st.data())
    def append_row_by_row(self, values: list[Any], data: st.DataObject) -> None:
        name = data.draw(
            st.sampled_from(sorted(n for n, t in self.model.topics.items() if not t.ended)), "topic"
        )
        self.append_here_and_there(name, values)

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        values=st.lists(VALUES, max_size=6),
        form=st.sampled_from(FORMS),
        directed=st.booleans(),
        data=st.data(),
    )
    def append(self, side: str, values: list[Any], form: str, directed: bool, data: st.DataObject) -> None:
        name = self.some_topic(data)
        options = {"partition": self.some_partition(data, name)} if directed else {}
        rows = self.fresh(values)
        answer = self.do(side, do="append", topic=name, rows=rows, form=form, **options)
        if rows and self.model.topics[name].ended:
            assert answer["error"] == "TopicEnded", answer
            return
        self.landed(name, rows, answer["ok"], options.get("partition"))
        self.model.lsn += bool(rows)

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        values=st.lists(VALUES, max_size=3),
        producer=st.sampled_from(["p", "q"]),
        step=st.sampled_from([1, 1, 1, 0, -1, 2]),
        data=st.data(),
    )
    def append_by_producer(
        self, side: str, values: list[Any], producer: str, step: int, data: st.DataObject
    ) -> None:
        name = self.some_topic(data)
        topic, rows = self.model.topics[name], self.fresh(values)
        count = len(topic.producers.get(producer, []))
        number = max(0, topic.first.get(producer, 7) + count - 1 + step)
        state = self.model.sequence_state(name, producer, number)
        answer = self.do(
            side, do="append", topic=name, rows=rows, form="polars", producer=producer, sequence=number
        )
        if state == "repeated":
            assert answer["ok"] == topic.producers[producer][number - topic.first[producer]]
        elif state == "gap":
            assert answer["error"] == "SequenceGap", answer
        elif topic.ended and rows:
            assert answer["error"] == "TopicEnded", answer
        else:
            self.landed(name, rows, answer["ok"], None)
            self.model.remember(name, producer, number, answer["ok"])
            self.model.lsn += 1

    @precondition(lambda self: self.model.topics)
    @rule(side=SIDES, values=st.lists(VALUES, min_size=1, max_size=3), off=st.integers(-1, 1), data=st.data())
    def append_expecting(self, side: str, values: list[Any], off: int, data: st.DataObject) -> None:
        name = self.some_topic(data)
        partition, rows = self.some_partition(data, name), self.fresh(values)
        topic = self.model.topics[name]
        expect = max(0, topic.partitions[partition].end + off)
        answer = self.do(
            side, do="append", topic=name, rows=rows, form="table", partition=partition,
            expect={partition: expect},
        )  # fmt: skip
        if topic.ended:
            assert answer["error"] == "TopicEnded", answer
        elif expect != topic.partitions[partition].end:
            assert answer["error"] == "PreconditionFailed", answer
        else:
            self.landed(name, rows, answer["ok"], partition)
            self.model.lsn += 1

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        appends=st.lists(st.lists(VALUES, min_size=1, max_size=3), max_size=3),
        group=GROUPS,
        puts=st.dictionaries(KEYS, st.binary(max_size=4) | st.none(), max_size=2),
        requires=st.sampled_from(["nothing", "right", "wrong"]),
        trims=st.booleans(),
        finish=st.sampled_from(["commit", "commit", "commit", "abort", "fail"]),
        data=st.data(),
    )
    def transaction(
        self,
        side: str,
        appends: list[list[Any]],
        group: str,
        puts: dict[str, bytes | None],
        requires: str,
        trims: bool,
        finish: str,
        data: st.DataObject,
    ) -> None:
        steps: list[dict[str, Any]] = []
        ends = {(n, p): part.end for n, t in self.model.topics.items() for p, part in enumerate(t.partitions)}
        written: dict[tuple[str, int], list[Row]] = {}
        refusals = set()
        for values in appends:
            name = self.some_topic(data)
            partition, rows = self.some_partition(data, name), self.fresh(values)
            steps.append(
                {"step": "append", "topic": name, "rows": rows, "form": "polars", "partition": partition}
            )
            written.setdefault((name, partition), []).extend(tuple(row) for row in rows)
            ends[name, partition] += len(rows)
            if self.model.topics[name].ended:
                refusals.add("TopicEnded")
        name = self.some_topic(data)
        partition = self.some_partition(data, name)
        offset = data.draw(st.integers(0, ends[name, partition] + 1), "offset")
        if offset > ends[name, partition]:
            refusals.add("InvalidInput")
        steps.append({"step": "offsets", "group": group, "offsets": [[name, partition, offset]]})
        for key, value in puts.items():
            forgets = value is None
            steps.append(
                {"step": "forget", "key": key} if forgets else {"step": "put", "key": key, "value": value}
            )
        if requires != "nothing":
            value = self.model.records.get("a")
            wrong = b"another" if value is None else None
            steps.append({"step": "require", "key": "a", "value": value if requires == "right" else wrong})
            if requires == "wrong":
                refusals.add("PreconditionFailed")
        bound = (name, partition, data.draw(st.integers(0, ends[name, partition]), "bound"))
        if trims:
            steps.append({"step": "trim", "topic": name, "before": {partition: bound[2]}})
        answer = self.do(side, do="transact", steps=steps, finish=finish)
        if finish != "commit":
            assert answer == {"ok": {}}
            return
        if refusals:
            assert answer["error"] in refusals, answer
            return
        expected = []
        for (topic, at), rows in sorted(written.items()):
            part = self.model.topics[topic].partitions[at]
            expected.append([topic, at, part.end, part.end + len(rows)])
            self.note_homes(self.model.topics[topic], at, rows, directed=True)
            part.rows.extend(rows)
        self.model.lsn += 1
        assert answer["ok"] == {"lsn": self.model.lsn, "offsets": expected}
        self.model.groups.setdefault(group, {})[name, partition] = offset
        for key, value in puts.items():
            if value is None:
                self.model.records.pop(key, None)
            else:
                self.model.records[key] = value
        if trims:
            part = self.model.topics[name].partitions[partition]
            part.begin = max(part.begin, bound[2])

    @precondition(lambda self: self.model.topics)
    @rule(side=SIDES, beyond=st.booleans(), data=st.data())
    def trim_to_offsets(self, side: str, beyond: bool, data: st.DataObject) -> None:
        name = self.some_topic(data)
        parts = self.model.topics[name].partitions
        bounds = {
            p: data.draw(st.integers(0, part.end + beyond), f"partition {p} before")
            for p, part in enumerate(parts)
            if data.draw(st.booleans(), f"trim partition {p}")
        }
        answer = self.do(side, do="trim", topic=name, before=bounds)
        if any(bound > parts[p].end for p, bound in bounds.items()):
            assert answer["error"] == "InvalidInput", answer
            return
        assert "error" not in answer, answer
        for p, bound in bounds.items():
            parts[p].begin = max(parts[p].begin, bound)
        self.model.lsn += 1

    @precondition(lambda self: any(topic.time for topic in self.model.topics.values()))
    @rule(side=SIDES, when=TIMES, data=st.data())
    def trim_to_a_time(self, side: str, when: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, t in self.model.topics.items() if t.time)), "topic")
        bounds = self.ok(side, do="offset_at", topic=name, when=when, by="time")
        self.ok(side, do="trim", topic=name, before={"time": when})
        for p, part in enumerate(self.model.topics[name].partitions):
            assert all(row[1] is None or row[1] < when for row in part.rows[part.begin : bounds[p]])
            part.begin = max(part.begin, bounds[p])
        self.model.lsn += 1

    @precondition(lambda self: any(not topic.ended for topic in list(self.model.topics.values())[1:]))
    @rule(side=SIDES, data=st.data())
    def end_topic(self, side: str, data: st.DataObject) -> None:
        name = self.some_topic(data)
        self.ok(side, do="end", topic=name)
        self.model.topics[name].ended = True
        self.model.lsn += 1

    @precondition(lambda self: self.model.topics)
    @rule(side=SIDES, column=st.sampled_from(["more", "even more"]), data=st.data())
    def alter_topic(self, side: str, column: str, data: st.DataObject) -> None:
        """Whoever appends knows nothing of it, and whoever reads sees it at once."""
        name = self.some_topic(data)
        added = self.model.topics[name].added
        if column not in added:
            added.append(column)
            self.model.lsn += 1
        assert self.ok(side, do="alter", topic=name, column=column) == [*NAMES, *added]

    @rule(side=SIDES)
    def seal(self, side: str) -> None:
        assert self.ok(side, do="seal") >= 0

    @rule(side=SIDES)
    def reopen(self, side: str) -> None:
        self.ok(side, do="close")
        self.ok(side, do="open", path=self.address)

    # --- questions -------------------------------------------------------------------------------

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        columns=st.none() | st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
        most=st.none() | st.integers(0, 20),
        some=st.booleans(),
        ends=st.booleans(),
        kind=st.sampled_from(["earliest", "latest", "offsets", "offset"]),
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
            partitions=partitions, end=stops or None,
        )  # fmt: skip
        limits = {p: stops.get(p, parts[p].end) for p in partitions}
        if most != 0 and any(begins[p] < min(parts[p].begin, limits[p]) for p in partitions):
            if "error" in answer:
                assert answer["error"] == "OffsetTrimmed"
                return
            # Enough rows came before the gap was met.
            assert most is not None
        wanted = [NAMES.index(column) for column in columns or NAMES]
        seen: dict[int, list[Row]] = {p: [] for p in partitions}
        for batch in answer["ok"]:
            rows, p = batch["rows"], batch["partition"]
            assert rows
            assert batch["columns"] == list(columns or NAMES)
            assert batch["offset"] == begins[p] + len(seen[p])
            assert batch["next"] == batch["offset"] + len(rows)
            seen[p].extend(tuple(row) for row in rows)
        for p, rows in seen.items():
            assert rows == [
                tuple(row[at] for at in wanted) for row in parts[p].rows[begins[p] : begins[p] + len(rows)]
            ]
        total = sum(map(len, seen.values()))
        available = sum(max(0, limits[p] - begins[p]) for p in partitions)
        assert total == (available if most is None else min(available, most))

    @precondition(lambda self: any(topic.time for topic in self.model.topics.values()))
    @rule(side=SIDES, when=st.integers(-1, 42_000_000), data=st.data())
    def offset_at_a_time(self, side: str, when: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, t in self.model.topics.items() if t.time)), "topic")
        found = self.ok(side, do="offset_at", topic=name, when=when, by="time")
        for p, part in enumerate(self.model.topics[name].partitions):
            reached = [i for i, row in enumerate(part.rows) if row[1] is not None and row[1] >= when]
            first = next((i for i in reached if i >= part.begin), part.end)
            if reached and reached[0] < part.begin < part.end:
                # Rows that were trimmed away had reached it.
                assert found[p] in (part.begin, first)
            else:
                assert found[p] == first
        batches = self.ok(side, do="read", topic=name, start={"time": when})
        starts: dict[int, int] = {}
        for batch in batches:
            starts.setdefault(batch["partition"], batch["offset"])
        assert starts.items() <= found.items()

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
            assert found[p] == (later[0] if later else part.end)

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

    def some_partition(self, data: st.DataObject, name: str) -> int:
        return data.draw(st.integers(0, len(self.model.topics[name].partitions) - 1), "partition")

    def fresh(self, values: list[Any]) -> list[list[Any]]:
        """Rows with numbers that no other row has."""
        self.rows += len(values)
        return [[self.rows - len(values) + at, *value] for at, value in enumerate(values)]

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
            part.rows.extend(part_rows)
            found += part_rows
        assert sorted(found) == sorted(expected, key=lambda row: row[0])

    def note_homes(self, topic: Topic, partition: int, rows: list[Row], directed: bool) -> None:
        if directed or not topic.key:
            return
        for row in rows:
            key = tuple(row[NAMES.index(column)] for column in topic.key)
            assert topic.homes.setdefault(key, partition) == partition

    def seen_by(self, side: str) -> dict[str, Any]:
        seen = self.ok(side, do="everything")
        for topic in seen["topics"].values():
            joined: dict[int, list[Row]] = {}
            for batch in topic["rows"]:
                joined.setdefault(batch["partition"], []).extend(tuple(row) for row in batch["rows"])
            topic["rows"] = joined
        return dict(seen)


@contextmanager
def _directory(path: Path) -> Iterator[str]:
    yield str(path)


PLACES = pytest.mark.parametrize(
    "placed",
    [
        pytest.param(_directory, id="directory", marks=pytest.mark.embedded),
        pytest.param(serving, id="server"),
    ],
)


def _run(placed: Any, neighbour: Neighbour, examples: int, steps: int) -> None:
    machine = type("Machine", (LogBesideModel,), {"neighbour": neighbour, "placed": placed})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@PLACES
def test_the_log_is_what_a_model_of_dicts_and_lists_says_whichever_process_does_what(
    placed: Any, neighbour: Neighbour
) -> None:
    _run(placed, neighbour, examples=30 if placed is _directory else 10, steps=40)


@PLACES
@pytest.mark.slow
def test_the_log_is_what_the_model_says_for_a_long_time(placed: Any, neighbour: Neighbour) -> None:
    _run(placed, neighbour, examples=600, steps=80)
