"""A desk does what it is told with a log, in this process or in another: both sides of the model test use it.

Commands and answers are plain values (numbers, strings, lists, dicts), so that they can travel as msgpack. Rows
are lists ``[id, ts, who, x]``; times are microseconds since the epoch.
"""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log, LogBatch, Topic, Transaction, files, locate
from mamba_stream.log.store import Store, acquire
from tests.log.handclock import FileClock

ADDED = ("more", "even more")
"""Columns that topics may get."""
SCHEMA = pl.Schema({"id": pl.Int64, "ts": pl.Datetime("us"), "who": pl.String, "x": pl.Float64})
NARROW = pl.Schema({**SCHEMA, "id": pl.Int32})
"""What topics are made with; some are widened to the other."""
FORMS = ("polars", "table", "batch", "reader", "pandas", "dicts", "columns")
_EPOCH = datetime(1970, 1, 1)


class Desk:
    """One handle of a log, and the commands that can be given to it."""

    def __init__(self) -> None:
        self.log: Log | None = None

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command: ``{"ok": ...}``, or ``{"error": name of the class, "message": ...}``."""
        arguments = dict(command)
        try:
            return {"ok": getattr(self, arguments.pop("do"))(**arguments)}
        except MambaStreamError as error:
            return {"error": type(error).__name__, "message": str(error)}
        except Exception as error:
            # Not one of ours: the test that asked fails with it, and goes on asking.
            return {"error": f"unexpected {type(error).__name__}", "message": traceback.format_exc()}

    def open(self, path: str, clock: str | None = None) -> None:
        """Opens a directory, by a clock in a file if there is one, or an address."""
        self.close()
        self.log = locate(path) if clock is None else Log(acquire(Path(path), FileClock(Path(clock))))

    def close(self) -> None:
        if self.log is not None:
            self.log.close()
        self.log = None

    def create(
        self, topic: str, partitions: int, key: list[str], time: str | None, compression: str, exist_ok: bool
    ) -> None:
        self._log.create_topic(
            topic,
            NARROW,
            partitions=partitions,
            key=key or None,
            time=time,
            compression=compression,
            exist_ok=exist_ok,
        )

    def alter(self, topic: str, column: str) -> list[str]:
        return list(self._log.alter_topic(topic, add={column: pl.Int64}).schema.names)

    def widen(self, topic: str) -> str:
        columns = self._topic(topic).polars_schema
        return str(self._log.alter_topic(topic, schema={**columns, "id": pl.Int64}).polars_schema["id"])

    def keep(self, topic: str, **settings: Any) -> None:
        given = {name: _duration(value) for name, value in settings.items()}
        self._log.alter_topic(topic, **given)

    def maintain(self, budget: int | None) -> dict[str, Any]:
        done = self._log.maintain(budget)
        return {
            "done": done.done,
            "trimmed": done.trimmed_rows,
            "compacted": done.compacted_rows,
            "unread": sorted([one.group, one.topic, one.rows] for one in done.unread),
        }

    def scrub(self, most: int | None) -> dict[str, Any]:
        found = self._log.scrub(most)
        return {"done": found.done, "damaged": [[f.topic, f.partition, f.offset] for f in found.findings]}

    def lsn(self) -> int:
        return self._log.lsn()

    def backup(self, target: str) -> int:
        return self._log.backup(target).lsn

    def places(self) -> list[list[Any]]:
        """Every batch with rows that are there: topic, partition, offsets, file, and where in it."""
        store, found = self._log._store, []
        assert isinstance(store, Store)
        for topic in store.topics():
            for partition, head in store.shelf.heads(topic).items():
                for placed in store.shelf.entries(topic, partition, head.begin, 1 << 20):
                    entry = placed.entry
                    path = files.path_of(store.files, entry.file, entry.kind)
                    bounds = [placed.offset, placed.next_offset]
                    place = [str(path), entry.position, entry.length]
                    found.append([topic.name, partition, *bounds, *place])
        return found

    def delete(self, topic: str) -> None:
        self._log.delete_topic(topic)

    def append(self, topic: str, rows: list[list[Any]], form: str, **options: Any) -> list[list[int]]:
        ranges = self._topic(topic).append(frame_of(rows, form, fitting(rows)), **options)
        return [[partition, *both] for partition, both in sorted(ranges.items())]

    def transact(self, steps: list[dict[str, Any]], finish: str) -> dict[str, Any]:
        """Runs the steps in a transaction; ``finish`` is commit, abort or fail (an exception in the block)."""
        if finish == "fail":
            try:
                with self._log.transaction() as transaction:
                    self._take(transaction, steps)
                    raise _Interrupted
            except _Interrupted:
                return {}
        transaction = self._log.transaction()
        self._take(transaction, steps)
        if finish == "abort":
            transaction.abort()
            return {}
        transaction.commit()
        offsets = [[*place, *both] for place, both in sorted(transaction.offsets.items())]
        return {"lsn": transaction.lsn, "offsets": offsets}

    def trim(self, topic: str, before: Any) -> None:
        self._topic(topic).trim(_decoded(before))

    def end(self, topic: str) -> None:
        self._topic(topic).end()

    def seal(self) -> int:
        return self._log.seal()

    def offsets(self, topic: str) -> list[list[int]]:
        return [[partition, *both] for partition, both in self._topic(topic).offsets().items()]

    def offset_at(self, topic: str, when: int, by: str) -> dict[int, int]:
        return self._topic(topic).offset_at(moment(when), by=by)

    def read(self, topic: str, start: Any = "earliest", **options: Any) -> list[dict[str, Any]]:
        return [plain_batch(batch) for batch in self._topic(topic).read(start=_decoded(start), **options)]

    def scan(
        self, topic: str, predicate: list[Any] | None, columns: list[str] | None, limit: int | None
    ) -> list[list[Any]]:
        frame = self._topic(topic).scan()
        if predicate is not None:
            frame = frame.filter(expression(predicate))
        if columns is not None:
            frame = frame.select(columns)
        if limit is not None:
            frame = frame.head(limit)
        return plain_rows(without_added(frame.collect()))

    def everything(self) -> dict[str, Any]:
        """All that can be seen of the log, as one value."""
        log = self._log
        topics = {}
        for name in log.topics():
            topic = log[name]
            topics[name] = {
                "offsets": [[p, *both] for p, both in topic.offsets().items()],
                "ended": topic.ended,
                "rows": [plain_batch(batch) for batch in topic.read()],
                "settings": [topic.partitions, list(topic.key), topic.time, topic.compression],
                "columns": list(topic.schema.names),
            }
        groups = {
            group: [[*place, offset] for place, offset in sorted(log.group_offsets(group).items())]
            for group in log.groups()
        }
        return {"lsn": log.lsn(), "topics": topics, "groups": groups, "records": log.records("model")}

    @property
    def _log(self) -> Log:
        assert self.log is not None
        return self.log

    def _topic(self, name: str) -> Topic:
        return self._log[name]

    def _take(self, transaction: Transaction, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            arguments = dict(step)
            match arguments.pop("step"):
                case "append":
                    rows = arguments.pop("rows")
                    frame = frame_of(rows, arguments.pop("form"), fitting(rows))
                    transaction.append(arguments.pop("topic"), frame, **arguments)
                case "offsets":
                    places = {(topic, partition): at for topic, partition, at in arguments["offsets"]}
                    transaction.commit_offsets(arguments["group"], places)
                case "put":
                    transaction.put_record("model", arguments["key"], arguments["value"])
                case "forget":
                    transaction.delete_record("model", arguments["key"])
                case "require":
                    transaction.require_record("model", arguments["key"], arguments["value"])
                case "trim":
                    transaction.trim(arguments["topic"], arguments["before"])


class _Interrupted(Exception):
    pass


def _duration(value: Any) -> Any:
    """Durations come in microseconds."""
    return timedelta(microseconds=value["us"]) if isinstance(value, dict) else value


def moment(ticks: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ticks)


def ticks(value: datetime | None) -> int | None:
    if value is None:
        return None
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return (value - _EPOCH) // timedelta(microseconds=1)


def fitting(rows: list[list[Any]]) -> pl.Schema:
    """The columns that these go into, the narrowest ones."""
    return SCHEMA if any((row[0] or 0) >= 1 << 31 for row in rows) else NARROW


def frame_of(rows: list[list[Any]], form: str, schema: pl.Schema = SCHEMA) -> Any:
    """The rows in one of the forms that append takes."""
    plain = [[number, None if ts is None else moment(ts), who, x] for number, ts, who, x in rows]
    if form == "dicts":
        return [dict(zip(SCHEMA, row, strict=True)) for row in plain]
    columns = {name: [row[at] for row in plain] for at, name in enumerate(SCHEMA)}
    if form == "columns":
        return columns
    frame = pl.DataFrame(columns, schema=schema)
    match form:
        case "polars":
            return frame
        case "table":
            return frame.to_arrow()
        case "batch":
            return pa.RecordBatch.from_pylist(frame.to_dicts(), schema=frame.to_arrow().schema)
        case "reader":
            return frame.to_arrow().to_reader(max_chunksize=2)
        case "pandas":
            # Half as long again as all else that a process needs, and few tests come here.
            import pandas as pd

            # As pandas users have it: missing numbers are NaN, missing times NaT.
            return pd.DataFrame(
                {
                    "id": pd.Series(columns["id"], dtype=str(schema["id"]).lower()),
                    "ts": pd.Series(columns["ts"], dtype="datetime64[us]"),
                    "who": pd.Series(columns["who"], dtype="object"),
                    "x": pd.Series(columns["x"], dtype="float64"),
                }
            )
    raise AssertionError(form)


def plain_rows(frame: pl.DataFrame) -> list[list[Any]]:
    return [[ticks(v) if isinstance(v, datetime) else v for v in row] for row in frame.rows()]


def without_added(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows without the columns that were added, which nobody ever filled."""
    columns = frame.get_columns()
    assert all(column.null_count() == frame.height for column in columns if column.name in ADDED)
    # Not drop(), which makes a query of it.
    return pl.DataFrame([column for column in columns if column.name not in ADDED])


