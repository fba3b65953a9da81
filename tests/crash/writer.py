"""A process that writes to a log until it is killed, or for so many operations.

    python -m tests.crash.writer DIRECTORY JOURNAL --seed 7 --writer 0 [--first 12] [--operations 40] ...

It writes down what it tries and what was acknowledged (:mod:`tests.crash.journal`). Errors of the log's own
tree are written down too, and the writer goes on as their text says it may: again, or after reopening. Any
other exception ends the process with a traceback, which the tests take for a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from mamba_stream.core.durability import Durability
from mamba_stream.errors import CommitUnknown, InvalidInput, LogUnavailable, MambaStreamError, NotCommitted
from mamba_stream.log import Log, open_log
from mamba_stream.log.store import Store
from tests.crash import planting
from tests.crash.journal import Journal
from tests.crash.workload import (
    KEYED,
    KINDS,
    SCHEMA,
    SHARED,
    STATE,
    WIDE,
    Operation,
    added,
    durability,
    inner,
    operation,
    own,
    scripted,
    table_of,
)

CLEAR = 3
_REOPENINGS = 4


class Writer:
    """One life of a writer."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._path = Path(arguments.directory)
        self._journal = Journal(Path(arguments.journal), arguments.writer)
        self._seed = arguments.seed
        self._writer = arguments.writer
        self._number = arguments.first
        self._sequence = arguments.sequence
        self._retry = arguments.retry
        self._map_size = arguments.map_size
        self._asked = arguments.durability
        self._kinds = tuple(arguments.kinds.split(",")) if arguments.kinds else tuple(KINDS)
        self._script = tuple(arguments.script.split(",")) if arguments.script else ()
        self._log: Log | None = None

    def run(self, operations: int | None) -> None:
        self._open()
        if self._retry is not None:
            self._perform(self._operation(self._retry), self._sequence)
        done = 0
        while operations is None or done < operations:
            self._perform(self._operation(self._number))
            self._number += 1
            done += 1
        assert self._log is not None
        self._log.close()
        self._journal.write(k="done")

    def _operation(self, number: int) -> Operation:
        if self._script:
            return scripted(self._seed, self._writer, number, self._script)
        return operation(self._seed, self._writer, number, self._kinds)

    def _open(self) -> None:
        """Opens the log and sees to its topics; tries again after an error, as a program would."""
        for attempt in range(_REOPENINGS):
            try:
                options = {} if self._map_size is None else {"map_size": self._map_size}
                self._log = open_log(self._path, **options)
                self._create_topics(self._log)
            except MambaStreamError as error:
                self._journal.write(k="open", type=type(error).__name__, text=str(error))
                self._close()
                if attempt == _REOPENINGS - 1:
                    raise
            else:
                return

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _create_topics(self, log: Log) -> None:
        log.create_topic(SHARED, SCHEMA, exist_ok=True)
        log.create_topic(WIDE, SCHEMA, partitions=3, compression="lz4", exist_ok=True)
        log.create_topic(KEYED, SCHEMA, partitions=3, key="row", time="ts", compression="zstd", exist_ok=True)
        log.create_topic(own(self._writer), SCHEMA, partitions=2, exist_ok=True)
        log.create_topic(inner(self._writer), SCHEMA, internal=True, exist_ok=True)

    def _perform(self, op: Operation, sequence: int | None = None) -> None:
        """Does one operation, whatever errors of the tree come in between."""
        for attempt in range(_REOPENINGS):
            try:
                assert self._log is not None
                arguments = self._arguments(self._log, op)
                if op.kind == "idempotent":
                    arguments["sequence"] = self._sequence if sequence is None else sequence
            except MambaStreamError as error:
                self._journal.write(k="ask", n=op.number, type=type(error).__name__, text=str(error))
                if attempt == _REOPENINGS - 1:
                    raise
                self._close()
                self._open()
                continue
            self._journal.write(k="try", n=op.number, a=arguments)
            try:
                answer = self._act(op, arguments)
            except MambaStreamError as error:
                fate = "unknown" if isinstance(error, CommitUnknown) else "absent"
                self._journal.write(
                    k="error", n=op.number, fate=fate, type=type(error).__name__, text=str(error)
                )
                if isinstance(error, CommitUnknown | LogUnavailable):
                    self._close()
                    self._open()
                elif not isinstance(error, NotCommitted | InvalidInput):
                    raise
                if op.kind != "idempotent":
                    return
                # What a producer's sequence is for: the same append again, until it is answered.
            else:
                self._journal.write(k="ack", n=op.number, a=answer)
                if op.kind == "idempotent":
                    self._sequence = arguments["sequence"] + 1
                return
        raise RuntimeError(f"operation {op.number} failed {_REOPENINGS} times")

    def _arguments(self, log: Log, op: Operation) -> dict[str, Any]:
        """What depends on where the log is now."""
        arguments: dict[str, Any] = {}
        if op.kind == "transaction":
            ends = {p: end for p, (_, end) in log[WIDE].offsets().items()}
            arguments["offsets"] = [[WIDE, p, int(end * op.fraction)] for p, end in ends.items()]
        if op.trims:
            arguments["trims"] = [
                [topic, p, begin + int((end - begin) * op.fraction)]
                for topic in (own(self._writer), inner(self._writer))
                for p, (begin, end) in log[topic].offsets().items()
            ]
        return arguments

    def _act(self, op: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        log = self._log
        assert log is not None
        tables = [(part, table_of(self._seed, op, part)) for part in op.parts]
        ranges: list[list[Any]] = []
        lsn: int | None = None
        level = durability(self._asked, self._seed, self._writer, op.number)
        if op.kind in ("append", "idempotent"):
            [(part, table)] = tables
            numbered: dict[str, Any] = {}
            if op.kind == "idempotent":
                numbered = {"producer": f"writer-{self._writer}", "sequence": arguments["sequence"]}
            found = log[part.topic].append(table, partition=part.partition, durability=level, **numbered)
            lsn = found.lsn
            ranges = [[part.topic, p, first, following] for p, (first, following) in found.items()]
        elif op.kind in ("transaction", "trim"):
            with log.transaction(durability=level) as tx:
                for part, table in tables:
                    tx.append(part.topic, table, partition=part.partition)
                for topic, p, before in arguments.get("trims", ()):
                    tx.trim(topic, {p: before})
                if op.kind == "transaction":
                    tx.commit_offsets(
                        f"group-{self._writer}", {(t, p): offset for t, p, offset in arguments["offsets"]}
                    )
                    tx.put_record(STATE, str(self._writer), str(op.number).encode())
            lsn = tx.lsn
            ranges = [[topic, p, first, following] for (topic, p), (first, following) in tx.offsets.items()]
        elif op.kind == "refused":
            with log.transaction() as tx:
                for part, table in tables:
                    tx.append(part.topic, table, partition=part.partition)
                tx.require_record(STATE, "nobody", b"there")
        elif op.kind == "abort":
            tx = log.transaction()
            for part, table in tables:
                tx.append(part.topic, table, partition=part.partition)
            tx.abort()
        elif op.kind == "alter":
            [(part, table)] = tables
            column = added(op)
            topic = log.alter_topic(part.topic, add={column: pa.int64()})
            rows = [{**row, column: row["row"]} for row in table.to_pylist()]
            found = topic.append(rows, partition=part.partition, durability=level)
            lsn = found.lsn
            ranges = [[part.topic, p, first, following] for p, (first, following) in found.items()]
        elif op.kind == "seal":
            log.seal()
        elif op.kind == "temporary":
            name = f"temporary-{self._writer}"
            topic = log.create_topic(name, SCHEMA, exist_ok=True)
            topic.append(tables[0][1], durability=level)
            log.delete_topic(name)
        elif op.kind == "reopen":
            self._close()
            self._open()
            log = self._log
            assert log is not None
        # A transaction that had nothing to change has no number.
        return {"ranges": ranges, "lsn": lsn or log.lsn(), "durable": _durable(log, lsn, level)}


def _durable(log: Log, lsn: int | None, level: Durability) -> int:
    """The number of the last commit that no loss of power can undo, as far as this process was told."""
    if lsn is not None and level == "commit":
        return lsn
    store = log._store
    assert isinstance(store, Store)
    return store.flushed_lsn()


def main(given: list[str] | None = None, plant: str = "", pause: Callable[[], None] | None = None) -> int:
    """Writes as the arguments say, with a planted bug if one is named.

    ``pause`` is called when everything is imported and the journal is open, before the log is touched.
    Returns an exit code: ``CLEAR`` where an error of the log's own tree came again and again.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("journal")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--writer", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--sequence", type=int, default=0)
    parser.add_argument("--retry", type=int)
    parser.add_argument("--operations", type=int)
    parser.add_argument("--kinds")
    parser.add_argument("--script")
    parser.add_argument("--map-size", type=int)
    parser.add_argument("--durability", default="commit")
    parser.add_argument("--die-in-commit", type=int)
    arguments = parser.parse_args(given)
    planting.tune()
    planting.plant(plant or os.environ.get("CRASH_PLANT", ""))
    if arguments.die_in_commit is not None:
        planting.die_in(arguments.die_in_commit)
    writer = Writer(arguments)
    if pause is not None:
        pause()
    try:
        writer.run(arguments.operations)
    except MambaStreamError:
        traceback.print_exc()
        return CLEAR
    return 0


def warm() -> None:
    """Goes once over everything, in another place: whatever is imported late is imported then."""
    with tempfile.TemporaryDirectory() as place:
        arguments = argparse.Namespace(
            directory=f"{place}/log",
            journal=f"{place}/journal",
            seed=0,
            writer=0,
            first=0,
            sequence=0,
            retry=None,
            map_size=None,
            durability="os",
            kinds=None,
            script=",".join(KINDS),
        )
        Writer(arguments).run(len(KINDS))


if __name__ == "__main__":
    sys.exit(main())
