"""What a pool does with workers, without any: who is told what, and when there is something to do."""

from __future__ import annotations

from mamba_stream.runtime.workers.layout import Layout, TaskName
from mamba_stream.runtime.workers.messages import Quit, Ready, Release, Released, Take
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.testing import Clock


class Hands:
    """Starts workers that do nothing, and notes what they are told."""

    def __init__(self) -> None:
        self.told: dict[int, list] = {}
        self.hear: dict[int, object] = {}

    def start(self, worker, hear):
        self.told[worker], self.hear[worker] = [], hear
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

    def __init__(self) -> None:
        super().__init__(())

    @property
    def tasks(self) -> list[TaskName]:
        return [TaskName(0, number) for number in range(4)]


def pool_of(workers: int) -> tuple[Pool, Hands, Clock]:
    hands, clock = Hands(), Clock()
    pool = Pool(Tasks(), hands, PoolSettings(workers, lease=5.0), clock)
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
    assert pool.tasks_of(0) == set(Tasks().tasks)
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


def test_who_is_silent_past_the_lease_is_followed_by_another_with_its_tasks():
    pool, hands, clock = pool_of(2)
    tasks, first = pool.tasks_of(1), hands.told[1]
    clock.advance("3s")
    hands.hear[0](Ready(0))
    pool.turn()
    clock.advance("3s")
    hands.hear[0](Ready(0))
    for _ in range(3):
        pool.turn()
    assert hands.told[1] is not first
    assert [sorted(order.tasks) for order in hands.told[1]] == [sorted(tasks)]
