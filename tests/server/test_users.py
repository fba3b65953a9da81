"""Users and their file: who somebody is, what is kept of tokens, and that the file changes whole or not at all."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, strategies as st

from mamba_stream.errors import AlreadyExists, InvalidInput, InvalidName, NotFound
from mamba_stream.server.access import Entry
from mamba_stream.server.userfile import add_user, change_users, find_users_file, read_users, user_of
from mamba_stream.server.users import Known, Roster, Token, Unknown, User, new_token
from tests.server.clocks import HandClock

NOW = HandClock().now()


def bytes_of(count: int) -> bytes:
    """Randomness as an argument."""
    return bytes(range(count))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "users.json"


def test_a_token_looks_like_one_and_only_its_hash_is_kept():
    text, token = new_token(NOW)
    assert re.fullmatch(r"mamba_[0-9a-f]{12}_[0-9a-f]{64}", text)
    secret = text.rpartition("_")[2]
    kept = msgspec.json.encode(token).decode()
    assert token.id in text and token.id in kept
    for shown in (kept, repr(token), repr(User("ann", (token,))), str(token)):
        assert secret not in shown
    assert token.sha256 not in repr(User("ann", (token,)))
    assert new_token(NOW)[0] != text
    assert new_token(NOW, random=bytes_of)[0] == f"mamba_000102030405_{bytes(range(32)).hex()}"


def test_a_token_says_who_until_it_expires():
    clock = HandClock()
    text, token = new_token(clock.now(), timedelta(hours=1))
    forever, other = new_token(clock.now())
    roster = Roster([User("ann", (token, other))])
    assert roster.by_token(text, clock.now()) == Known(roster.users["ann"], f"token:{token.id}")
    clock.move(3_599)
    assert isinstance(roster.by_token(text, clock.now()), Known)
    clock.move(2)
    assert roster.by_token(text, clock.now()) == Unknown("expired", token.id)
    clock.move(10 * 365 * 86_400)
    assert isinstance(roster.by_token(forever, clock.now()), Known)


def test_whatever_is_not_a_token_of_somebody_is_nobody():
    text, token = new_token(NOW)
    other, _ = new_token(NOW)
    roster = Roster([User("ann", (token,))])
    swapped = f"mamba_{token.id}_{other.rpartition('_')[2]}"
    assert roster.by_token(other, NOW) == Unknown("unknown")
    for shown in (swapped, text[:-1] + ("0" if text[-1] != "0" else "1")):
        assert roster.by_token(shown, NOW) == Unknown("unknown", token.id)
    for shown in (
        *(
            "",
            "mamba_",
            text[:-1],
            text + "0",
            f" {text}",
            f"{text}\n",
            text.upper(),
            text.replace("mamba", "other"),
        ),
        *(token.sha256, token.id, "\ud800", "\0", "x" * 100_000, f"mamba_{token.id}_{token.sha256}x"),
        text.replace(text[-1], "\N{ARABIC-INDIC DIGIT ONE}"),
    ):
        assert roster.by_token(shown, NOW) == Unknown("malformed"), shown[:80]
    # The hash is no token.
    assert roster.by_token(f"mamba_{token.id}_{token.sha256}", NOW) == Unknown("unknown", token.id)


def test_as_much_is_compared_whatever_is_shown(monkeypatch):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or compare(a, b)
    )
    text, token = new_token(NOW)
    old, expired = new_token(NOW, timedelta(seconds=1))
    roster = Roster([User("ann", (token,)), User("old", (expired,))])
    for shown in (text, old, new_token(NOW)[0], text[:-1] + "x", "", "mamba_", "x" * 10_000):
        roster.by_token(shown, NOW + 2_000_000)
    # A hash with a hash, once for each: neither how long a token is right nor whose it is shows in the time it takes.
    assert compared == [(64, 64)] * 7


json_ = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version", "users", "name", "tokens", "id", "sha256", "created", "expires"])
            | st.sampled_from(
                ["certificates", "access", "effect", "operations", "kind", "quota", "sent", "burst"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_ | st.builds(lambda users: {"version": 1, "users": users}, st.lists(json_, max_size=3)))
def test_whatever_the_file_says_it_is_read_or_refused_in_words(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("users") / "users.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    with contextlib.suppress(InvalidInput):
        assert isinstance(read_users(path), Roster)


def test_a_certificate_says_who_and_only_the_whole_identity_does():
    roster = Roster([User("ann", certificates=("ann.example.com",)), User("bob")])
    assert roster.by_certificate("ann.example.com") == Known(
        roster.users["ann"], "certificate:ann.example.com"
    )
    for identity in ("", "example.com", "ann.example.com.evil.org", "ANN.example.com", "ann", "bob"):
        assert roster.by_certificate(identity) == Unknown("unknown")


def test_who_was_recognised_is_believed_no_longer_than_what_he_showed_stands():
    text, token = new_token(NOW, timedelta(hours=1))
    before = Roster([User("ann", (token,), ("ann.example.com",)), User("bob")])
    assert before.stands("ann", f"token:{token.id}", NOW)
    assert before.stands("ann", "certificate:ann.example.com", NOW)
    assert not before.stands("bob", f"token:{token.id}", NOW)
    assert not before.stands("bob", "certificate:ann.example.com", NOW)
    assert not before.stands("ann", f"token:{token.id}", NOW + 3_600_000_000)
    for credential in ("", "token:", "certificate:", "token:000000000000", "other"):
        assert not before.stands("ann", credential, NOW)
    assert not Roster([User("ann")]).stands("ann", f"token:{token.id}", NOW)
    assert isinstance(Roster([User("ann")]).by_token(text, NOW), Unknown)


def test_two_of_anything_are_refused():
    _, token = new_token(NOW)
    with pytest.raises(InvalidInput, match="two users are called 'ann'"):
        Roster([User("ann"), User("ann")])
    with pytest.raises(InvalidInput, match=f"'ann' and 'bob': both have token {token.id}"):
        Roster([User("ann", (token,)), User("bob", (token,))])
    with pytest.raises(InvalidInput, match="'ann' and 'bob': both have the certificate of 'x'"):
        Roster([User("ann", certificates=("x",)), User("bob", certificates=("x",))])
    with pytest.raises(InvalidName):
        User("no/slash")
    with pytest.raises(InvalidInput, match="is not empty"):
        User("ann", certificates=("",))


def test_the_file_is_its_owners_alone_and_gives_back_what_was_put_in(path):
    _, token = new_token(NOW, timedelta(days=1))
    ann = User("ann", (token,), ("ann.example.com",), (Entry("allow", ("read",), "topic", "orders.*"),))
    change_users(path, lambda users: add_user(users, ann))
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_users(path).users == {"ann": ann}
    change_users(path, lambda users: add_user(users, User("bob")))
    assert list(read_users(path).users) == ["ann", "bob"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == ["users.json", "users.json.lock"]
    with pytest.raises(AlreadyExists, match="token new ann"):
        change_users(path, lambda users: add_user(users, User("ann")))
    with pytest.raises(NotFound, match="no user 'bobb', did you mean 'bob'.*there are ann, bob"):
        user_of(read_users(path).users, "bobb")


def test_a_change_that_fails_leaves_the_file_as_it_was(path):
    change_users(path, lambda users: add_user(users, User("ann")))
    before = path.read_bytes()

    def wrong(users):
        users["ann"] = User("ann", certificates=("x",))
        users["bob"] = User("bob", certificates=("x",))

    with pytest.raises(InvalidInput, match="both have the certificate"):
        change_users(path, wrong)
    with pytest.raises(ZeroDivisionError):
        change_users(path, lambda users: 1 / 0)
    assert path.read_bytes() == before
    assert not [each for each in path.parent.iterdir() if each.name.startswith(".")]


def test_processes_that_change_it_at_once_lose_nothing(path, environment):
    code = (
        "import sys; from pathlib import Path; from mamba_stream.server.userfile import *;"
        "from mamba_stream.server.users import User\n"
        "for n in range(10): change_users(Path(sys.argv[1]), lambda users: add_user(users, User(f'{sys.argv[2]}{n}')))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], env=environment) for name in "abcd"
    ]
    assert [child.wait(timeout=60) for child in children] == [0] * 4
    assert sorted(read_users(path).users) == sorted(f"{name}{n}" for name in "abcd" for n in range(10))


def test_what_a_link_names_is_changed_and_the_link_stays(path, tmp_path):
    target = tmp_path / "elsewhere" / "real.json"
    target.parent.mkdir()
    path.symlink_to(target)
    change_users(path, lambda users: add_user(users, User("ann")))
    assert path.is_symlink() and list(read_users(target).users) == ["ann"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(path, mode):
    change_users(path, lambda users: add_user(users, User("ann")))
    path.chmod(mode)
    with pytest.raises(InvalidInput, match=f"may be written by others .* chmod 600 {path}"):
        read_users(path)
    path.chmod(0o444)
    assert list(read_users(path).users) == ["ann"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "truncated"),
        (b"{", "truncated|malformed"),
        (b"\xff\xfe", "malformed|invalid"),
        (b"[]", "Expected `object`"),
        (b'{"users": []}', "missing required field `version`"),
        (b'{"version": 2}', "version 2 is not known"),
        (b'{"version": 1, "user": []}', "unknown field `user`"),
        (
            b'{"version": 1, "users": [{"name": "ann", "acess": []}]}',
            r"unknown field `acess` - at `\$.users\[0\]`",
        ),
        (b'{"version": 1, "users": [{"name": "a/b"}]}', r"contains '/'.* at `\$.users\[0\]`"),
        (b'{"version": 1, "users": [{"name": "ann"}, {"name": "ann"}]}', "two users are called 'ann'"),
        (
            b'{"version": 1, "users": [{"name": "ann", "tokens": [{"id": "x", "sha256": "y", "created": "2026-01-01T00:00:00Z"}]}]}',
            "an id is 12",
        ),
        (
            b'{"version": 1, "users": [{"name": "ann", "access": [{"effect": "alow", "operations": ["read"], "kind": "topic"}]}]}',
            r"Invalid enum value 'alow' - at `\$.users\[0\].access\[0\].effect`",
        ),
        (
            b'{"version": 1, "users": [{"name": "ann", "access": [{"effect": "allow", "operations": [], "kind": "topic"}]}]}',
            "says what",
        ),
        (b'{"version": 1, "users": [{"name": "ann", "quota": {"sent": 0}}]}', "quota sent=0"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused_with_the_place(path, content, why):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match=why) as caught:
        read_users(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InvalidInput):
        change_users(path, lambda users: add_user(users, User("bob")))
    assert path.read_bytes() == content


def test_a_file_that_is_not_there_or_cannot_be_read_is_said(path, tmp_path):
    with pytest.raises(InvalidInput, match="No such file"):
        read_users(path)
    with pytest.raises(InvalidInput, match="Is a directory"):
        read_users(tmp_path)
    with pytest.raises(InvalidInput, match="No such file|Not a directory"):
        change_users(tmp_path / "missing" / "users.json", lambda users: None)


def test_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_users_file(None, {}) is None
    (tmp_path / "mamba-stream.toml").write_text('log = "data"\n')
    assert find_users_file(None, {}) is None
    (tmp_path / "mamba-stream.toml").write_text('[server]\nusers = "conf/users.json"\n')
    assert find_users_file(None, {}) == tmp_path / "conf" / "users.json"
    assert find_users_file(None, {"MAMBA_STREAM_SERVER_USERS": "/etc/users.json"}) == type(tmp_path)(
        "/etc/users.json"
    )
    assert find_users_file("given.json", {"MAMBA_STREAM_SERVER_USERS": "x"}) == type(tmp_path)("given.json")
    assert find_users_file("off", {}) is None
    (tmp_path / "mamba-stream.toml").write_text("[server]\nusers = 3\n")
    with pytest.raises(InvalidInput, match="mamba-stream.toml: .server. users = 3: give the path"):
        find_users_file(None, {})
    (tmp_path / "mamba-stream.toml").write_text("[server\n")
    with pytest.raises(InvalidInput, match="not valid TOML"):
        find_users_file(None, {})


def test_times_are_written_in_utc(path):
    _, token = new_token(NOW, timedelta(days=1))
    change_users(path, lambda users: add_user(users, User("ann", (token,))))
    kept = json.loads(path.read_text())["users"][0]["tokens"][0]
    assert kept["created"] == "2027-01-15T08:00:00Z" and kept["expires"] == "2027-01-16T08:00:00Z"
    assert datetime.fromisoformat(kept["created"]) == datetime(2027, 1, 15, 8, tzinfo=UTC)
    assert Token(token.id, token.sha256, token.created).over(1 << 62) is False


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_root_changes_it_and_the_servers_user_can_still_read_it(path):
    change_users(path, lambda users: add_user(users, User("ann")))
    os.chown(path, 12_345, 12_345)
    change_users(path, lambda users: add_user(users, User("bob")))
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (12_345, 0o600)
