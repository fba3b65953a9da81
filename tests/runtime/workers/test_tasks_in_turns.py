"""The tasks of a job in one thread: whatever runs them, and however often they begin anew, the rows are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import mamba_stream as mamba
from mamba_pipelines.nexmark import QUERIES
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.changes import OP_COLUMN, table_of
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import make_topics
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.workers.layout import layout_of_job, make_internal_topics
from mamba_stream.runtime.workers.worker import Worker
from tests.pipelines.test_nexmark import MEMORY, STREAMS, append, busy, check, portions, slow
from tests.sizes import crossed

TAKEN_OVER = 60
"""Times in all: a task that never lives as long as from one commit to the next comes to no end."""


@pytest.mark.parametrize(("query", "tables"), crossed(QUERIES, [busy, slow], every=6))
def test_a_query_over_tasks_that_begin_anew_gives_what_duckdb_gives(query, tables):
    over_tasks(query, tables, keys={}, partitions=3)


def over_tasks(query, tables, keys: dict[str, str], partitions: int) -> None:
    """Runs a query over tasks that are taken over now and then, and holds it against DuckDB.

    Args:
        query: Its name.
        tables: Gives what it reads.
        keys: The column by which the rows of a stream lie, by stream; the others lie anyhow.
        partitions: How many each stream has.
    """
    chance = np.random.default_rng(5)
    given = tables()
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for name in STREAMS:
            key = keys.get(name)
            log.create_topic(
                name,
                given[name],
                partitions=partitions,
                key=key,
                strict_key=key is not None,
                time="dateTime",
            )
        topics = {name: mamba.stream(name, lateness="60s") for name in STREAMS}
        pipeline = mamba.pipeline("job", QUERIES[query](**topics, side_input=given["side_input"]).to("out"))
        prepared = Prepared(pipeline, log)
        layout = layout_of_job(prepared, 4)
        make_internal_topics(log, "job", layout, prepared)
        make_topics(
            log,
            pipeline.topics,
            {output: prepared.analysis.shapes[output] for output in pipeline.topics},
            replace=set(),
        )
        parts = portions(given, 4, chance)
        lost = 0
        for number, some in enumerate(parts, 1):
            append(log, some, partitions, chance, keys)
            last = number == len(parts)
            if last:
                for name in STREAMS:
                    log[name].end()
            prepared = Prepared(pipeline, log)
            layout = layout_of_job(prepared, 4)
            options = RunOptions(
                until=None if last else "now",
                anew=False,
                memory=1 << 30,
                commit=0.02,
                skip_gaps=False,
                rows=int(chance.integers(500, 3_000)),
            )
            worker = Worker(pipeline, prepared, layout.stages, log, options, SystemClock(), number)
            worker.take(layout.tasks, 0)
            while worker.tasks:
                worker.turn()
                if worker.tasks and (lost == 0 or (lost < TAKEN_OVER and chance.random() < 0.3)):
                    # Taken over by another, while this one has done what it did not commit; what it had begun to is.
                    name = list(worker.tasks)[int(chance.integers(len(worker.tasks)))]
                    worker.tasks[name].end_commit()
                    lost += 1
                    worker.take([name], lost)
            worker.close()
        assert lost > 0
        rows = log["out"].scan().collect()
        check(table_of(rows) if OP_COLUMN in rows.columns else rows, query, tables)
