"""A group without a coordinator: whatever its members do, no partition has two owners, and none is left alone."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream.errors import DiskFull, StaleLease
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.members import BALANCED, CLIENTS, Client, Registration
from mamba_stream.messaging.membership import Membership, Owner, Reached, owners_of
from tests.messaging.receiving import SECOND, MemoryBook, MovedClock, SomeTopics, everything
from tests.sizes import examples

LEASE = 10 * SECOND
GROUP = "g"


class Actor:
    """A consumer without threads: it reads what it believes to have, as far as the log goes."""

    def __init__(self, world: World, interest: Interest) -> None:
        self.world = world
        self.interest = interest
        client = Client(kind="consumer", group=GROUP, reads=BALANCED, interest=interest)
        self.registration = Registration(world.book, client, LEASE)
        self.registration.enter(world.clock.now())
        self.membership = Membership(world.book, world.topics, GROUP, self.registration.client.id)
        self.positions: dict[tuple[int, int], int] = {}
        self.generations: dict[tuple[int, int], int | None] = {}
        self.settled = False

    def done(self, slot: tuple[int, int]) -> Reached | None:
        return self.reached.get(slot)

    @property
    def reached(self) -> dict[tuple[int, int], Reached]:
        return {slot: Reached(at, self.generations[slot] or 0) for slot, at in self.positions.items()}

    def look(self) -> None:
        moves = self.membership.step(self.world.clock.now(), self.interest, self.done)
        self.settled = moves.settled
        now = {slot: self.membership.generation(slot) for slot in self.membership.owned}
        self.positions = {
            slot: self.positions[slot]
            if slot in self.positions and self.generations[slot] == now[slot]
            else self.world.book.offset(slot)
            for slot in now
        }
        self.generations = now

    def look_cut_short(self) -> None:
        """As where the disk is full, or Ctrl-C comes, between a commit of a look and its end."""

        def cut_short() -> None:
            raise DiskFull("no room")

        self.world.book.after.append(cut_short)
        with contextlib.suppress(DiskFull):
            self.look()
        self.world.book.after.clear()

    def renew(self) -> None:
        self.registration.renew(self.world.clock.now())

    def receive(self, most: int = 3) -> None:
        for slot, position in self.positions.items():
            end = min(self.world.ends[slot], position + most)
            self.world.received[slot] |= set(range(position, end))
            self.positions[slot] = end

    def commit(self) -> None:
        self.world.committing = self.registration.client.id
        for slot in self.membership.commit(self.reached):
            self.positions.pop(slot)

    def leave(self) -> None:
        self.membership.leave(self.done)
        self.registration.leave()


class WatchedBook(MemoryBook):
    """Says so when anybody but a partition's owner moves its offset, or moves it backwards."""

    def __init__(self, topics: SomeTopics) -> None:
        super().__init__()
        self._topics = topics
        self.owners: dict[tuple[int, int], Owner] = {}
        self.after: list[Callable[[], None]] = []

    def offset(self, slot: tuple[int, int]) -> int:
        name = next(name for name, (number, _) in self._topics.there.items() if number == slot[0])
        return self.offsets.get((GROUP, name, slot[1]), 0)

    def moved(self, change, name, partition, offset):
        place = (f"owners/{GROUP}", f"{change.numbers[name]}/{partition}")
        assert change.requires[place] is not None
        assert offset >= self.offsets.get((GROUP, name, partition), 0)

    def commit(self, change, transaction=None):
        super().commit(change, transaction)
        owners = owners_of(self, GROUP)
        for slot, owner in owners.items():
            before = self.owners.get(slot, Owner("", 0))
            # Given up, the generation stays; taken, it grows: every owner has its own.
            assert owner == before or owner.generation == before.generation + bool(owner.member)
        self.owners = owners
        if self.after:
            self.after.pop()()


class World:
    def __init__(self) -> None:
        self.clock = MovedClock()
        self.topics = SomeTopics()
        self.book = WatchedBook(self.topics)
        self.received: dict[tuple[int, int], set[int]] = defaultdict(set)
        self.ends: Counter[tuple[int, int]] = Counter()
        self.actors: list[Actor] = []

    @property
    def slots(self) -> list[tuple[int, int]]:
        return [(number, p) for number, count in self.topics.there.values() for p in range(count)]

    def join(self, interest: Interest | None = None) -> Actor:
        self.actors.append(Actor(self, interest or everything()))
        return self.actors[-1]

    def check(self) -> None:
        """No two members have a partition that both may commit: the records allow one."""
        for slot in self.slots:
            valid = [
                actor
                for actor in self.actors
                if slot in actor.membership.owned
                and self.book.get((f"owners/{GROUP}", f"{slot[0]}/{slot[1]}"))
                == actor.membership._owned[slot]
            ]
            assert len(valid) <= 1


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "join",
                "leave",
                "die",
                "renew",
                "renew",
                "look",
                "look",
                "look_cut_short",
                "receive",
                "receive",
                "commit",
                "raced",
                "raced",
                "time",
                "long",
                "append",
                "topic",
                "delete",
            ]
        ),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    max_size=60,
)


