"""A real server with users: every action by every wrong credential, and everything a user may do over the network."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

import mamba_stream as mamba
from mamba_stream.core.changes import AlterTopic, ChangeSet, CreateTopic, Forget, Record, TopicSettings
from mamba_stream.core.schemas import canonical_schema, schema_bytes
from mamba_stream.errors import NotAuthenticated, NotAuthorized, TopicNotFound
from mamba_stream.log import Log
from mamba_stream.log.opening import storage_of
from mamba_stream.log.remote import protocol
from mamba_stream.log.remote.intake import encoded
from mamba_stream.server.access import Entry
from mamba_stream.server.actions import ACTIONS
from mamba_stream.server.audit import TOPIC, Audit, audit_topic
from mamba_stream.server.creators import CREATORS, Creators
from mamba_stream.server.guard import Guard
from mamba_stream.server.limits import Limits
from mamba_stream.server.quotas import Quota
from mamba_stream.server.service import FlightService
from mamba_stream.server.userfile import change_users
from mamba_stream.server.users import User, new_token
from tests.server.running import until


class Served:
    """A server, its users, and clients of it."""

    def __init__(self, log, users_file, limits=None):
        self.log = log
        self._users_file = users_file
        change_users(users_file, lambda users: None)
        self.audit = Audit(audit_topic(log), log._shared.clock, every=0.05)
        self.guard = Guard(users_file, audit=self.audit, made=Creators(log._shared).count)
        self.service = FlightService(log._shared, gate=self.guard, limits=limits)
        self.left = contextlib.ExitStack()

    def user(self, name, *lines, quota=None):
        """Makes a user; a token."""
        entries = []
        for line in lines:
            effect, operations, kind, *name_ = line.split(" ")
            entries.append(Entry(effect, tuple(operations.split(",")), kind, *name_))
        text, token = new_token(1_700_000_000_000_000)

        def change(users):
            users[name] = User(name, (token,), access=tuple(entries), quota=quota or Quota())

        change_users(self._users_file, change)
        assert self.guard.reload()
        return text

    def open(self, name, *lines, quota=None) -> Log:
        """The log as a new user has it."""
        shown = {"MAMBA_STREAM_TOKEN": self.user(name, *lines, quota=quota)}
        return self.left.enter_context(Log(storage_of(f"localhost:{self.service.port}", shown)))

    def call(self, token, make):
        """What a plain Flight client gets that shows this; the answer, or our error's name."""
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        with flight.connect(f"grpc://localhost:{self.service.port}") as client:
            try:
                return make(client, flight.FlightCallOptions(timeout=10, headers=headers))
            except (flight.FlightError, pa.ArrowException) as error:
                return msgspec.msgpack.decode(error.extra_info, type=protocol.Failure).code


@pytest.fixture
def served(log, users_file):
    log.create_topic("orders", {"n": pl.Int64}).append({"n": [1, 2, 3]})
    log.create_topic("hidden", {"n": pl.Int64})
    with log.transaction() as tx:
        tx.put_record("shop/money", "ann", b"1")
    made = Served(log, users_file)
    yield made
    made.left.close()
    made.service.shutdown()
    made.audit.close()


def creation(name):
    return CreateTopic(
        name, 1, (), None, "none", schema_bytes(canonical_schema({"n": pl.Int64})), internal=False, created=0
    )


def requests(log):
    """One for each action, about things that exist and that a user without rules may not see."""
    number = log["orders"].number
    record = ChangeSet(records=(Record("shop/money", "ann", b"2"),))
    return {
        "hello": protocol.Hello(protocol.VERSION),
        "topics": protocol.ListTopics(internal=True),
        "topic": protocol.Named("orders"),
        "schema": protocol.Numbered(log["orders"]._row.schema),
        "numbered": protocol.Numbered(number),
        "heads": protocol.AskHeads(number),
        "all_heads": protocol.ListTopics(internal=True),
        "offsets_at": protocol.AskOffsetsAt(number, 0, "append"),
        "describe": protocol.Numbered(number),
        "groups": protocol.Nothing(),
        "group_offsets": protocol.AskGroup("mailers"),
        "record": protocol.AskRecord("shop/money", "ann"),
        "records": protocol.AskRecords("shop/money"),
        "namespaces": protocol.Prefix(),
        "lsn": protocol.Nothing(),
        "wait": protocol.AskWait(0, 0.0),
        "rows": protocol.Read(topic=number),
        "together": protocol.Together(
            [protocol.Asked("heads", msgspec.Raw(msgspec.msgpack.encode(protocol.AskHeads(number))))]
        ),
        "settle": protocol.Nothing(),
        "flush": protocol.Nothing(),
        "seal": protocol.Nothing(),
        "maintain": protocol.Maintain(),
        "scrub": protocol.Scrub(),
        "statistics": protocol.Nothing(),
        "commit": protocol.Commit(record),
        "goodbye": protocol.Goodbye("theirs", (Forget(number, "theirs/1"),)),
        "lock_holder": protocol.LockName("jobs", "etl"),
    }


