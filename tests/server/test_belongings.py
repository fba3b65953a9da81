"""Rules for topics and groups are enough for all that messaging and jobs do, and no rule gives more than it says."""

from __future__ import annotations

import itertools

import msgspec
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.changes import (
    AlterTopic,
    Append,
    ChangeSet,
    CreateTopic,
    Forget,
    GroupOffset,
    Record,
    Sequence,
    TopicSettings,
    Trim,
)
from mamba_stream.errors import NotAuthorized, NotFound, TopicNotFound
from mamba_stream.server.belongings import EVERYBODY, Belongings, of_internal_topic
from mamba_stream.server.catalog import Catalog
from mamba_stream.server.gate import Need
from mamba_stream.server.lookup import StorageLookup
from tests.server.clocks import HandClock
from tests.server.fence import fenced

TOPICS = {1: "orders", 2: "emails"}
ADMIN = Need("admin", "log")


class Book:
    """A log that holds two topics and these records."""

    def __init__(self, records=None):
        self.records = records or {}

    def topic_name(self, number):
        return TOPICS.get(number)

    def record(self, namespace, key):
        return self.records.get((namespace, key))


def needs(act, namespace, key="", value=None, records=None, clock=None):
    return {*Belongings(Book(records), clock or HandClock()).record(act, namespace, key, value)}


def group(operation, name="mailers"):
    return Need(operation, "group", name)


def topic(operation, name="orders"):
    return Need(operation, "topic", name)


@pytest.mark.parametrize(
    ("namespace", "key", "read", "write", "delete"),
    [
        ("owners/mailers", "1/0", {group("describe")}, {group("read")}, {group("read")}),
        ("cursor/mailers/1", "0.0", {topic("describe")}, {group("read"), topic("read")}, {group("read"), topic("read")}),
        ("pending/mailers/1", "x", {topic("describe")}, {group("read"), topic("read")}, {group("read"), topic("read")}),
        # The topic is gone.
        ("pending/mailers/9", "x", {group("describe")}, {group("read")}, {group("read")}),
        ("groups/1", "mailers", {topic("describe")}, {group("read"), topic("read")}, {group("read"), topic("read")}),
        ("groups/9", "mailers", set(), {group("read"), ADMIN}, {group("read")}),
        ("letters/2", "0/0", {topic("describe", "emails")}, {topic("delete", "emails")}, {topic("delete", "emails")}),
        ("letters/9", "0/0", set(), {ADMIN}, set()),
        ("priorities", "1", {topic("describe")}, {topic("write")}, {topic("write")}),
        ("priorities", "9", set(), {ADMIN}, set()),
        ("bounds", "1", {topic("describe")}, {topic("create")}, {topic("create")}),
        ("bounds", "1.turn", {topic("describe")}, {topic("write")}, {topic("write")}),
        ("bounds", "9", set(), {ADMIN}, set()),
        ("bounds", "9.turn", set(), {ADMIN}, set()),
        ("jobs", "etl", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("delete", "job.etl")}),
        ("jobs", "", {ADMIN}, {ADMIN}, {ADMIN}),
        ("jobs.outputs", "etl/x", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("delete", "job.etl")}),
        ("jobs.savepoints", "etl/x", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("delete", "job.etl")}),
        ("jobs.tasks/etl", "0/1", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("read", "job.etl")}),
        ("jobs.requests/etl", "a1", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("read", "job.etl")}),
        ("jobs.answers/etl", "a1/0000", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("read", "job.etl")}),
        ("jobs.journal/etl", "017", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("read", "job.etl")}),
        ("jobs.kept/etl", "x/0/1", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("delete", "job.etl")}),
        ("jobs.resets", "etl", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("read", "job.etl")}),
        ("jobs.runs", "etl", {group("describe", "job.etl")}, {group("read", "job.etl")}, {group("read", "job.etl")}),
        ("sessions", "next", set(), set(), set()),
        ("server.topics", "orders", {ADMIN}, {ADMIN}, {ADMIN}),
    ],
)  # fmt: skip
def test_the_books_of_the_engine_take_this(namespace, key, read, write, delete):
    assert needs("read", namespace, key) == read
    assert needs("write", namespace, key, b"") == write
    assert needs("delete", namespace, key) == delete


@pytest.mark.parametrize(
    "namespace",
    [
        "shop/money",
        "owners",
        "owners/",
        "cursor/g",
        "pending",
        "groups",
        "letters/",
        "sessions2",
        "jobs.other",
        "Jobs",
        "x",
    ],
)
@pytest.mark.parametrize("act", ["read", "write", "delete"])
def test_any_other_namespace_is_the_users_own(act, namespace):
    assert needs(act, namespace, "key", b"") == {Need(act, "namespace", namespace)}
    assert needs(act, "sessions", "other", b"") == {Need(act, "namespace", "sessions")}