@settings(max_examples=examples(300), deadline=None)
@given(OPERATIONS)
def test_whatever_happens_one_owner_at_a_time_nothing_lost_nothing_backwards_and_soon_at_rest(operations):
    world = World()
    world.topics.create("first", 4)
    for kind, one, two in operations:
        act(world, kind, one, two)
        world.check()

    # All is quiet: those who are there renew and look, and nobody comes or goes.
    world.clock.pass_by(11)
    for slot in world.slots:
        world.ends[slot] += 2
    if not world.actors:
        world.join()
    for _ in range(3):
        for actor in world.actors:
            actor.renew()
            actor.look()
            world.check()
    owned = Counter(slot for actor in world.actors for slot in actor.positions)
    assert owned == Counter(world.slots)
    loads = [len(actor.positions) for actor in world.actors]
    assert max(loads) - min(loads) <= 1
    assert all(actor.settled for actor in world.actors)
    commits = world.book.commits
    for actor in world.actors:
        actor.look()
    assert world.book.commits == commits, "at rest, looking around changes nothing"
    for actor in world.actors:
        actor.receive(1 << 20)
        actor.commit()
    for slot in world.slots:
        assert world.book.offset(slot) == world.ends[slot]
        assert world.received[slot] == set(range(world.ends[slot]))


def act(world: World, kind: str, one: int, two: int) -> None:
    actors = world.actors
    if kind == "join" and len(actors) < 6:
        world.join()
    elif kind == "time":
        world.clock.pass_by(1 + one)
    elif kind == "long":
        # Whoever does not renew before the next step has stalled.
        world.clock.pass_by(11)
    elif kind == "append":
        for slot in world.slots[: one + 1]:
            world.ends[slot] += two
    elif kind == "topic" and len(world.topics.there) < 3:
        world.topics.create(f"topic-{one}", 1 + two % 4)
    elif kind == "delete" and len(world.topics.there) > 1:
        del world.topics.there[max(world.topics.there)]
        for group, name, partition in list(world.book.offsets):
            if name not in world.topics.there:
                # The log forgets a topic's offsets with it.
                del world.book.offsets[group, name, partition]
    elif actors:
        act_as(world, actors[one % len(actors)], kind, actors[two % len(actors)], two)


def act_as(world: World, actor: Actor, kind: str, other: Actor, number: int) -> None:
    if kind == "leave":
        actor.leave()
        world.actors.remove(actor)
    elif kind == "die":
        world.actors.remove(actor)
    elif kind == "raced":
        # Between what it reads and what it writes, others do something.
        if number > 5 and len(world.actors) < 6:
            world.book.before.append(lambda: world.join().look())
        elif other is not actor:
            world.book.before.append(other.commit if number % 2 else other.look)
        actor.look()
        world.book.before.clear()
    elif kind in ("renew", "look", "look_cut_short", "receive", "commit"):
        getattr(actor, kind)()


def test_what_was_reached_before_somebody_else_had_the_partition_counts_no_more():
    world = World()
    world.topics.create("t", 1)
    world.ends[1, 0] = 10
    slow = world.join()
    slow.look()
    slow.receive(5)
    world.clock.pass_by(11)
    quick = world.join()
    quick.look()
    quick.receive(8)
    quick.leave()
    world.actors.remove(quick)
    # It learns that it lost the partition, and takes it again; but what follows in this look fails.
    slow.look_cut_short()
    assert owners_of(world.book, GROUP) == {(1, 0): Owner(slow.registration.client.id, 3)}
    assert slow.membership.generation((1, 0)) in (None, 3)
    with pytest.raises(StaleLease, match="t/0"):
        slow.membership.commit_with(Aborted(), {(1, 0): Reached(5, 1)})
    slow.leave()
    assert world.book.offset((1, 0)) == 8


def test_a_stalled_member_that_comes_back_is_refused_and_what_it_did_is_received_again():
    world = World()
    world.topics.create("t", 1)
    world.ends[1, 0] = 10
    slow = world.join()
    slow.look()
    slow.receive(5)
    world.clock.pass_by(11)
    quick = world.join()
    quick.look()
    assert quick.positions == {(1, 0): 0}
    with pytest.raises(StaleLease, match="t/0 .* belongs to another consumer"):
        slow.membership.commit_with(Aborted(), {(1, 0): Reached(5, 1)})
    slow.commit()
    assert slow.positions == {}
    assert world.book.offsets == {}


