from __future__ import annotations

import json
import subprocess
import sys

import pytest

import mamba_stream as mamba
from mamba_stream.messaging.members import CLIENTS
from tests import forking


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_two_terminals_are_a_first_try(environment, run_command, log):
    arguments = ["subscribe", "greetings", "-n", "2", "--log", str(log)]
    command = [sys.executable, "-m", "mamba_stream.cli", *arguments]
    with (
        mamba.open(log) as opened,
        forking.Process(command, env=environment, stdout=subprocess.PIPE, text=True) as other,
    ):
        try:
            # It waits for a topic that does not exist yet, and gets what comes from its beginning.
            while not opened.records(CLIENTS):
                opened.wait(opened.lsn(), 1.0)
                assert other.poll() is None
            assert run_command("publish", "greetings", "Hello, world!", "--log", log).err == (
                "1 message published to greetings\n"
            )
            run_command("publish", "greetings", "again", "--key", "k", "--log", log)
            assert other.wait(60) == 0
        finally:
            other.kill()
        assert other.stdout.read() == "Hello, world!\nk: again\n"


def test_what_was_published_comes_with_all_that_was_said_of_it(run_command, log):
    told = ("--key", "7", "--header", "region=eu", "--header", "a=b=c", "--event-type", "order")
    assert run_command("publish", "orders", '{"total": 12.5}', "--json", *told, "--log", log).code == 0
    shown = run_command(
        "subscribe", "orders", "--start", "earliest", "--until", "empty", "-o", "json", "--log", log
    )
    [message] = shown.rows
    assert (message["value"], message["key"], message["event_type"]) == ({"total": 12.5}, "7", "order")
    assert message["headers"] == {"region": "eu", "a": "b=c"}


def test_every_line_of_the_input_is_a_message(spawn_command, run_command, log):
    done = spawn_command("publish", "lines", "--log", log, stdin="a\n\nbé\n".encode())
    assert (done.code, done.err) == (0, "3 messages published to lines\n")
    shown = run_command("subscribe", "lin*", "--start", "earliest", "--until", "empty", "--log", log)
    assert shown.out == "a\n\nbé\n"


@pytest.mark.parametrize(
    ("arguments", "lines", "said"),
    [
        (("--json",), b"1\n2\n{\n4\n", "line 3: '{' is not JSON"),
        ((), b"a\nb\n\xff\n", "line 3: "),
    ],
    ids=["json", "utf-8"],
)
def test_a_line_that_is_no_message_is_named_with_what_was_published_before(
    spawn_command, log, arguments, lines, said
):
    done = spawn_command("publish", "lines", *arguments, "--log", log, stdin=lines)
    assert done.code == 1
    assert said in done.err
    assert "published before it: 2" in done.err
    with mamba.open(log) as opened:
        assert sum(end for _, end in opened["lines"].offsets().values()) == 2


def test_members_of_a_group_get_what_others_of_it_did_not(run_command, log):
    for value in "abc":
        run_command("publish", "letters", value, "--log", log)
    arguments = ("--group", "readers", "--start", "earliest", "--log", log)
    first = run_command("subscribe", "letters", "-n", "1", *arguments)
    rest = run_command("subscribe", "letters", "--until", "empty", *arguments)
    assert (first.out, rest.out) == ("a\n", "b\nc\n")


def test_a_delayed_message_comes_later(run_command, log):
    run_command("publish", "later", "x", "--delay", "1h", "--log", log)
    run_command("publish", "later", "y", "--log", log)
    done = run_command("subscribe", "later", "--start", "earliest", "-n", "1", "--log", log)
    assert done.out == "y\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("publish", "a/b", "x"), 2, "contains '/'"),
        (("publish", "t", "x", "--header", "region"), 2, "--header takes NAME=VALUE"),
        (("publish", "t", "{x}", "--json"), 2, "'{x}' is not JSON"),
        (("publish", "t", "x", "--delay", "soon"), 2, "not a duration"),
        (("subscribe", "t", "--start", "7"), 2, "choose earliest, latest or a time"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(run_command, log, arguments, code, said):
    done = run_command(*arguments, "--log", log)
    assert said in done.err
    assert done.code == code


def test_json_is_printed_one_message_a_line(run_command, log):
    run_command("publish", "t", "two\nlines", "--log", log)
    shown = run_command(
        "subscribe", "t", "--start", "earliest", "--until", "empty", "-o", "json", "--log", log
    )
    assert json.loads(shown.out)["value"] == "two\nlines"
