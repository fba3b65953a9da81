"""Changes to a log beside its model: topics come, are altered and go; rows are appended and trimmed."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.log.beside import GROUPS, KEYS, SETTINGS, SIDES, TIMES, TOPICS, VALUES, Beside
from tests.log.desk import ADDED, FORMS
from tests.log.model import NAMES, Partition, Row, Topic


class Changes(Beside):
    """Steps after which the log holds something else."""

    @initialize(
        first=SIDES,
        settings=st.lists(
            st.fixed_dictionaries(
                {
                    "partitions": st.integers(1, 3),
                    "key": st.sampled_from([[], ["who"], ["who"]]),
                    "time": st.just("ts"),
                    "compression": st.sampled_from(["none", "zstd"]),
                }
            ),
            min_size=1,
            max_size=2,
        ),
        kept=st.lists(SETTINGS, min_size=2, max_size=2),
        values=st.lists(VALUES, min_size=1, max_size=6),
    )
    def both_open_it(
        self, first: str, settings: list[dict[str, Any]], kept: list[dict[str, Any]], values: list[Any]
    ) -> None:
        self.address = self.left.enter_context(type(self).placed(self.path, self.clock))
        for side in (first, "there" if first == "here" else "here"):
            self.open(side)
        for name, options, settled in zip(TOPICS, settings, kept, strict=False):
            self.create_topic(side="there", name=name, exist_ok=False, **options)
            self.keep(
                first, name, {"compact": True, **settled} if options["key"] else {**settled, "compact": False}
            )
            self.append_here_and_there(name, values)
            self.append_keys(name, 2)

    @precondition(lambda self: any(not topic.ended for topic in self.model.topics.values()))
    @rule(times=st.integers(2, 4), data=st.data())
    def append_the_same_keys(self, times: int, data: st.DataObject) -> None:
        """Again and again, by both sides."""
        self.append_keys(self.some_open_topic(data), times)

    def append_keys(self, name: str, times: int) -> None:
        for at in range(times):
            rows = self.fresh(name, [(at * 1_000_000, who, 1.0) for who in ("ann", "bob", "cyd")])
            side = ("here", "there")[at % 2]
            self.landed(name, rows, self.ok(side, do="append", topic=name, rows=rows, form="polars"), None)
            self.model.lsn += 1

    def append_here_and_there(self, name: str, values: list[Any]) -> None:
        """As many appends as there are rows, from the two sides in turn."""
        for at, value in enumerate(values):
            rows = self.fresh(name, [value])
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
        name = self.some_open_topic(data)
        self.append_here_and_there(name, values)

    @precondition(lambda self: self.model.topics)
    @rule(
        side=SIDES,
        values=st.lists(VALUES, max_size=6),
        form=st.sampled_from(FORMS),
        directed=st.booleans(),
        level=st.sampled_from(["commit", "interval", "os"]),
        data=st.data(),
    )
    def append(
        self, side: str, values: list[Any], form: str, directed: bool, level: str, data: st.DataObject
    ) -> None:
        name = self.some_topic(data)
        options: dict[str, Any] = {"partition": self.some_partition(data, name)} if directed else {}
        rows = self.fresh(name, values)
        answer = self.do(side, do="append", topic=name, rows=rows, form=form, durability=level, **options)
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
        topic, rows = self.model.topics[name], self.fresh(name, values)
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
        partition, rows = self.some_partition(data, name), self.fresh(name, values)
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
            partition, rows = self.some_partition(data, name), self.fresh(name, values)
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
            part.take(rows, self.clock.now())
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
            assert all(row[1] is None or row[1] < when for _, row in part.there(part.begin, bounds[p]))
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
    @rule(side=SIDES, column=st.sampled_from(ADDED), data=st.data())
    def alter_topic(self, side: str, column: str, data: st.DataObject) -> None:
        """Whoever appends knows nothing of it, and whoever reads sees it at once."""
        name = self.some_topic(data)
        added = self.model.topics[name].added
        if column not in added:
            added.append(column)
            self.model.lsn += 1
        assert self.ok(side, do="alter", topic=name, column=column) == [*NAMES, *added]

    @precondition(lambda self: self.model.topics)
    @rule(side=SIDES, data=st.data())
    def widen_a_column(self, side: str, data: st.DataObject) -> None:
        topic = self.model.topics[name := self.some_topic(data)]
        assert self.ok(side, do="widen", topic=name) == "Int64"
        self.model.lsn += not topic.wide
        # Who knows nothing of columns that came before cannot give large numbers: no schema had those alone.
        topic.large = topic.large or not (topic.wide or topic.added)
        topic.wide = True

    @rule(side=SIDES)
    def seal(self, side: str) -> None:
        assert self.ok(side, do="seal") >= 0

    @rule(side=SIDES)
    def somebody_comes_again(self, side: str) -> None:
        self.reopen(side)