def client(group="", until=0, lease=10_000_000, **more):
    return msgspec.msgpack.encode(
        {"kind": "consumer", "group": group, "until": until, "lease": lease, **more}
    )


def test_a_client_belongs_to_its_group_until_its_lease_is_over():
    clock = HandClock()
    alive, over = client("a", clock.now() + 10_000_000), client("a", clock.now() - 1)
    late = client("a", clock.now() + 60_000_000)
    place = ("clients", "00000001")
    assert needs("write", *place, client("a"), {}, clock) == {group("read", "a")}
    assert needs("write", *place, client(""), {}, clock) == set()
    # A record that is there is its group's, whatever is to take its place.
    assert needs("write", *place, client(""), {place: alive}, clock) == {group("read", "a")}
    assert needs("write", *place, client("b"), {place: alive}, clock) == {
        group("read", "a"),
        group("read", "b"),
    }
    assert needs("delete", *place, None, {place: alive}, clock) == {group("read", "a")}
    assert needs("read", *place, None, {place: alive}, clock) == {group("describe", "a")}
    assert needs("read", *place, None, {place: client("")}, clock) == {Need("describe", "log")}
    for stored in (over, late):
        assert needs("delete", *place, None, {place: stored}, clock) == {*EVERYBODY}
        assert needs("write", *place, client("b"), {place: stored}, clock) == {
            group("read", "a"),
            group("read", "b"),
        }
    assert needs("write", *place, b"\xc1 no msgpack", {}, clock) == set()


def test_a_session_is_taken_only_by_counting_on():
    place = ("sessions", "next")
    belongings = Belongings(Book(), HandClock())

    def taken(before, after):
        requires = () if before is ... else (Record(*place, before),)
        return belongings.changed(ChangeSet(records=(Record(*place, after),), requires=requires))

    assert taken(None, b"2") == taken(b"7", b"8") == []
    for wrong in (
        (..., b"8"),
        (b"7", b"7"),
        (b"7", b"1"),
        (b"7", b"9"),
        (b"7", b""),
        (b"x", b"8"),
        (b"7", None),
        (b"9" * 400, b"1"),
    ):
        assert taken(*wrong) == [ADMIN], wrong