def plain_batch(batch: LogBatch) -> dict[str, Any]:
    frame = without_added(pl.DataFrame(batch.data))
    return {
        "partition": batch.partition,
        "offset": batch.offset,
        "next": batch.next_offset,
        "time": batch.append_time,
        "appended": list(zip(batch.append_times.tolist(), batch.offsets.tolist(), strict=True)),
        "columns": frame.columns,
        "offsets": batch.offsets.tolist(),
        "rows": plain_rows(frame),
    }


def expression(predicate: list[Any]) -> pl.Expr:
    """A predicate as Polars has it, from ``[operator, ...]``."""
    kind, *parts = predicate
    match kind:
        case "and":
            return expression(parts[0]) & expression(parts[1])
        case "or":
            return expression(parts[0]) | expression(parts[1])
        case "not":
            return ~expression(parts[0])
        case "null":
            return pl.col(parts[0]).is_null()
        case "between":
            low, high = (_value(parts[0], v) for v in parts[1:])
            return pl.col(parts[0]).is_between(low, high)
    column, value = pl.col(parts[0]), _value(parts[0], parts[1])
    return {
        "<": column < value,
        "<=": column <= value,
        "==": column == value,
        ">=": column >= value,
        ">": column > value,
    }[kind]


def _value(column: str, value: Any) -> Any:
    return moment(value) if column == "ts" else value


def _decoded(place: Any) -> Any:
    return moment(place["time"]) if isinstance(place, dict) and "time" in place else place