FREE = {
    "hello",
    "topics",
    "numbered",
    "all_heads",
    "groups",
    "group_offsets",
    "namespaces",
    "lsn",
    "wait",
    "together",
    "settle",
    "flush",
}
"""For everybody who is known: what they list is what the caller may see, and the rest says nothing of what is stored."""
EMPTY = {"topics": [], "all_heads": [], "groups": [], "group_offsets": []}


def other_calls(log):
    """Everything that is no action."""
    path = flight.FlightDescriptor.for_path("orders")
    rows = pa.record_batch({"n": pa.array([9], pa.int64())})
    ticket = flight.Ticket(msgspec.msgpack.encode(protocol.Read(topic=log["orders"].number)))

    def write(client, options):
        writer, _ = client.do_put(path, rows.schema, options)
        with writer:
            writer.write_batch(rows)

    def exchange(request):
        def call(client, options):
            command = flight.FlightDescriptor.for_command(msgspec.msgpack.encode(request))
            writer, reader = client.do_exchange(command, options)
            with writer:
                return reader.read_chunk().app_metadata

        return call

    def pieces(client, options):
        command = protocol.encode(protocol.Exchange(pieces=protocol.Pieces()))
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command), options)
        data = memoryview(encoded([rows], rows.schema))
        try:
            for part in (
                protocol.Part(protocol.Rows(log["orders"].number, data)),
                protocol.Part(commit=protocol.Commit(ChangeSet())),
            ):
                writer.write_metadata(protocol.encode(part))
            writer.done_writing()
        except pa.ArrowException:
            # Why not is told to who reads.
            pass
        return reader.read_chunk().app_metadata

    return {
        "read": lambda client, options: client.do_get(ticket, options).read_all(),
        "read by name": lambda client, options: client.do_get(flight.Ticket(b"orders"), options).read_all(),
        "write": write,
        "lock": exchange(protocol.Exchange(lock=protocol.LockName("jobs", "etl"))),
        "get_flight_info": lambda client, options: client.get_flight_info(path, options),
        "pieces": pieces,
    }


@pytest.mark.parametrize("wrong", ["none", "empty", "unknown", "revoked", "expired", "another's secret"])
def test_every_call_by_every_wrong_credential_is_refused_alike(served, wrong):
    right, other = served.user("ann", "allow all topic *", "allow all log"), served.user("bob")
    swapped = right.rpartition("_")[0] + "_" + other.rpartition("_")[2]
    shown = {"none": None, "empty": "", "unknown": new_token(0)[0], "another's secret": swapped}
    if wrong == "revoked":
        shown[wrong] = right
        served.user("ann", "allow all topic *")
    if wrong == "expired":
        shown[wrong], token = new_token(0, timedelta(seconds=1))
        change_users(served._users_file, lambda users: users.update(old=User("old", (token,))))
        assert served.guard.reload()
    made = requests(served.log)
    # An action that is new joins this table.
    assert made.keys() == ACTIONS.keys()
    calls = {
        **{
            name: lambda client, options, name=name, request=request: [
                *client.do_action(flight.Action(name, msgspec.msgpack.encode(request)), options)
            ]
            for name, request in made.items()
        },
        "an action that is none": lambda client, options: [
            *client.do_action(flight.Action("none", b""), options)
        ],
        "list_actions": lambda client, options: client.list_actions(options),
        "list_flights": lambda client, options: [*client.list_flights(options=options)],
        **other_calls(served.log),
    }
    for name, call in calls.items():
        assert served.call(shown[wrong], call) == "NotAuthenticated", name
    assert served.log.record("shop/money", "ann") == b"1" and served.log.topics() == ["hidden", "orders"]
    assert served.log["orders"].offsets() == {0: (0, 3)}