def test_a_change_set_needs_all_that_it_does():
    belongings = Belongings(Book({("bounds", "2"): b"bounded"}), HandClock())
    create = CreateTopic("fresh", 1, (), None, "none", b"", internal=False, created=0)
    append = Append(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    change = ChangeSet(
        creates=(create,),
        drops=(2,),
        appends=(append, append),
        sequences=(Sequence(2, "p", 1),),
        ends=(1,),
        trims=(Trim(1, 0, 5), Trim(2, 0, 5)),
        offsets=(GroupOffset("mailers", 1, 0, 5), GroupOffset("other", 1, 0, None)),
        records=(Record("shop/money", "ann", b"1"), Record("shop/old", "ann", None)),
        requires=(Record("shop/stock", "ann", None), Record("owners/mailers", "1/0", b"")),
        forgets=(Forget(1, "p"), Forget(9, "p")),
        alters=(AlterTopic(2, TopicSettings(), TopicSettings(retention=1)),),
    )
    assert belongings.changed(change) == [
        Need("create", "topic", "fresh"),
        topic("delete", "emails"),
        topic("write"),
        topic("write", "emails"),
        topic("admin", "emails"),
        topic("admin"),
        topic("delete"),
        group("read"),
        topic("read"),
        group("delete", "other"),
        Need("write", "namespace", "shop/money"),
        Need("delete", "namespace", "shop/old"),
        Need("read", "namespace", "shop/stock"),
        group("describe"),
    ]
    assert belongings.changed(ChangeSet()) == []
    for nowhere in (
        ChangeSet(drops=(9,)),
        ChangeSet(ends=(9,)),
        ChangeSet(trims=(Trim(9, 0, 5),)),
        ChangeSet(sequences=(Sequence(9, "p", 1),)),
        ChangeSet(alters=(AlterTopic(9, TopicSettings(), TopicSettings()),)),
    ):
        with pytest.raises(TopicNotFound, match="no topic has the number 9"):
            belongings.changed(nowhere)


TEXTS = [
    "",
    "next",
    "1",
    "2",
    "9",
    "9.turn",
    "1.turn",
    "mailers",
    "etl",
    "etl/x",
    "0/0",
    "-1",
    "1_0",
    "\u0661",
    "x" * 300,
]
WHOLE = [
    "clients",
    "sessions",
    "jobs",
    "jobs.outputs",
    "jobs.resets",
    "jobs.runs",
    "jobs.savepoints",
    "bounds",
    "priorities",
    "server.topics",
]
PARTS = [
    "owners",
    "cursor",
    "pending",
    "groups",
    "letters",
    "jobs.tasks",
    "jobs.requests",
    "jobs.answers",
    "jobs.journal",
    "jobs.kept",
    "lock",
    "x",
]
SPACES = [*WHOLE, *TEXTS, *("/".join(parts) for parts in itertools.product(PARTS, TEXTS))]
SPACES += ["/".join(parts) for parts in itertools.product(["cursor", "pending"], ["mailers", ""], TEXTS)]


@pytest.mark.parametrize(
    "value", [None, b"", b"2", client(), client("mailers")], ids=["gone", "empty", "2", "client", "member"]
)
def test_what_needs_nothing_harms_nobody(value):
    clock = HandClock()
    belongings = Belongings(Book({("clients", "1"): client("mailers", clock.now() + 10_000_000)}), clock)
    free = [
        (space, key)
        for space, key in itertools.product(SPACES, TEXTS)
        if not belongings.changed(ChangeSet(records=(Record(space, key, value),)))
    ]
    # A client of no group may say of itself what it wants; what is left of topics that are gone may be swept.
    alone = {("clients", key) for key in TEXTS if key != "1" and value != client("mailers")}
    gone = [text for text in TEXTS if text not in ("1", "2")]
    swept = {("letters/" + text, key) for text in gone if text for key in TEXTS}
    swept |= {("priorities", text) for text in gone} | {("bounds", text) for text in gone if text != "1.turn"}
    assert {*free} == alone | (swept if value is None else set())


def test_every_field_of_a_change_set_is_looked_at():
    # One that is new must be given its needs, and a line above.
    assert {*ChangeSet.__struct_fields__} == {
        *(
            "creates",
            "drops",
            "appends",
            "sequences",
            "ends",
            "trims",
            "offsets",
            "records",
            "requires",
            "forgets",
            "alters",
            # Under a name that is the caller's own.
            "once",
            # It is whoever's rows they are that may be gone.
            "durability",
        )
    }


def test_topics_of_the_engines_own_are_the_jobs_or_the_logs():
    assert of_internal_topic(topic("write", "_state.etl")) == group("read", "job.etl")
    assert of_internal_topic(topic("delete", "_state.etl")) == group("read", "job.etl")
    assert of_internal_topic(topic("describe", "_state.etl")) == group("describe", "job.etl")
    assert of_internal_topic(topic("read", "_audit")) == ADMIN
    assert of_internal_topic(topic("describe", "_state.")) == ADMIN
    assert of_internal_topic(topic("read")) == topic("read")
    assert of_internal_topic(group("read", "_x")) == group("read", "_x")


def test_numbers_of_topics_are_known_until_they_are_deleted(log):
    lookup = StorageLookup(log._shared, Catalog(log._shared))
    number = log.create_topic("orders", {"n": pl.Int64}).number
    assert lookup.topic_name(number) == "orders"
    log.delete_topic("orders")
    assert lookup.topic_name(number) is None
    again = log.create_topic("orders", {"n": pl.Int64}).number
    assert again != number and lookup.topic_name(again) == "orders" and lookup.topic_name(number) is None


# With the engine itself.


def test_a_sender_and_a_receiver_need_rules_for_their_topic_and_group_only(log, as_user):
    with mamba.Producer(log) as producer:
        producer.create_topic("orders", partitions=2)
    mine = fenced(log, *as_user("sender", "allow write topic orders"))
    with mamba.Producer(mine) as producer:
        for n in range(20):
            producer.send("orders", f"order {n}", priority=n % 3)
    theirs = fenced(log, *as_user("receiver", "allow read topic orders", "allow read group mailers", "allow create,write topic orders.dead"))  # fmt: skip
    found = []

    def take(message):
        found.append(message.value)
        if message.value == "order 7":
            raise mamba.Reject("no")

    with mamba.Subscriber(
        "orders", theirs, group="mailers", start="earliest", dead_letter="orders.dead"
    ) as subscriber:
        subscriber.subscribe(take)
        subscriber.run(until="empty")
    assert sorted(found) == sorted(f"order {n}" for n in range(20))
    assert sum(end - begin for begin, end in log["orders.dead"].offsets().values()) == 1
    with (
        mamba.Consumer(theirs, group="mailers2") as consumer,
        pytest.raises(NotAuthorized, match="group 'mailers2'"),
    ):
        consumer.subscribe("orders")
        next(iter(consumer.consume(timeout="5s")))


def test_consumers_share_partitions_under_rules_for_topic_and_group(log, as_user):
    with mamba.Producer(log) as producer:
        producer.create_topic("orders", partitions=4)
        producer.send_many("orders", [f"order {n}" for n in range(50)])
    # A member of another group that died: who may see him sweeps him, and is not stopped by what he may not.
    with log.transaction() as tx:
        tx.put_record("clients", "0000ffff", client("other", 1))
    theirs = fenced(
        log,
        *as_user("reader", "allow read topic orders", "allow read group readers", "allow describe group *"),
    )
    with mamba.Consumer(theirs, group="readers") as consumer:
        consumer.subscribe("orders")
        found = [message.value for message in consumer.consume(until="empty")]
    assert sorted(found) == sorted(f"order {n}" for n in range(50))
    assert {*log.group_offsets("readers").values()} != {0}
    assert log.record("clients", "0000ffff") is None


def test_a_bounded_topic_counts_groups_that_its_sender_knows_nothing_of(log, as_user):
    with mamba.Producer(log) as producer:
        producer.create_topic("orders", partitions=1, max_messages=5, when_full="reject")
        producer.send_many("orders", ["old"] * 5)
        for name in ("slow", "fast"):
            with mamba.Consumer(log, group=name) as consumer:
                consumer.subscribe("orders")
                for count, _ in enumerate(consumer.consume(until="empty"), 1):
                    if name == "slow" and count == 2:
                        break
    mine = fenced(log, *as_user("sender", "allow write topic orders", "allow read group fast"))
    with mamba.Producer(mine) as producer:
        taken = 0
        try:
            for n in range(5):
                producer.send("orders", f"new {n}").result()
                taken += 1
        except mamba.QueueFull:
            pass
    begin, end = log["orders"].offsets()[0]
    slow = log.group_offsets("slow")["orders", 0]
    assert begin <= slow and taken == 5 - (5 - slow) and end == 5 + taken


def test_a_job_needs_rules_for_its_topics_and_its_name(log, as_user):
    log.create_topic("trades", {"n": pl.Int64}).append({"n": [1, 2, 3]})
    pipeline = mamba.pipeline("etl", mamba.stream("trades").with_columns(m=pl.col("n") * 2).to("doubled"))
    rules = [
        "allow read topic trades",
        "allow create,write topic doubled",
        "allow read group job.etl",
        "allow read group job.etl.*",
    ]
    mine = fenced(log, *as_user("runner", *rules))
    mamba.run(pipeline, log=mine, until="now")
    log["trades"].append({"n": [4]})
    mamba.run(pipeline, log=mine, until="now")
    assert sorted(log["doubled"].scan().collect()["m"]) == [2, 4, 6, 8]
    for missing in range(len(rules) - 1):
        less = fenced(log, *as_user("other", *(rule for n, rule in enumerate(rules) if n != missing)))
        log["trades"].append({"n": [5]})
        with pytest.raises((NotAuthorized, NotFound)):
            mamba.run(pipeline, log=less, until="now")


ATTEMPTS = {
    "append": lambda log: log["orders"].append([{"n": 1}]),
    "create": lambda log: log.create_topic("other", {"n": pl.Int64}),
    "drop": lambda log: log.delete_topic("orders"),
    "read": lambda log: [*log["orders"].read()],
    "own": lambda log: _record(log, "owners/mailers", "1/0"),
    "be a client": lambda log: _record(log, "clients", "00000001"),
    "run a job": lambda log: _record(log, "jobs", "etl"),
    "bind a topic": lambda log: _record(log, "bounds", "1"),
    "bind one to come": lambda log: _record(log, "bounds", "2"),
    "purge letters to come": lambda log: _record(log, "letters/77", "0/0"),
    "set sessions back": lambda log: _record(log, "sessions", "next"),
    "say who made a topic": lambda log: _record(log, "server.topics", "orders"),
    "write a record": lambda log: _record(log, "shop/money", "ann"),
    "read a record": lambda log: log.record("shop/money", "ann"),
    "read records": lambda log: log.records("shop/money"),
    "read who made topics": lambda log: log.records("server.topics"),
    "commit offsets": lambda log: _offsets(log),
    "lock a job": lambda log: log.lock("jobs", "etl"),
    "lock anything": lambda log: log.lock("other", "x"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_whoever_may_only_see_a_topic_may_do_nothing(log, as_user, attempt):
    log.create_topic("orders", {"n": pl.Int64})
    log.create_topic("hidden", {"n": pl.Int64})
    with log.transaction() as tx:
        tx.put_record("clients", "00000001", client("mailers", 1 << 62, lease=1 << 62))
    mine = fenced(log, *as_user("eve", "allow describe topic orders"))
    assert mine.topics() == ["orders"] and mine.records("clients") == {}
    before = log.lsn()
    with pytest.raises(NotAuthorized, match="user 'eve' may not"):
        attempt(mine)
    assert log.lsn() == before


def _record(log, namespace, key):
    with log.transaction() as tx:
        tx.put_record(namespace, key, client("eve"))


def _offsets(log):
    with log.transaction() as tx:
        tx.commit_offsets("mailers", {("orders", 0): 0})
