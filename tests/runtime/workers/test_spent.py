"""How a task's time is divided, by a clock that is moved by hand; and what a job over workers says of it."""

from __future__ import annotations

import pytest

from mamba_stream.runtime.workers.facts import Spent


def test_what_is_neither_work_nor_waiting_is_idle():
    spent = Spent(10.0)
    spent.turn(11.0, 13.0, worked=True, held=True)
    spent.turn(15.0, 16.0, worked=False, held=False)
    assert (spent.busy, spent.held_back) == (2.0, 0.0)


def test_a_task_that_is_held_back_is_so_until_its_next_turn():
    spent = Spent(0.0)
    spent.turn(1.0, 2.0, worked=False, held=True)
    spent.turn(5.0, 6.0, worked=True, held=False)
    spent.turn(9.0, 10.0, worked=False, held=False)
    assert (spent.busy, spent.held_back) == (1.0, 4.0)


def test_a_commit_is_work_and_the_wait_for_the_one_before_is_none():
    spent = Spent(0.0)
    spent.turn(0.0, 1.0, worked=False, held=True)
    spent.committed(2.0, 5.0, 6.0)
    spent.turn(8.0, 9.0, worked=True, held=False)
    # Held back from 0 to 5, and from the commit to the next turn; no second counts twice.
    assert (spent.busy, spent.held_back) == (2.0, 7.0)
    assert spent.busy + spent.held_back == pytest.approx(9.0)