def test_every_call_by_a_user_without_rules_is_refused_or_tells_nothing(served):
    token = served.user("eve")

    def ask(name, request):
        def call(client, options):
            [result] = client.do_action(flight.Action(name, msgspec.msgpack.encode(request)), options)
            return msgspec.msgpack.decode(result.body.to_pybytes())

        return served.call(token, call)

    for name, request in requests(served.log).items():
        answer = ask(name, request)
        if name not in FREE:
            assert answer == "NotAuthorized", name
        else:
            assert answer not in ("NotAuthorized", "Internal"), name
            assert answer == EMPTY.get(name, answer), name
    assert ask("namespaces", protocol.Prefix("shop")) == []
    for name, call in other_calls(served.log).items():
        assert served.call(token, call) == "NotAuthorized", name
    assert served.call(token, lambda client, options: [*client.list_flights(options=options)]) == []
    # Whether a topic is there or not is not told apart.
    for name in ("orders", "not-there", "_audit", "_state.etl", ""):
        assert ask("topic", protocol.Named(name)) == "NotAuthorized"
        path = flight.FlightDescriptor.for_path(name)
        for call in (
            lambda client, options, name=name: client.do_get(
                flight.Ticket(msgspec.msgpack.encode(protocol.Read(name=name))), options
            ).read_all(),
            lambda client, options, path=path: client.get_flight_info(path, options),
            lambda client, options, path=path: client.do_put(path, pa.schema([]), options)[0].close(),
        ):
            assert served.call(token, call) == "NotAuthorized", name
    hidden = served.log["hidden"].number
    for number in (hidden, 10_000, -1, 1 << 40):
        for action, request in (
            ("commit", protocol.Commit(ChangeSet(drops=(number,)))),
            ("commit", protocol.Commit(ChangeSet(ends=(number,)))),
            (
                "commit",
                protocol.Commit(
                    ChangeSet(alters=(AlterTopic(number, TopicSettings(), TopicSettings(retention=1)),))
                ),
            ),
        ):
            assert ask(action, request) == ("NotAuthorized" if number == hidden else "TopicNotFound"), number
    for space, key in (("clients", "x" * 600), ("x" * 600, "k"), ("", ""), ("a\0b", "k"), ("clients", "")):
        assert ask("record", protocol.AskRecord(space, key)) in ("NotAuthorized", "InvalidInput"), (
            space[:9],
            key[:9],
        )
    assert (
        ask("commit", protocol.Commit(ChangeSet(records=(Record(CREATORS, "orders", b"eve"),))))
        == "NotAuthorized"
    )
    served.audit.flush()
    rows = served.log[TOPIC].scan().collect().filter(pl.col("user") == "eve")
    assert {*rows["outcome"]} == {"denied"} and {*rows["code"]} == {"NotAuthorized"}


def test_producers_consumers_subscribers_and_jobs_work_under_rules_for_topics_and_groups(served):
    admin = served.open("admin", "allow create,describe topic mails")
    with mamba.Producer(admin) as producer:
        producer.create_topic("mails", partitions=2)
    sender = served.open("sender", "allow write topic mails")
    with mamba.Producer(sender) as producer:
        producer.send_many("mails", [f"mail {n}" for n in range(100)])
    reader = served.open(
        "reader", "allow read topic mails", "allow read group readers", "allow read group mailers"
    )
    with mamba.Consumer(reader, group="readers") as consumer:
        consumer.subscribe("mails")
        assert sum(1 for _ in consumer.consume(until="empty")) == 100
    taken = []
    with mamba.Subscriber("mails", reader, group="mailers", start="earliest") as subscriber:
        subscriber.subscribe(lambda message: taken.append(message.value))
        subscriber.run(until="empty")
    assert len(taken) == 100
    runner = served.open(
        "runner", "allow read topic orders", "allow create,write topic doubled", "allow read group job.etl*"
    )
    pipeline = mamba.pipeline("etl", mamba.stream("orders").with_columns(m=pl.col("n") * 2).to("doubled"))
    mamba.run(pipeline, log=runner, until="now")
    assert sorted(served.log["doubled"].scan().collect()["m"]) == [2, 4, 6]
    for log, attempt in (
        (sender, lambda log: [*log["mails"].read()]),
        (reader, lambda log: mamba.Producer(log).send("mails", "x").result(10)),
        (runner, lambda log: log.delete_topic("doubled")),
    ):
        with pytest.raises(NotAuthorized):
            attempt(log)


