"""A job that ran as one task goes on over workers: what it remembered is cut by key, and the rows are the same."""

from __future__ import annotations

import pytest

from tests.runtime.workers.scenarios import SCENARIOS
from tests.runtime.workers.simulated import troubled
from tests.sizes import crossed


@pytest.mark.parametrize(("name", "seed"), crossed(SCENARIOS, range(3), every=6))
def test_what_one_task_remembered_many_go_on_with(name, seed):
    with troubled(name, seed) as job:
        job.alone()
        job.run()
        job.check()
