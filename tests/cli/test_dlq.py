from __future__ import annotations

import pytest

import mamba_stream as mamba


@pytest.fixture
def log(tmp_path):
    """Five messages that nobody could do anything with, and a sixth that was done."""
    with mamba.open(tmp_path / "log") as opened:
        with mamba.Producer(opened) as producer:
            producer.create_topic("emails", partitions=1)
            for n in range(5):
                producer.send("emails", f"mail {n}", key=f"k{n}", headers={"n": str(n)}, event_type="order")
            producer.send("emails", {"good": True}, event_type="note")

        def send(message):
            if message.event_type == "order":
                raise mamba.Reject("Timeout" if message.offset % 2 else "no such\naddress")

        with mamba.Subscriber("emails", opened, group="mailers", start="earliest") as subscriber:
            subscriber.subscribe(send)
            subscriber.run(until="empty")
    return tmp_path / "log"


def received(log):
    found = []
    with mamba.open(log) as opened, mamba.Subscriber("emails", opened, group="mailers") as subscriber:
        subscriber.subscribe(lambda message: found.append((message.value, message.key, message.attempt)))
        subscriber.run(until="empty")
    return found


def test_topics_of_dead_letters_are_listed_with_what_is_left(run_command, log):
    listed = run_command("dlq", "list", "-o", "json", "--log", log).json
    assert listed == [{"topic": "emails.dead", "left": 5, "redriven": 0, "purged": 0}]
    assert "emails.dead" in run_command("dlq", "list", "--log", log).out


def test_a_log_without_dead_letters_says_so(run_command, tmp_path):
    mamba.open(tmp_path / "log").close()
    none = run_command("dlq", "list", "--log", tmp_path / "log")
    assert (none.code, none.out) == (0, "")
    assert "no topics of dead letters" in none.err


def test_letters_are_listed_with_their_cause(run_command, log, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    found = run_command("dlq", "list", "emails.dead", "-o", "json", "--log", log).json
    assert [(each["value"], each["cause"], each["attempts"]) for each in found] == [
        (f"mail {n}", "Timeout" if n % 2 else "no such\naddress", 1) for n in range(5)
    ]
    assert found[2]["origin"] == {"topic": "emails", "partition": 0, "offset": 2}
    table = run_command("dlq", "list", "emails.dead", "-n", "2", "--log", log)
    assert "no such\\naddress" in table.out and "mail 1" in table.out and "mail 2" not in table.out
    assert "and 3 more: --rows 5 shows all" in table.err


def test_one_letter_is_shown_whole(run_command, log):
    shown = run_command("dlq", "show", "emails.dead", "3", "-o", "json", "--log", log).json
    assert (shown["value"], shown["key"], shown["headers"], shown["event_type"], shown["state"]) == (
        "mail 3",
        "k3",
        {"n": "3"},
        "order",
        "left",
    )
    assert "mail 3" in run_command("dlq", "show", "emails.dead", "3", "--log", log).out


def test_letters_go_back_once_with_what_they_were_sent_with(run_command, log):
    done = run_command("dlq", "redrive", "emails.dead", "--log", log)
    assert (done.code, done.out, done.err) == (0, "put 5 letters back; 0 left in emails.dead\n", "")
    again = run_command("dlq", "redrive", "emails.dead", "--log", log)
    assert (again.code, again.out) == (0, "put 0 letters back; 0 left in emails.dead\n")
    assert received(log) == [(f"mail {n}", f"k{n}", 1) for n in range(5)]
    states = run_command("dlq", "list", "emails.dead", "--all", "-o", "json", "--log", log).json
    assert {each["state"] for each in states} == {"redriven"}


def test_letters_are_chosen_by_sql_by_offset_and_by_number(run_command, log):
    where = ("--where", "_dead.cause LIKE 'Time%' AND event_type = 'order'", "--log", log)
    listed = run_command("dlq", "list", "emails.dead", "-o", "json", *where).json
    assert [each["offset"] for each in listed] == [1, 3]
    done = run_command("dlq", "redrive", "emails.dead", "--limit", "1", *where)
    assert done.out == "put 1 letter back; 4 left in emails.dead\n"
    done = run_command("dlq", "redrive", "emails.dead", "--offset", "4", "--offset", "1", "--log", log)
    assert done.out == "put 1 letter back; 3 left in emails.dead\n"
    assert [value for value, _, _ in received(log)] == ["mail 1", "mail 4"]


def test_a_purge_asks_first_and_does_away_with_letters(run_command, spawn_command, log):
    refused = spawn_command("dlq", "purge", "emails.dead", "--log", log, stdin=b"n\n")
    assert refused.code == 130
    assert "purge all of the 5 letters left in emails.dead?" in refused.err
    done = run_command("dlq", "purge", "emails.dead", "--where", "_dead.offset < 2", "--yes", "--log", log)
    assert done.out == "purged 2 letters; 3 left in emails.dead\n"
    assert run_command("dlq", "show", "emails.dead", "0", "--log", log).code == 3
    done = run_command("dlq", "purge", "emails.dead", "--yes", "--log", log)
    assert done.out == "purged 3 letters; 0 left in emails.dead\n"
    assert run_command("dlq", "redrive", "emails.dead", "--log", log).out.startswith("put 0 letters back")
    assert received(log) == []


def test_letters_whose_topic_was_deleted_stay_and_may_go_elsewhere(run_command, log):
    run_command("topic", "delete", "emails", "--yes", "--log", log)
    done = run_command("dlq", "redrive", "emails.dead", "--log", log)
    assert done.code == 1
    assert done.out == "put 0 letters back; 5 left in emails.dead\n"
    assert "5 letters could not be put back: topic 'emails', from which they came, was deleted" in done.err
    assert "--to TOPIC" in done.err
    run_command("publish", "again", "first", "--log", log)
    done = run_command("dlq", "redrive", "emails.dead", "--to", "again", "--log", log)
    assert (done.code, done.out) == (0, "put 5 letters back; 0 left in emails.dead\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("list", "emails"), 1, "'emails' is not one of dead letters"),
        (("redrive", "emails"), 1, "there are emails.dead"),
        (("purge", "emails", "--yes"), 1, "is not one of dead letters"),
        (("show", "emails.ded", "0"), 3, "did you mean 'emails.dead'?"),
        (("show", "emails.dead", "7"), 3, "has no letter 7: its offsets are 0..4"),
        (("show", "emails.dead", "0", "--partition", "1"), 3, "partition 1, has no letter 0"),
        (("redrive", "emails.dead", "--offset", "9"), 3, "has no letter 9"),
        (("redrive", "emails.dead", "--to", "nowhere"), 3, "no topic 'nowhere'"),
        (("redrive", "emails.dead", "--where", "_dead.atempts > 1"), 2, "atempts"),
        (("list", "emails.dead", "--where", "cause = 'x'"), 1, "has no column 'cause'"),
        (("list", "emails.dead", "--where", "priority"), 2, "not true or false"),
        (("list", "--all"), 2, "name their topic"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(run_command, log, arguments, code, said):
    done = run_command("dlq", *arguments, "--log", log)
    assert said in done.err
    assert done.code == code