class Aborted:
    def abort(self) -> None:
        pass


def test_an_owner_that_renews_in_the_last_moment_keeps_what_it_has():
    world = World()
    world.topics.create("t", 1)
    first = world.join()
    first.look()
    world.clock.pass_by(11)
    second = world.join()
    world.book.before.append(first.renew)
    second.look()
    assert second.positions == {}
    first.look()
    assert list(first.positions) == [(1, 0)]


def test_one_whose_lease_ended_keeps_what_nobody_took():
    world = World()
    world.topics.create("t", 2)
    actor = world.join()
    actor.look()
    world.clock.pass_by(11)
    commits = world.book.commits
    actor.look()
    assert len(actor.positions) == 2
    assert world.book.commits == commits, "nor was its record swept: it is its own to renew"


def test_who_owns_something_gives_it_up_by_itself_with_its_offsets_in_one_commit():
    world = World()
    world.topics.create("t", 2)
    world.ends[1, 0] = world.ends[1, 1] = 9
    first = world.join()
    first.look()
    first.receive(9)
    second = world.join()
    second.look()
    assert (second.positions, second.settled) == ({}, False)
    before = world.book.commits
    first.look()
    assert world.book.commits == before + 1
    second.look()
    assert list(second.positions.values()) == [9]
    assert second.settled


def test_two_that_want_everything_at_once_do_not_stop_each_other():
    world = World()
    world.topics.create("t", 8)
    one, two = world.join(), world.join()
    world.book.before.append(two.look)
    one.look()
    assert len(one.positions) == len(two.positions) == 4


def test_one_that_joins_between_a_look_and_a_claim_keeps_what_it_took():
    world = World()
    world.topics.create("t", 8)
    one = world.join()
    world.book.before.append(lambda: world.join().look())
    one.look()
    assert [len(actor.positions) for actor in world.actors] == [4, 4]
    assert not set(one.positions) & set(world.actors[1].positions)


def test_members_of_the_group_that_read_otherwise_get_nothing_of_the_balance():
    world = World()
    world.topics.create("t", 4)
    shared = Registration(
        world.book, Client(kind="subscriber", group=GROUP, reads="shared", interest=everything()), LEASE
    )
    shared.enter(world.clock.now())
    only = world.join()
    only.look()
    assert len(only.positions) == 4


def test_what_was_assigned_to_somebody_stays_there_while_it_lives():
    world = World()
    world.topics.create("t", 2)
    fixed = Registration(world.book, Client(kind="consumer", group=GROUP, reads="assigned"), LEASE)
    fixed.enter(world.clock.now())
    pinned = Membership(world.book, world.topics, GROUP, fixed.client.id)
    pinned.step(world.clock.now(), everything(), lambda slot: None, [("t", 1)])
    other = world.join()
    other.look()
    assert (list(other.positions), other.settled) == ([(1, 0)], True)
    pinned.leave(lambda slot: None)
    fixed.leave()
    other.look()
    assert sorted(other.positions) == [(1, 0), (1, 1)]


def test_a_topic_made_again_under_the_same_name_does_not_get_the_offsets_of_the_old_one():
    world = World()
    world.topics.create("t", 1)
    world.ends[1, 0] = 5
    actor = world.join()
    actor.look()
    actor.receive(5)
    del world.topics.there["t"]
    world.topics.create("t", 1)
    actor.commit()
    assert world.book.offsets == {}
    actor.look()
    assert list(actor.positions) == [(2, 0)]
    assert list(owners_of(world.book, GROUP)) == [(1, 0), (2, 0)] or list(owners_of(world.book, GROUP)) == [
        (2, 0)
    ]


def test_what_is_left_of_topics_deleted_while_nobody_was_there_is_swept_by_the_next_member():
    world = World()
    world.topics.create("t", 2)
    world.topics.create("kept", 1)
    first = world.join()
    first.look()
    first.leave()
    del world.topics.there["t"]
    world.topics.create("t", 1)
    next_one = world.join(Interest(("t",)))
    next_one.look()
    assert list(owners_of(world.book, GROUP)) == [(2, 0), (3, 0)]
    commits = world.book.commits
    next_one.look()
    assert world.book.commits == commits


def test_clients_whose_leases_ended_are_swept_by_whoever_looks():
    world = World()
    world.topics.create("t", 1)
    world.join()
    world.clock.pass_by(11)
    world.join().look()
    assert len(world.book.records(CLIENTS)) == 1
