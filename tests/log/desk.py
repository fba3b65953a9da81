"""A desk does what it is told with a log, in this process or in another: both sides of the model test use it.

Commands and answers are plain values (numbers, strings, lists, dicts), so that they can travel as msgpack. Rows
are lists ``[id, ts, who, x]``; times are microseconds since the epoch.
"""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log, LogBatch, Topic, Transaction, locate

SCHEMA = pl.Schema({"id": pl.Int64, "ts": pl.Datetime("us"), "who": pl.String, "x": pl.Float64})
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

    def open(self, path: str) -> None:
        self.close()
        self.log = locate(path)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()
        self.log = None

    def create(
        self, topic: str, partitions: int, key: list[str], time: str | None, compression: str, exist_ok: bool
    ) -> None:
        self._log.create_topic(
            topic,
            SCHEMA,
            partitions=partitions,
            key=key or None,
            time=time,
            compression=compression,
            exist_ok=exist_ok,
        )

    def alter(self, topic: str, column: str) -> list[str]:
        return list(self._log.alter_topic(topic, add={column: pl.Int64}).schema.names)

    def delete(self, topic: str) -> None:
        self._log.delete_topic(topic)

    def append(self, topic: str, rows: list[list[Any]], form: str, **options: Any) -> list[list[int]]:
        ranges = self._topic(topic).append(frame_of(rows, form), **options)
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
                    rows = frame_of(arguments.pop("rows"), arguments.pop("form"))
                    transaction.append(arguments.pop("topic"), rows, **arguments)
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


def moment(ticks: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ticks)


def ticks(value: datetime | None) -> int | None:
    if value is None:
        return None
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return (value - _EPOCH) // timedelta(microseconds=1)


def frame_of(rows: list[list[Any]], form: str) -> Any:
    """The rows in one of the forms that append takes."""
    plain = [[number, None if ts is None else moment(ts), who, x] for number, ts, who, x in rows]
    if form == "dicts":
        return [dict(zip(SCHEMA, row, strict=True)) for row in plain]
    columns = {name: [row[at] for row in plain] for at, name in enumerate(SCHEMA)}
    if form == "columns":
        return columns
    frame = pl.DataFrame(columns, schema=SCHEMA)
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
            # As pandas users have it: missing numbers are NaN, missing times NaT.
            return pd.DataFrame(
                {
                    "id": pd.Series(columns["id"], dtype="int64"),
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
    added = frame.select([name for name in frame.columns if name not in SCHEMA])
    assert added.null_count().rows() in ([], [(frame.height,) * added.width])
    return frame.drop(added.columns)


def plain_batch(batch: LogBatch) -> dict[str, Any]:
    frame = without_added(pl.DataFrame(batch.data))
    return {
        "partition": batch.partition,
        "offset": batch.offset,
        "next": batch.next_offset,
        "appended": list(zip(batch.append_times.tolist(), batch.offsets.tolist(), strict=True)),
        "columns": frame.columns,
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
