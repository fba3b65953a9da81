"""Users and their access on the command line: what is typed is what the guard then lets pass."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mamba_stream.errors import NotAuthenticated, NotAuthorized
from mamba_stream.server.gate import Need
from mamba_stream.server.guard import Guard

MANUAL = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def users(tmp_path, monkeypatch):
    path = tmp_path / "users.json"
    monkeypatch.setenv("MAMBA_STREAM_SERVER_USERS", str(path))
    return path


def admitted(guard, token):
    return guard.admit({"authorization": [f"Bearer {token}"]}, "ipv4:127.0.0.1:1", "")


def test_a_user_with_a_token_may_do_what_was_allowed(run_command, users):
    added = run_command("user", "add", "ann")
    assert (added.code, added.out) == (0, "added ann\n") and "mamba-stream user token new ann" in added.err
    assert users.stat().st_mode & 0o777 == 0o600
    made = run_command("user", "token", "new", "ann")
    token = made.out.strip()
    assert re.fullmatch(r"mamba_[0-9a-f]{12}_[0-9a-f]{64}", token)
    assert "shown this once" in made.err and token.rpartition("_")[2] not in made.err + users.read_text()
    guard = Guard(users)
    ann = admitted(guard, token)
    with pytest.raises(NotAuthorized, match="access allow ann read --topic orders.eu") as refused:
        guard.check(ann, [Need("read", "topic", "orders.eu")])
    # What the refusal says can be typed.
    words = str(refused.value).partition("mamba-stream ")[2].split()
    assert run_command(*words).out == "ann: allow read topic orders.eu\n"
    run_command(
        "access", "allow", "ann", "read,write", "--topic", "orders.*", "--group", "mailers", "--job", "etl"
    )
    run_command("access", "deny", "ann", "write", "--topic", "orders.old")
    run_command("access", "allow", "ann", "describe", "--whole-log", "--namespace", "shop/*")
    assert guard.reload()
    for need, may in (
        (Need("read", "topic", "orders.us"), True),
        (Need("write", "topic", "orders.us"), True),
        (Need("write", "topic", "orders.old"), False),
        (Need("read", "group", "mailers"), True),
        (Need("read", "group", "job.etl"), True),
        (Need("read", "group", "job.etl.trades"), True),
        (Need("write", "topic", "_state.etl"), True),
        (Need("read", "group", "job.etl2"), False),
        (Need("describe", "log"), True),
        (Need("describe", "namespace", "shop/money"), True),
        (Need("read", "namespace", "shop/money"), False),
    ):
        if may:
            guard.check(ann, [need])
        else:
            with pytest.raises(NotAuthorized):
                guard.check(ann, [need])
    run_command("access", "remove", "ann", "write", "--topic", "orders.*")
    run_command("access", "remove", "ann", "all", "--topic", "orders.old", "--job", "etl")
    assert guard.reload()
    guard.check(ann, [Need("read", "topic", "orders.us")])
    with pytest.raises(NotAuthorized):
        guard.check(ann, [Need("write", "topic", "orders.us")])


def test_a_token_is_listed_by_its_id_and_revoked_by_it(run_command, users):
    run_command("user", "add", "ann")
    token = run_command("user", "token", "new", "ann", "--expires", "90d", "-o", "json").json
    assert token["user"] == "ann" and token["id"] == token["token"].split("_")[1]
    guard = Guard(users)
    assert admitted(guard, token["token"]).name == "ann"
    [listed] = run_command("user", "token", "list", "ann", "-o", "json").json
    assert (listed["id"], listed["expires"], listed["expired"]) == (token["id"], token["expires"], False)
    whole = run_command("user", "token", "revoke", "ann", token["token"])
    assert whole.code == 3 and token["token"].rpartition("_")[2] not in whole.err and token["id"] in whole.err
    assert run_command("user", "token", "revoke", "ann", token["id"]).out == f"revoked {token['id']}\n"
    assert guard.reload()
    with pytest.raises(NotAuthenticated):
        admitted(guard, token["token"])
    assert run_command("user", "token", "list", "ann", "-o", "json").json == []


def test_users_are_listed_with_what_they_have_and_removed(run_command, users):
    run_command(
        "user", "add", "ann", "--certificate", "ann.example.com", "--received", "1000", "--topics", "0"
    )
    run_command("user", "add", "bob")
    run_command("access", "allow", "bob", "all", "--topic", "*")
    listed = run_command("user", "list", "-o", "json").json
    assert listed == [
        {
            "user": "ann",
            "tokens": 0,
            "certificates": ["ann.example.com"],
            "access": [],
            "quota": {"received": 1000, "sent": None, "burst": 1.0, "connections": None, "topics": 0},
        },
        {
            "user": "bob",
            "tokens": 0,
            "certificates": [],
            "access": ["allow all topic *"],
            "quota": {"received": None, "sent": None, "burst": 1.0, "connections": None, "topics": None},
        },
    ]
    assert "received=1,000" in run_command("user", "list").out
    access = run_command("access", "list", "-o", "json").json
    assert access == [{"user": "bob", "effect": "allow", "operations": ["all"], "kind": "topic", "name": "*"}]
    assert run_command("access", "list", "ann").err == "ann may do nothing\n"
    assert run_command("user", "remove", "bob", "--yes").out == "removed bob\n"
    assert [each["user"] for each in run_command("user", "list", "-o", "json").json] == ["ann"]


def test_a_quota_is_shown_and_changed_in_part(run_command, users):
    run_command("user", "add", "ann", "--sent", "50")
    changed = run_command("user", "quota", "ann", "--connections", "3", "-o", "json").json
    assert changed == {"received": None, "sent": 50, "burst": 1.0, "connections": 3, "topics": None}
    assert run_command("user", "quota", "ann", "-o", "json").json == changed
    lifted = run_command("user", "quota", "ann", "--none", "--topics", "7", "-o", "json").json
    assert lifted == {"received": None, "sent": None, "burst": 1.0, "connections": None, "topics": 7}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("user add a/b", 2, "contains '/'"),
        ("user add ann", 1, "there is a user 'ann'"),
        ("user add bob --certificate ann.example.com", 1, "both have the certificate"),
        ("user remove annn --yes", 3, "no user 'annn', did you mean 'ann'"),
        ("user token new bob", 3, "no user 'bob'"),
        ("user token new ann --expires soon", 1, "--expires"),
        ("user token revoke ann 000000000000", 3, "has no token '000000000000'; there is none"),
        ("user quota bob", 3, "no user 'bob'"),
        ("user quota ann --sent 0", 2, "--sent"),
        ("access allow ann raed --topic x", 1, "did you mean 'read'"),
        ("access allow ann read", 2, "with what?"),
        ("access allow ann read --topic _state.etl", 2, "allow the group job.NAME"),
        ("access allow bob read --topic x", 3, "no user 'bob'"),
        ("access deny ann read --topic a*b", 2, "names no topic"),
        ("access remove ann read --topic x", 3, "no such entry"),
        ("access list bob", 3, "no user 'bob'"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(run_command, users, words, code, says):
    run_command("user", "add", "ann", "--certificate", "ann.example.com")
    before = users.read_bytes()
    done = run_command(*words.split())
    assert (done.code, done.out) == (code, "") and says in done.err
    assert users.read_bytes() == before


def test_where_nothing_says_where_the_file_is_that_is_asked(run_command, tmp_path, monkeypatch):
    monkeypatch.delenv("MAMBA_STREAM_SERVER_USERS", raising=False)
    monkeypatch.chdir(tmp_path)
    done = run_command("user", "list")
    assert done.code == 2 and "Say --users FILE" in done.err
    assert run_command("user", "add", "ann", "--users", "here.json").code == 0
    Path("mamba-stream.toml").write_text('[server]\nusers = "here.json"\n')
    assert json.loads(run_command("user", "list", "-o", "json").out)[0]["user"] == "ann"


def test_the_manual_lists_what_json_tells(run_command, users):
    run_command("user", "add", "ann")
    token = run_command("user", "token", "new", "ann", "-o", "json").json
    run_command("access", "allow", "ann", "read", "--topic", "x")
    for verb, told in (
        ("user list", run_command("user", "list", "-o", "json").json[0]),
        ("user token new", token),
        ("user token list", run_command("user", "token", "list", "ann", "-o", "json").json[0]),
        ("access list", run_command("access", "list", "-o", "json").json[0]),
    ):
        section = MANUAL.read_text().partition(f"### {verb}\n")[2].partition("\n### ")[0]
        assert [name for name in told if f"`{name}`" not in section] == [], verb