def test_what_is_seen_of_a_log_is_what_the_rules_show(served):
    log = served.open("ann", "allow read topic orders")
    assert log.topics() == log.topics(internal=True) == ["orders"]
    assert {name for name, _ in log.heads(internal=True)} == {"orders"}
    assert log["orders"].scan().collect()["n"].to_list() == [1, 2, 3]
    assert log.namespaces() == []
    admin = served.open("root", "allow admin,describe log", "allow all topic *")
    assert TOPIC in admin.topics(internal=True)
    with pytest.raises(TopicNotFound):
        admin["not-there"]
    [record] = admin.records("shop/money").items()
    assert record == ("ann", b"1")


def test_a_reader_whose_right_or_token_goes_gets_no_more(served):
    topic = served.log["orders"]
    for _ in range(30):
        topic.append({"n": [0] * 400_000})
    token = served.user("ann", "allow read topic orders")

    def read(then):
        def call(client, options):
            reader = client.do_get(flight.Ticket(b"orders"), options)
            rows = reader.read_chunk().data.num_rows
            then()
            for chunk in reader:
                rows += chunk.data.num_rows
            return rows

        return call

    assert served.call(token, read(lambda: None)) == 12_000_003
    assert (
        served.call(token, read(lambda: served.user("ann", "allow read topic orders"))) == "NotAuthenticated"
    )


def _held(served, token):
    """A lock that a plain client holds, and its two sides."""
    command = protocol.encode(protocol.Exchange(lock=protocol.TakeLock("jobs", "nightly", "ann")))
    headers = [(b"authorization", f"Bearer {token}".encode())]
    client = flight.connect(f"grpc://localhost:{served.service.port}")
    writer, reader = client.do_exchange(
        flight.FlightDescriptor.for_command(command), flight.FlightCallOptions(headers=headers)
    )
    assert protocol.decode(reader.read_chunk().app_metadata, bool) is True
    return client, writer, reader


@pytest.mark.parametrize("lost", ["token", "right"])
def test_a_lock_is_let_go_when_the_right_to_it_or_the_token_goes(served, lost):
    token = served.user("ann", "allow read group job.nightly")
    _client, writer, reader = _held(served, token)
    assert served.log._shared.lock("jobs", "nightly") is None
    if lost == "token":
        served.user("ann", "allow read group job.nightly")
    else:
        change_users(
            served._users_file,
            lambda users: users.update(ann=msgspec.structs.replace(users["ann"], access=())),
        )
    # Without waiting for the client, which only hears of it.
    while (other := served.log._shared.lock("jobs", "nightly")) is None:
        pass
    other.release()
    while protocol.decode(reader.read_chunk().app_metadata, bool):
        pass
    writer.done_writing()
    with pytest.raises((flight.FlightUnauthenticatedError, flight.FlightUnauthorizedError)):
        reader.read_chunk()


def test_a_client_of_ours_whose_token_is_revoked_loses_its_lock_and_who_waits_hears_of_it(served):
    log = served.open("ann", "allow read group job.nightly", "allow read topic orders")
    lock = log._shared.lock("jobs", "nightly")
    caught = []

    def wait():
        try:
            log.wait(1 << 40, 300.0)
        except NotAuthenticated as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: served.service.figures.active >= 2, "the lock and the wait")
    served.user("ann", "allow read group job.nightly")
    assert lock.gone.wait(60)
    waiting.join(60)
    assert len(caught) == 1
    until(lambda: not served.service.figures.active, "the end of all calls")


