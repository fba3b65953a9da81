"""A job that ran as one task goes on over workers: what it remembered is cut by key, and the rows are the same."""

from __future__ import annotations

import numpy as np
import pytest

from mamba_pipelines.nexmark import QUERIES
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.changes import OP_COLUMN, table_of
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.workers.simulation import Misfortunes
from tests.pipelines.test_nexmark import STREAMS, append, busy, check, options, portions
from tests.runtime.workers.test_rows_that_lie_by_key import BY_AUCTION
from tests.runtime.workers.test_simulated import nexmark


@pytest.mark.parametrize("keys", [{}, BY_AUCTION], ids=["", "by key"])
@pytest.mark.parametrize("query", QUERIES)
def test_what_one_task_remembered_many_go_on_with(query, keys):
    chance = np.random.default_rng(7)
    given = busy()
    with nexmark(query, given, chance, keys) as job:
        first, *others = portions(given, 3, chance)
        append(job.log, first, 3, chance, keys)
        run = Run(job.pipeline, job.log, options(700), SystemClock())
        while run.step():
            if chance.random() < 0.2:
                run.commit("running")
        run.commit("stopped")
        run.close()
        for number, some in enumerate(others, 1):
            append(job.log, some, 3, chance, keys)
            last = number == len(others)
            if last:
                for name in STREAMS:
                    job.log[name].end()
            job.run(number + 1, misfortunes=Misfortunes(), until=None if last else "now")
        rows = job.log["out"].scan().collect()
        check(table_of(rows) if OP_COLUMN in rows.columns else rows, query, busy)
