"""What a pool does with workers, without any: who is told what, and when there is something to do."""

from __future__ import annotations

from mamba_stream.runtime.counts import Counts
from mamba_stream.runtime.workers.layout import Layout, TaskName
from mamba_stream.runtime.workers.messages import Beat, Gone, Quit, Ready, Release, Released, Take, TaskFacts
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.testing import Clock


class Hands:
    """Starts workers that do nothing, and notes what they are told."""

    def __init__(self) -> None:
        self.told: dict[int, list] = {}
        self.hear: dict[int, object] = {}
        self.slow: set[int] = set()

    def start(self, worker, hear):
        self.told[worker], self.hear[worker] = [], hear
        if worker not in self.slow:
            hear(Ready(0))
        return self.Hand(self.told[worker])

    def close(self) -> None:
        pass

    class Hand:
        def __init__(self, told: list) -> None:
            self.send = told.append

        def kill(self) -> None:
            pass


class Tasks(Layout):
    """Four tasks of one stage."""

    @property
    def tasks(self) -> list[TaskName]:
        return [TaskName(0, number) for number in range(4)]


def pool_of(workers: int) -> tuple[Pool, Hands, Clock]:
    hands, clock = Hands(), Clock()
    pool = Pool(Tasks(()), hands, PoolSettings(workers, lease=5.0), clock)
    for _ in range(2):
        pool.turn()
    return pool, hands, clock


def test_workers_that_are_not_needed_any_more_leave_nothing_to_do():
    pool, hands, _ = pool_of(2)
    pool.rescale(1)
    [release] = [order for order in hands.told[1] if isinstance(order, Release)]
    hands.hear[1](Released(release.tasks))
    pool.turn()
    assert hands.told[1][-1] == Quit()
    assert pool.tasks_of(0) == set(Tasks(()).tasks)
    # Until the one that is left may be taken for dead, and not at once, over and over.
    assert pool.seconds_to_next() == 5.0


def test_only_what_must_move_does_and_under_a_later_lease():
    pool, hands, _ = pool_of(2)
    before = {number: pool.tasks_of(number) for number in (0, 1)}
    pool.rescale(3)
    for _ in range(2):
        pool.turn()
    releases = {n: [o for o in told if isinstance(o, Release)] for n, told in hands.told.items()}
    assert sum(len(order.tasks) for orders in releases.values() for order in orders) == 1
    [(giver, [order])] = [(number, orders) for number, orders in releases.items() if orders]
    hands.hear[giver](Released(order.tasks))
    pool.turn()
    assert pool.tasks_of(2) == set(order.tasks) < before[giver]
    leases = [order.lease for told in hands.told.values() for order in told if isinstance(order, Take)]
    assert hands.told[2][-1] == Take(order.tasks, max(leases))


def test_a_worker_that_begins_slowly_gets_what_others_let_go_of_for_it_meanwhile():
    pool, hands, _ = pool_of(1)
    hands.slow.add(1)
    pool.rescale(2)
    pool.turn()
    release = hands.told[0][-1]
    assert isinstance(release, Release)
    hands.hear[0](Released(release.tasks))
    pool.turn()
    assert pool.tasks_of(1) == set(release.tasks)
    hands.hear[1](Ready(0))
    pool.turn()
    assert [order.tasks for order in hands.told[1]] == [release.tasks]


def silent(pool: Pool, hands: Hands, clock: Clock, others: list[int]) -> None:
    """Time goes by in which only these are heard."""
    for _ in range(2):
        clock.advance("3s")
        for number in others:
            hands.hear[number](Beat([]))
        pool.turn()


def test_tasks_of_who_is_silent_past_the_lease_go_to_the_others_until_another_follows_it():
    pool, hands, clock = pool_of(2)
    tasks, first = pool.tasks_of(1), hands.told[1]
    silent(pool, hands, clock, [0])
    assert hands.told[0][-1].tasks == sorted(tasks)
    assert pool.tasks_of(0) == set(Tasks(()).tasks)
    # It follows, and has its share.
    pool.turn()
    pool.turn()
    assert hands.told[1] is not first
    release = hands.told[0][-1]
    assert isinstance(release, Release)
    hands.hear[0](Released(release.tasks))
    pool.turn()
    assert [order.tasks for order in hands.told[1]] == [release.tasks]
    assert len(release.tasks) == 2


def test_tasks_of_which_two_workers_may_have_died_are_lent_to_no_third():
    pool, hands, clock = pool_of(3)
    tasks = pool.tasks_of(2)
    silent(pool, hands, clock, [0, 1])
    [taker] = [number for number in (0, 1) if tasks <= pool.tasks_of(number)]
    [other] = {0, 1} - {taker}
    mine, theirs = pool.tasks_of(taker), pool.tasks_of(other)
    hands.hear[taker](Gone("died"))
    pool.turn()
    assert pool.tasks_of(other) == theirs
    assert pool.tasks_of(taker) == mine


def test_a_worker_that_is_the_only_one_is_followed_by_one_with_its_tasks():
    pool, hands, clock = pool_of(1)
    first = hands.told[0]
    silent(pool, hands, clock, [])
    pool.turn()
    pool.turn()
    assert hands.told[0] is not first
    assert [order.tasks for order in hands.told[0]] == [Tasks(()).tasks]


def test_a_task_is_told_to_be_released_once_and_an_old_answer_takes_none_away():
    pool, hands, _ = pool_of(2)
    pool.rescale(3)
    [(giver, task)] = [
        (number, order.tasks[0])
        for number, told in hands.told.items()
        for order in told
        if isinstance(order, Release)
    ]
    # Before the answer came: it is still to move.
    pool.rescale(3)
    assert sum(isinstance(order, Release) for order in hands.told[giver]) == 1
    for _ in range(2):
        pool.turn()
    hands.hear[giver](Released([task]))
    pool.turn()
    assert pool.tasks_of(2) == {task}


def test_what_a_worker_says_too_late_of_a_task_that_it_let_go_of_does_not_count():
    pool, hands, _ = pool_of(2)
    pool.rescale(3)
    for _ in range(2):
        pool.turn()
    [(giver, task)] = [
        (number, order.tasks[0])
        for number, told in hands.told.items()
        for order in told
        if isinstance(order, Release)
    ]
    hands.hear[giver](Released([task]))
    hands.hear[2](Beat([(task, facts(commits=7))]))
    pool.turn()
    hands.hear[2](Beat([(task, facts(commits=7))]))
    hands.hear[giver](Beat([(task, facts(commits=5))]))
    pool.turn()
    assert pool.facts[task].commits == 7


def test_a_pool_that_stood_still_itself_takes_nobody_for_dead():
    pool, hands, clock = pool_of(2)
    before = dict(hands.told)
    clock.advance("10s")
    pool.turn()
    assert hands.told == before
    clock.advance("4s")
    pool.turn()
    hands.hear[0](Ready(0))
    clock.advance("2s")
    for _ in range(2):
        pool.turn()
    assert hands.told[0] is before[0]
    assert hands.told[1] is not before[1]


def facts(commits: int) -> TaskFacts:
    nothing = Counts(0, 0, 0, 0, 0)
    return TaskFacts(nothing, nothing, commits, {}, {}, {}, 0.0, 0.0, 0.0)