@pytest.mark.parametrize("call", ["watch", "wait"])
def test_whoever_waits_for_commits_is_sent_away_when_the_token_goes(served, call):
    token = served.user("ann", "allow read topic orders")
    began = threading.Event()

    def revoke():
        assert began.wait(60)
        until(lambda: served.service.figures.active, "the wait")
        served.user("ann", "allow read topic orders")

    revoking = threading.Thread(target=revoke)
    revoking.start()

    def wait(client, options):
        # Longer than the test may take.
        options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
        began.set()
        if call == "wait":
            body = protocol.encode(protocol.AskWait(1 << 40, 60.0))
            return [*client.do_action(flight.Action("wait", body), options)]
        command = protocol.encode(protocol.Exchange(watch=protocol.Watch(0)))
        _, reader = client.do_exchange(flight.FlightDescriptor.for_command(command), options)
        while True:
            reader.read_chunk()

    assert served.call(token, wait) == "NotAuthenticated"
    revoking.join(60)


def test_a_quota_slows_down_and_loses_nothing(served):
    log = served.open("ann", "allow read,write topic orders", quota=Quota(sent=600_000, received=600_000))
    for _ in range(5):
        log["orders"].append({"n": [7] * 50_000})
    assert log["orders"].scan().collect().height == 250_003
    assert served.guard.statistics().throttled > 0


def test_topics_are_counted_by_who_made_them(served):
    log = served.open("ann", "allow create,delete topic ann.*", quota=Quota(topics=2))
    for name in ("ann.a", "ann.b"):
        log.create_topic(name, {"n": pl.Int64})
    log.create_topic("ann.a", {"n": pl.Int64}, exist_ok=True)

    def create(client, options):
        request = protocol.Commit(ChangeSet(creates=(creation("ann.c"),)))
        return [*client.do_action(flight.Action("commit", msgspec.msgpack.encode(request)), options)]

    assert served.call(log._shared._connection._credentials.token, create) == "QuotaExceeded"
    assert "ann.c" not in served.log
    log.delete_topic("ann.a")
    log.create_topic("ann.c", {"n": pl.Int64})
    assert served.log.records(CREATORS) == {"ann.b": b"ann", "ann.c": b"ann"}


def test_no_call_tells_of_the_server_s_inside(served):
    said = []
    path = flight.FlightDescriptor.for_path("not-there")
    with flight.connect(f"grpc://localhost:{served.service.port}") as client:
        for call in (
            lambda: client.get_schema(path),
            lambda: client.get_flight_info(path),
            lambda: [*client.list_flights()],
            lambda: client.list_actions(),
            lambda: [*client.do_action(flight.Action("hello", b"\xc1"))],
            lambda: client.do_get(flight.Ticket(b"\xff")).read_all(),
            lambda: client.do_put(path, pa.schema([]))[0].close(),
            lambda: client.do_exchange(path)[1].read_chunk(),
        ):
            with pytest.raises(Exception) as caught:
                call()
            said.append(str(caught.value))
    assert not [text for text in said if "Traceback" in text or ".py" in text or "/" in text]


def test_no_user_takes_the_places_of_all(log, users_file):
    served = Served(log, users_file, Limits(most_streams=8, most_streams_of_user=3))
    ann, bob = served.user("ann", "allow read topic orders"), served.user("bob")
    watch = flight.FlightDescriptor.for_command(
        msgspec.msgpack.encode(protocol.Exchange(watch=protocol.Watch(0)))
    )

    def hello(client, options):
        body = msgspec.msgpack.encode(protocol.Hello(protocol.VERSION))
        return len([*client.do_action(flight.Action("hello", body), options)])

    client = flight.connect(f"grpc://localhost:{served.service.port}")
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {ann}".encode())])
    watching = [client.do_exchange(watch, options) for _ in range(3)]
    for _, reader in watching:
        assert reader.read_chunk().app_metadata is not None
    assert served.call(ann, hello) == "QuotaExceeded"
    assert served.call(bob, hello) == 1
    for _, reader in watching:
        reader.cancel()
    # The server notices that they are over.
    with served.service._changed:
        assert served.service._changed.wait_for(lambda: not served.service.figures.active, 30)
    assert served.call(ann, hello) == 1
    served.left.close()
    served.service.shutdown()
    served.audit.close()


def test_who_shows_nothing_is_told_what_to_do(served):
    with pytest.raises(NotAuthenticated, match="mamba-stream user token new NAME"):
        mamba.open(f"localhost:{served.service.port}")
