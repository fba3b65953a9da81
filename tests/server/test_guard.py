"""The guard: every credential by every operation, users that change while they are asked for, and nothing secret said."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from datetime import timedelta

import pytest

from mamba_stream.errors import InvalidInput, NotAuthenticated, NotAuthorized, QuotaExceeded
from mamba_stream.server.access import KINDS, OPERATIONS, Entry
from mamba_stream.server.gate import Caller, Gate, Need, OpenGate
from mamba_stream.server.guard import CertificateGate, Guard
from mamba_stream.server.quotas import Quota
from mamba_stream.server.userfile import change_users
from mamba_stream.server.users import User, new_token
from tests.server.clocks import HandClock

PEER = "ipv4:10.0.0.1:5000"


class Notes:
    """An audit that keeps everything in a list."""

    def __init__(self):
        self.events = []

    def note(self, **event):
        self.events.append(event)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def tokens(users_file, clock):
    """Users with everything that may be wrong with them; what they would show."""
    shown, kept = {}, {}
    for name, lifetime in (("ann", None), ("bob", None), ("old", timedelta(hours=1)), ("gone", None)):
        shown[name], kept[name] = new_token(clock.now(), lifetime)
    may = everything()

    def change(users):
        users["ann"] = User("ann", (kept["ann"],), ("ann.example.com",), access=may)
        users["bob"] = User("bob", (kept["bob"],), access=(Entry("allow", ("read",), "topic", "orders.*"),))
        users["old"] = User("old", (kept["old"],), access=may)
        users["root"] = User("root", access=may)

    change_users(users_file, change)
    return shown


def everything():
    return tuple(Entry("allow", ("all",), kind) for kind in KINDS)


def bearer(token):
    return {"authorization": [f"Bearer {token}"]}


def credentials(tokens):
    """What may be shown: (headers, the certificate's identity, who that is)."""
    _, foreign = new_token(0)
    other = tokens["ann"].rpartition("_")[0] + "_" + tokens["bob"].rpartition("_")[2]
    return {
        "nothing": ({}, "", None),
        "a token": (bearer(tokens["ann"]), "", "ann"),
        "a token of little": (bearer(tokens["bob"]), "", "bob"),
        "in lower case": ({"authorization": [f"bearer {tokens['ann']}"]}, "", "ann"),
        "an expired token": (bearer(tokens["old"]), "", None),
        "a token of nobody": (bearer(tokens["gone"]), "", None),
        "another's secret": (bearer(other), "", None),
        "half a token": (bearer(tokens["ann"][:-1]), "", None),
        "the hash": (bearer(foreign.sha256), "", None),
        "an empty token": (bearer(""), "", None),
        "no scheme": ({"authorization": [tokens["ann"]]}, "", None),
        "another scheme": ({"authorization": [f"Basic {tokens['ann']}"]}, "", None),
        "two tokens": ({"authorization": [f"Bearer {tokens['ann']}"] * 2}, "", None),
        "a header without values": ({"authorization": []}, "", None),
        "another header": ({"x-token": [tokens["ann"]]}, "", None),
        "a certificate": ({}, "ann.example.com", "ann"),
        "a foreign certificate": ({}, "eve.example.com", None),
        "a certificate and a token": (bearer(tokens["bob"]), "ann.example.com", "bob"),
        "a certificate and a wrong token": (bearer(tokens["gone"]), "ann.example.com", None),
        "a user's mere name": ({}, "root", None),
    }


def test_every_credential_by_every_operation(users_file, tokens, clock, notes):
    clock.move(7_200)
    guard: Gate = Guard(users_file, clock=clock, audit=notes)
    messages = set()
    allowed = {
        "ann": lambda need: True,
        "bob": lambda need: need.kind == "topic" and need.operation in ("read", "describe"),
    }
    for what, (headers, certificate, who) in credentials(tokens).items():
        if who is None:
            with pytest.raises(NotAuthenticated) as caught:
                guard.admit(headers, PEER, certificate)
            messages.add(str(caught.value))
            continue
        caller = guard.admit(headers, PEER, certificate)
        assert (caller.name, caller.peer) == (who, PEER), what
        for operation, kind in itertools.product(OPERATIONS, KINDS):
            need = Need(operation, kind, "" if kind == "log" else "orders.eu")
            if allowed[who](need):
                guard.check(caller, [need])
            else:
                with pytest.raises(NotAuthorized):
                    guard.check(caller, [need])
    # Whoever is not known learns nothing of why.
    assert len(messages) == 1
    reasons = {event["code"] for event in notes.events if event["code"].startswith("NotAuthenticated")}
    assert reasons == {f"NotAuthenticated:{why}" for why in ("missing", "malformed", "unknown", "expired")}


def test_nothing_secret_is_said_anywhere(users_file, tokens, clock, notes, caplog):
    caplog.set_level(logging.DEBUG)
    guard = Guard(users_file, clock=clock, audit=notes)
    said = []
    for headers, certificate, _ in credentials(tokens).values():
        try:
            caller = guard.admit(headers, PEER, certificate)
            said += [repr(caller), str(caller)]
            guard.check(caller, [Need("admin", "topic", "x")])
        except (NotAuthenticated, NotAuthorized) as error:
            said += [str(error), repr(error)]
    users_file.write_text("{")
    guard.reload()
    said += [repr(guard), repr(guard._roster.users), str(notes.events), caplog.text]
    hashes = [token.sha256 for user in guard._roster.users.values() for token in user.tokens]
    for text in said:
        for token in tokens.values():
            assert token.rpartition("_")[2] not in text
        assert not any(each in text for each in hashes)


def test_a_refusal_says_what_and_how_it_would_be_allowed(users_file, tokens, clock):
    guard = Guard(users_file, clock=clock)
    bob = guard.admit(bearer(tokens["bob"]), PEER, "")
    for need, says in (
        (
            Need("write", "topic", "orders.eu"),
            "may not write topic 'orders.eu'; .* allow bob write --topic orders.eu",
        ),
        (Need("admin", "log"), "may not administer the log; .* allow bob admin --whole-log"),
        (
            Need("write", "topic", "_state.etl"),
            "'_state.etl', which takes read on group 'job.etl'; .* bob read --group job.etl",
        ),
        (
            Need("read", "topic", "_audit"),
            "'_audit', which takes admin on the log; .* allow bob admin --whole-log",
        ),
        (Need("read", "namespace", "shop/money"), "--namespace shop/money"),
    ):
        with pytest.raises(NotAuthorized, match=says):
            guard.check(bob, [need])
    # All or nothing, and the first is named.
    with pytest.raises(NotAuthorized, match="topic 'a'"):
        guard.check(
            bob, [Need("read", "topic", "orders.eu"), Need("read", "topic", "a"), Need("read", "topic", "b")]
        )


def test_what_is_seen_is_what_may_be_described(users_file, tokens, clock):
    guard = Guard(users_file, clock=clock)
    bob = guard.admit(bearer(tokens["bob"]), PEER, "")
    assert guard.visible(bob, "topic", ["orders.eu", "orders", "_state.etl", "_audit", "other"]) == [
        "orders.eu"
    ]
    assert guard.visible(bob, "group", ["orders.eu"]) == []
    ann = guard.admit(bearer(tokens["ann"]), PEER, "")
    assert guard.visible(ann, "topic", ["orders.eu", "_audit", "_state.etl"]) == [
        "orders.eu",
        "_audit",
        "_state.etl",
    ]
    assert guard.visible(Caller("ann"), "topic", ["orders.eu"]) == []


def test_a_namespace_takes_a_rule_or_to_administer_the_log(users_file, as_user):
    asked = Need("write", "namespace", "shop/money")
    for lines, may in (
        (["allow write namespace shop/*"], True),
        (["allow admin log"], True),
        (["allow admin log", "deny write namespace shop/*"], True),
        (["allow all topic *", "allow all group *"], False),
        (["allow describe log"], False),
    ):
        guard, caller = as_user("ann", *lines)
        if may:
            guard.check(caller, [asked])
        else:
            with pytest.raises(NotAuthorized):
                guard.check(caller, [asked])


def test_what_is_refused_and_what_is_administered_is_written_down_and_nothing_else(
    users_file, tokens, clock, notes
):
    guard = Guard(users_file, clock=clock, audit=notes)
    ann, bob = (guard.admit(bearer(tokens[name]), PEER, "") for name in ("ann", "bob"))
    guard.check(
        ann, [Need("read", "topic", "a"), Need("write", "topic", "a"), Need("describe", "group", "a")]
    )
    guard.check(bob, [Need("read", "topic", "orders.eu")])
    assert notes.events == []
    guard.check(ann, [Need("read", "topic", "a"), Need("create", "topic", "b"), Need("admin", "log")])
    with pytest.raises(NotAuthorized):
        guard.check(bob, [Need("delete", "topic", "orders.eu")])
    found = [(e["user"], e["operation"], e["kind"], e["name"], e["outcome"], e["code"]) for e in notes.events]
    assert found == [
        ("ann", "create", "topic", "b", "allowed", ""),
        ("ann", "admin", "log", "", "allowed", ""),
        ("bob", "delete", "topic", "orders.eu", "denied", "NotAuthorized"),
    ]


def test_a_token_that_expires_ends_what_it_began(users_file, tokens, clock, notes):
    guard = Guard(users_file, clock=clock, audit=notes)
    old = guard.admit(bearer(tokens["old"]), PEER, "")
    guard.check(old, [Need("read", "topic", "a")])
    clock.move(3_601)
    with pytest.raises(NotAuthenticated):
        guard.check(old, [Need("read", "topic", "a")])
    assert guard.visible(old, "topic", ["a"]) == []
    assert notes.events[-1]["code"] == "NotAuthenticated:ended"


def test_a_revoked_token_and_a_changed_rule_hold_within_a_second(users_file, tokens, clock):
    guard = Guard(users_file, clock=clock)
    ann, bob = (guard.admit(bearer(tokens[name]), PEER, "") for name in ("ann", "bob"))
    by_certificate = guard.admit({}, PEER, "ann.example.com")
    change_users(
        users_file, lambda users: users.update(ann=User("ann", (), ("ann.example.com",), users["ann"].access))
    )
    change_users(users_file, lambda users: users.update(bob=User("bob", users["bob"].tokens)))
    guard.check(ann, [Need("read", "topic", "a")])
    clock.move(1)
    with pytest.raises(NotAuthenticated):
        guard.check(ann, [Need("read", "topic", "a")])
    with pytest.raises(NotAuthorized):
        guard.check(bob, [Need("read", "topic", "orders.eu")])
    guard.check(by_certificate, [Need("read", "topic", "a")])
    assert guard.statistics().reloads == 1


def test_asked_to_it_reads_the_users_at_once(users_file, tokens, clock):
    guard = Guard(users_file, clock=clock)
    ann = guard.admit(bearer(tokens["ann"]), PEER, "")
    change_users(users_file, lambda users: users.pop("ann"))
    assert guard.reload()
    with pytest.raises(NotAuthenticated):
        guard.check(ann, [])


@pytest.mark.parametrize("breaking", ["empty", "half", "removed", "open to others"])
def test_a_broken_file_leaves_what_holds_and_is_reported(users_file, tokens, clock, notes, caplog, breaking):
    guard = Guard(users_file, clock=clock, audit=notes)
    ann = guard.admit(bearer(tokens["ann"]), PEER, "")
    whole = users_file.read_bytes()
    if breaking == "removed":
        users_file.unlink()
    elif breaking == "open to others":
        users_file.chmod(0o666)
    else:
        users_file.write_bytes(b"" if breaking == "empty" else whole[: len(whole) // 2])
    for _ in range(3):
        clock.move(1)
        guard.check(ann, [Need("admin", "log")])
        guard.admit(bearer(tokens["bob"]), PEER, "")
    assert guard.statistics().failed_reloads == 1 and guard.statistics().reloads == 0
    assert len([r for r in caplog.records if "the users stay as they were" in r.getMessage()]) == 1
    assert {"outcome": "failed", "name": "users"}.items() <= notes.events[0].items()
    with pytest.raises(InvalidInput):
        Guard(users_file)
    users_file.write_bytes(whole)
    users_file.chmod(0o600)
    clock.move(1)
    guard.check(ann, [Need("admin", "log")])
    assert guard.statistics().reloads == 1


def test_the_file_is_looked_at_once_a_second_however_often_is_asked(users_file, tokens, clock, monkeypatch):
    guard = Guard(users_file, clock=clock)
    ann = guard.admit(bearer(tokens["ann"]), PEER, "")
    looks = []
    stat = os.stat
    monkeypatch.setattr("mamba_stream.server.guard._stamp", lambda path: looks.append(1) or guard._stamp)
    for _ in range(100):
        guard.check(ann, [])
        clock.move(0.05)
    assert len(looks) in (4, 5) and stat is os.stat


def test_users_that_change_while_many_ask_are_always_one_state_of_the_file(users_file, tokens):
    # Ann may both or neither: whoever saw one without the other saw half a change.
    def entries(name):
        return (Entry("allow", ("read",), "topic", name), Entry("allow", ("read",), "group", name))

    change_users(
        users_file, lambda users: users.update(ann=User("ann", users["ann"].tokens, access=entries("a")))
    )
    guard = Guard(users_file)
    over = threading.Event()
    wrong, asked = [], []

    def ask():
        caller = guard.admit(bearer(tokens["ann"]), PEER, "")
        while not over.is_set():
            for name in ("a", "b"):
                try:
                    guard.check(caller, [Need("read", "topic", name), Need("read", "group", name)])
                except NotAuthorized as error:
                    if "group" in str(error):
                        wrong.append(str(error))
                except BaseException as error:
                    wrong.append(repr(error))
            asked.append(1)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(12):
        name = "ab"[n % 2]
        change_users(
            users_file,
            lambda users, name=name: users.update(ann=User("ann", users["ann"].tokens, access=entries(name))),
        )
        assert guard.reload()
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and asked
    assert guard.statistics().reloads >= 12


def test_quotas_hold_by_user_and_survive_a_reload(users_file, tokens, clock, notes):
    quota = Quota(received=100, connections=1, topics=2)
    change_users(
        users_file,
        lambda users: users.update(ann=User("ann", users["ann"].tokens, ("ann.example.com",), quota=quota)),
    )
    there = {"ann": ["a"]}

    def made(user, names):
        return len(there[user]), len({*names} - {*there[user]})

    guard = Guard(users_file, clock=clock, audit=notes, made=made)
    ann = guard.admit(bearer(tokens["ann"]), PEER, "")
    guard.spend(ann, received=1_000, sent=1 << 40)
    assert guard.reload()
    with pytest.raises(QuotaExceeded) as caught:
        guard.spend(ann, received=1)
    assert caught.value.retry_after == 9.0
    guard.spend(guard.admit(bearer(tokens["bob"]), PEER, ""), received=1 << 40)
    with pytest.raises(QuotaExceeded, match="connections"):
        guard.admit({}, "ipv4:10.0.0.2:5000", "ann.example.com")
    assert notes.events[-1]["code"] == "QuotaExceeded"
    change_users(
        users_file, lambda users: users.update(ann=User("ann", users["ann"].tokens, (), everything(), quota))
    )
    assert guard.reload()
    guard.check(
        ann, [Need("create", "topic", "b"), Need("create", "topic", "a"), Need("create", "group", "x")]
    )
    there["ann"].append("b")
    with pytest.raises(QuotaExceeded, match="has made 2 topics"):
        guard.check(ann, [Need("create", "topic", "c")])
    guard.check(ann, [Need("create", "topic", "a")])
    assert guard.statistics().throttled == 3


def test_a_server_with_a_client_ca_and_no_users_takes_whoever_has_a_certificate():
    gate: Gate = CertificateGate()
    caller = gate.admit({}, PEER, "ann.example.com")
    assert caller.name == "ann.example.com"
    gate.check(caller, [Need("admin", "log")])
    gate.spend(caller, received=1 << 40)
    assert gate.visible(caller, "topic", ["a"]) == ["a"]
    with pytest.raises(NotAuthenticated):
        gate.admit(bearer("x"), PEER, "")
    opened: Gate = OpenGate()
    opened.check(opened.admit({}, PEER, ""), [Need("admin", "log")])


def test_what_an_entry_denies_is_told_apart_from_what_nothing_allows(users_file, clock, notes):
    shown, token = new_token(clock.now())
    entries = (Entry("allow", ("all",), "topic", "orders.*"), Entry("deny", ("write",), "topic", "orders.a*"))
    change_users(users_file, lambda users: users.update(ann=User("ann", (token,), access=entries)))
    guard = Guard(users_file, clock=clock, audit=notes)
    ann = guard.admit(bearer(shown), PEER, "")
    with pytest.raises(NotAuthorized, match="an entry denies it.*mamba-stream access list ann"):
        guard.check(ann, [Need("write", "topic", "orders.archive")])
    with pytest.raises(NotAuthorized, match="access allow ann read --topic other"):
        guard.check(ann, [Need("read", "topic", "other")])
