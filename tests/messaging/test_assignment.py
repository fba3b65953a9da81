"""The balance of a group: complete, even, and with few changes of hands."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings, strategies as st

from mamba_stream.messaging.assignment import assign
from tests.sizes import examples

MEMBERS = st.sampled_from("abcdefgh")
PARTITIONS = st.dictionaries(st.integers(0, 5), st.integers(1, 12), min_size=1, max_size=5)
INTERESTS = st.dictionaries(MEMBERS, st.sets(st.integers(0, 5)), max_size=7)


def slots_of(partitions: dict[int, int]) -> list[tuple[int, int]]:
    return [(topic, partition) for topic, count in partitions.items() for partition in range(count)]


@st.composite
def situations(draw):
    partitions = draw(PARTITIONS)
    owners = {slot: draw(MEMBERS) for slot in slots_of(partitions) if draw(st.booleans())}
    return draw(INTERESTS), partitions, owners


@st.composite
def alike(draw):
    """Members of equal interests, some partitions, and a balance that they have reached."""
    partitions = draw(PARTITIONS)
    members = draw(st.sets(MEMBERS, min_size=1))
    interests = {member: set(partitions) for member in members}
    first = {slot: draw(MEMBERS) for slot in slots_of(partitions) if draw(st.booleans())}
    return interests, partitions, assign(interests, partitions, first)


@given(situations())
def test_every_partition_that_somebody_wants_has_one_owner_who_wants_it(situation):
    interests, partitions, owners = situation
    target = assign(interests, partitions, owners)
    wanted = {(t, p) for t, p in slots_of(partitions) if any(t in topics for topics in interests.values())}
    assert target.keys() == wanted
    assert all(topic in interests[member] for (topic, _), member in target.items())


@given(situations())
def test_nobody_has_two_more_than_another_who_could_take_one_of_them(situation):
    interests, partitions, owners = situation
    target = assign(interests, partitions, owners)
    loads = Counter(target.values())
    for (topic, _), member in target.items():
        for other, topics in interests.items():
            if topic in topics:
                assert loads[member] <= loads[other] + 1


@given(situations())
def test_what_was_assigned_stays_as_it_is(situation):
    interests, partitions, owners = situation
    target = assign(interests, partitions, owners)
    assert assign(interests, partitions, target) == target


@given(situations(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_told_makes_no_difference(situation, random):
    interests, partitions, owners = situation

    def shuffled(mapping):
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    told = assign(shuffled(interests), shuffled(partitions), shuffled(owners))
    assert told == assign(interests, partitions, owners)


@given(alike())
def test_members_of_equal_interests_differ_by_one_at_most(situation):
    interests, _, target = situation
    loads = Counter(target.values())
    assert max(loads[member] for member in interests) - min(loads[member] for member in interests) <= 1


@given(alike(), st.data())
def test_when_a_member_goes_only_its_own_partitions_move(situation, data):
    interests, partitions, target = situation
    gone = data.draw(st.sampled_from(sorted(interests)))
    left = {member: topics for member, topics in interests.items() if member != gone}
    after = assign(left, partitions, target)
    assert all(after[slot] == member for slot, member in target.items() if member != gone and left)


@given(alike())
def test_when_a_member_comes_only_its_share_moves_and_all_of_it_to_it(situation):
    interests, partitions, target = situation
    after = assign({**interests, "new": set(partitions)}, partitions, target)
    moved = {slot for slot, member in after.items() if target[slot] != member}
    assert {after[slot] for slot in moved} <= {"new"}
    assert len(moved) == len(target) // (len(interests) + 1)


@settings(max_examples=examples(25))
@given(situations(), st.data())
def test_partitions_that_go_one_by_one_end_up_as_planned_evenly(situation, data):
    """Whoever looks in between sees only part of it, and still nothing goes round in circles."""
    interests, partitions, owners = situation
    owners = {slot: member for slot, member in owners.items() if member in interests}
    for _ in range(400):
        target = assign(interests, partitions, owners)
        steps = [slot for slot in target.keys() | owners.keys() if owners.get(slot) != target.get(slot)]
        if not steps:
            return
        slot = data.draw(st.sampled_from(sorted(steps)))
        if slot in owners:
            del owners[slot]
        else:
            owners[slot] = target[slot]
    raise AssertionError("it never comes to rest")


def test_ten_thousand_partitions_are_divided_while_a_heartbeat_waits():
    partitions = dict.fromkeys(range(2_500), 4)
    interests = {f"m{number:03}": set(partitions) for number in range(100)}
    target = assign(interests, partitions, {})
    assert set(Counter(target.values()).values()) == {100}
