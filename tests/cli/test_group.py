from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mamba_stream as mamba
from tests import forking

MANUAL = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def log(tmp_path):
    """Ten messages, of which a group has done four and has two to be tried again."""
    with mamba.open(tmp_path / "log") as opened:
        with mamba.Producer(opened) as producer:
            producer.create_topic("emails", partitions=1)
            producer.create_topic("other", partitions=1)
            producer.send_many("emails", [f"mail {n}" for n in range(10)])
        left = 6

        def send(message):
            nonlocal left
            left -= 1
            if not left:
                subscriber.stop()
            if message.offset in (1, 3):
                raise RuntimeError("no answer")

        with mamba.Subscriber(
            "emails", opened, group="mailers", start="earliest", backoff=("1h", "1h")
        ) as subscriber:
            subscriber.subscribe(send)
            subscriber.run()
    return tmp_path / "log"


def received(log, group="mailers"):
    found = []
    with mamba.open(log) as opened, mamba.Subscriber("emails", opened, group=group) as subscriber:
        subscriber.subscribe(lambda message: found.append(message.offset))
        subscriber.run(until="empty")
    return sorted(found)


def test_groups_are_listed_with_what_they_have_to_do(run_command, log):
    listed = run_command("group", "list", "-o", "json", "--log", log).json
    assert listed == [
        {"group": "mailers", "topics": ["emails"], "members": 0, "backlog": 6, "paused": [], "job": None}
    ]
    table = run_command("group", "list", "--log", log)
    assert (table.code, table.err) == (0, "")
    assert "mailers" in table.out


def test_a_log_without_groups_says_so(run_command, tmp_path):
    mamba.open(tmp_path / "log").close()
    none = run_command("group", "list", "--log", tmp_path / "log")
    assert (none.code, none.out, none.err) == (0, "", f"no groups in {tmp_path / 'log'}\n")


def test_a_group_is_described_by_partition(run_command, log, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    found = run_command("group", "describe", "mailers", "-o", "json", "--log", log).json
    assert (found["group"], found["backlog"], found["members"]) == ("mailers", 6, [])
    [partition] = found["partitions"]
    assert (partition["topic"], partition["end"], partition["backlog"]) == ("emails", 10, 6)
    assert (partition["waiting"], partition["leased"]) == (2, 0)
    table = run_command("group", "describe", "mailers", "--log", log)
    assert re.search(r"emails +0 +yes +\d+ +10 +6 +0 +2 +", table.out)
    assert table.err == "nobody is there\n"


def test_what_is_open_is_shown_with_its_attempts_and_its_time(run_command, log):
    found = run_command("group", "pending", "mailers", "-o", "json", "--log", log).json
    waiting = [each for each in found if each["state"] == "waiting"]
    assert [(each["offsets"], each["attempt"], each["who"]) for each in waiting] in (
        [([1], 1, None), ([3], 1, None)],
        [([3], 1, None), ([1], 1, None)],
    )
    few = run_command("group", "pending", "mailers", "-n", "1", "--log", log)
    assert f"and {len(found) - 1} more: --rows {len(found)} shows all" in few.err
    assert run_command("group", "pending", "mailers", "--topic", "other", "--log", log).code == 3


def test_a_reset_asks_first_and_then_the_group_goes_on_from_there(run_command, spawn_command, log):
    refused = spawn_command("group", "reset", "mailers", "--to", "earliest", "--log", log, stdin=b"n\n")
    assert refused.code == 130
    assert "move group mailers in 1 partition, forgetting that" in refused.err
    would = run_command(
        "group", "reset", "mailers", "--to", "8", "--dry-run", "-o", "json", "--log", log
    ).json
    assert would == [{"topic": "emails", "partition": 0, "from": 10, "to": 8, "dropped": 6}]
    done = run_command("group", "reset", "mailers", "--to", "8", "--yes", "-o", "json", "--log", log).json
    assert done == would
    assert received(log) == [8, 9]


def test_a_reset_takes_a_time_and_names_of_partitions(run_command, log):
    arguments = ("--topic", "emails", "--partition", "0", "--yes", "--log", log)
    assert run_command("group", "reset", "mailers", "--to", "2001-01-31T12:00", *arguments).code == 0
    assert received(log) == [*range(10)]


def test_a_group_is_deleted_after_asking(run_command, spawn_command, log):
    refused = spawn_command("group", "delete", "mailers", "--log", log, stdin=b"n\n")
    assert refused.code == 130
    assert "delete group mailers, which has 6 messages still to do?" in refused.err
    assert run_command("group", "delete", "mailers", "--yes", "--log", log).out == "deleted mailers\n"
    assert run_command("group", "list", "-o", "json", "--log", log).json == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("describe", "mailer"), 3, "no group 'mailer' in"),
        (("describe", "mailer"), 3, "did you mean 'mailers'?"),
        (("pending", "nobody"), 3, "it has mailers"),
        (("delete", "mailer", "--yes"), 3, "did you mean 'mailers'?"),
        (("reset", "mailer", "--to", "latest", "--yes"), 3, "did you mean 'mailers'?"),
        (("reset", "mailers", "--to", "11", "--yes"), 1, "11 is not within its offsets, 0..10"),
        (("reset", "mailers", "--to", "yesterday"), 2, "neither 'earliest', 'latest', an offset nor a time"),
        (("reset", "mailers"), 2, "Missing option '--to'"),
        (("reset", "mailers", "--to", "latest", "--partition", "0"), 2, "say of which topic"),
        (("reset", "mailers", "--to", "0", "--topic", "emails", "--partition", "9"), 3, "has no partition 9"),
        (("reset", "mailers", "--to", "0", "--topic", "email"), 3, "did you mean 'emails'?"),
        (("reset", "mailers", "--to", "0", "--topic", "other"), 3, "knows nothing of topic 'other'"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(run_command, log, arguments, code, said):
    done = run_command("group", *arguments, "--log", log)
    assert done.code == code
    assert said in done.err


def test_a_group_with_a_living_member_is_refused_until_it_is_killed(run_command, environment, log):
    script = (
        "import sys, mamba_stream as mamba\n"
        "consumer = mamba.Consumer(sys.argv[1], group='mailers', session_timeout='1s')\n"
        "consumer.subscribe('other')\n"
        "consumer.poll()\n"
        "print('here', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with forking.Process(
        [sys.executable, "-c", script, str(log)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as member:
        assert member.stdout.readline() == b"here\n"
        for verb in (("delete", "mailers"), ("reset", "mailers", "--to", "latest")):
            done = run_command("group", *verb, "--yes", "--log", log)
            assert done.code == 1
            assert "'mailers' has members at work" in done.err and f"pid {member.pid}" in done.err
        described = run_command("group", "describe", "mailers", "-o", "json", "--log", log).json
        assert [(each["pid"], each["has"]) for each in described["members"]] == [(member.pid, ["other/0"])]
        assert "other" in run_command("group", "describe", "mailers", "--log", log).out
        forced = run_command("group", "reset", "mailers", "--to", "latest", "--yes", "--force", "--log", log)
        assert forced.code == 0
        member.kill()
    with mamba.open(log) as opened:
        # Its lease ends within a second.
        while (done := run_command("group", "delete", "mailers", "--yes", "--log", log)).code:
            assert "members at work" in done.err
            opened.wait(opened.lsn(), 0.2)
        assert mamba.messaging.groups.list_groups(opened) == []


def test_names_of_groups_are_completed(environment, log):
    words = f"mamba-stream group describe --log {log} mai"
    done = forking.run(
        [sys.executable, "-m", "mamba_stream.cli"],
        env={
            **environment,
            "_MAMBA_STREAM_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,mailers"]


def test_names_in_json_are_those_of_the_manual(run_command, log):
    manual = MANUAL.read_text()
    listed = run_command("group", "list", "-o", "json", "--log", log).json
    described = run_command("group", "describe", "mailers", "-o", "json", "--log", log).json
    pending = run_command("group", "pending", "mailers", "-o", "json", "--log", log).json
    reset = run_command(
        "group", "reset", "mailers", "--to", "0", "--dry-run", "-o", "json", "--log", log
    ).json
    for verb, told in (
        ("group list", listed[0]),
        ("group describe", {**described, **described["partitions"][0]}),
        ("group pending", pending[0]),
        ("group reset", reset[0]),
    ):
        section = manual.partition(f"### {verb}\n")[2].partition("\n### ")[0]
        assert [name for name in told if f"`{name}`" not in section] == [], verb
