"""The audit topic: every kind of event is there with its number, and nobody waits for it or fails by it."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

import polars as pl
import pytest

from mamba_stream.errors import DiskFull
from mamba_stream.server.audit import TOPIC, Audit, audit_topic
from tests.server.clocks import HandClock

REFUSED = {"operation": "read", "kind": "topic", "outcome": "denied", "code": "NotAuthorized"}
HOUR = 3_600.0


class Written:
    """What was written, unless it is told to fail, or to wait."""

    def __init__(self):
        self.rows: list[dict] = []
        self.error: Exception | None = None
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, batch):
        self.begun.set()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.rows += pl.DataFrame(batch).to_dicts()


@pytest.fixture
def written():
    return Written()


@pytest.fixture
def audit(written):
    made = Audit(written, HandClock(), room=8, share=8, every=HOUR)
    yield made
    written.error = None
    written.gate.set()
    made.close()


def test_events_are_rows_of_an_internal_topic_of_the_log(log):
    clock = HandClock()
    audit = Audit(audit_topic(log), clock, every=HOUR)
    for _ in range(3):
        audit.note(user="ann", peer="ipv4:10.0.0.1:5000", name="orders", **REFUSED)
        clock.move(1)
    audit.note(user="ann", peer="ipv4:10.0.0.1:5001", name="orders", **REFUSED)
    audit.note(
        user="bob", peer="ipv6:%5B::1%5D:5", operation="delete", kind="topic", name="old", outcome="allowed"
    )
    audit.close()
    assert TOPIC not in log.topics() and TOPIC in log.topics(internal=True)
    rows = log[TOPIC].scan().collect().drop("time").rows()
    assert rows == [
        ("ann", "ipv4:10.0.0.1", "read", "topic", "orders", "denied", "NotAuthorized", 4),
        ("bob", "ipv6:[::1]", "delete", "topic", "old", "allowed", "", 1),
    ]
    first = log[TOPIC].scan().collect()["time"].dt.timestamp("us").to_list()
    assert first == [HandClock().now(), HandClock().now() + 3_000_000]
    # Another server's process opens the same topic.
    audit_topic(log)


def test_rows_are_kept_for_as_long_as_is_wanted(log):
    clock = HandClock()
    write = audit_topic(log, keep=timedelta(days=30), clock=clock)
    audit = Audit(write, clock, every=HOUR)
    for day in range(40):
        audit.note(user=f"day {day}", peer="", name="orders", **REFUSED)
        assert audit.flush()
        clock.move(86_400)
    users = log[TOPIC].scan().collect()["user"].to_list()
    assert users == [f"day {day}" for day in range(9, 40)]
    audit.close()
    # Another server's process goes on where this one ended; it keeps few.
    audit = Audit(audit_topic(log, most=10, clock=clock), clock, every=HOUR)
    audit.note(user="last", peer="", name="orders", **REFUSED)
    audit.close()
    assert log[TOPIC].scan().collect()["user"].to_list() == [*(f"day {day}" for day in range(31, 40)), "last"]


def test_a_thread_writes_what_there_is_and_closing_writes_the_rest(written):
    audit = Audit(written, HandClock(), every=0.005)
    audit.note(user="ann", peer="", name="orders", **REFUSED)
    waiting = threading.Event()
    while not written.rows:
        waiting.wait(0.005)
    audit.note(user="bob", peer="", name="orders", **REFUSED)
    audit.close()
    assert [row["user"] for row in written.rows] == ["ann", "bob"] and audit.written == 2


def test_nobody_waits_while_the_log_hangs(audit, written):
    audit.note(user="ann", peer="", name="orders", **REFUSED)
    written.gate.clear()
    writer = threading.Thread(target=audit.flush)
    writer.start()
    written.begun.wait()
    for n in range(100):
        audit.note(user=f"user{n}", peer="", name="orders", **REFUSED)
    assert audit.dropped == 92
    written.gate.set()
    writer.join()
    assert audit.flush()
    assert sum(row["count"] for row in written.rows) == 101
    dropped = [row for row in written.rows if row["outcome"] == "dropped"]
    assert {(row["user"], row["code"], row["count"]) for row in dropped} == {
        (f"user{n}", "AuditFull", 1) for n in range(8, 100)
    }


def test_nobody_fills_the_topic_with_what_he_thinks_of(written):
    audit = Audit(written, HandClock(), share=5, every=HOUR)
    for n in range(1_000):
        audit.note(user="eve", peer="", name=f"topic{n}", **REFUSED)
        audit.note(user="", peer=f"ipv6:[2001:db8::{n:x}]:{n}", name="", **REFUSED)
    audit.note(user="ann", peer="", name="orders", **REFUSED)
    audit.close()
    kept = [row for row in written.rows if row["outcome"] != "dropped"]
    assert sorted(row["user"] for row in kept) == [*[""] * 5, "ann", *["eve"] * 5]
    dropped = {row["user"]: row["count"] for row in written.rows if row["outcome"] == "dropped"}
    assert dropped == {"eve": 995, "": 995} and audit.dropped == 1_990


@pytest.mark.parametrize("error", [DiskFull("no room"), RuntimeError("a defect")])
def test_what_could_not_be_written_is_kept_counted_and_said_once(audit, written, caplog, error):
    written.error = error
    for _ in range(2):
        for n in range(5):
            audit.note(user=f"user{n}", peer="", name="orders", **REFUSED)
        assert not audit.flush()
    for n in range(6):
        audit.note(user=f"more{n}", peer="", name="orders", **REFUSED)
    assert not audit.flush()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    written.error = None
    assert audit.flush()
    counts = {row["user"]: row["count"] for row in written.rows}
    assert counts == {**{f"user{n}": 2 for n in range(5)}, **{f"more{n}": 1 for n in range(6)}}
    assert audit.dropped == 3 and audit.written == 16


def test_many_threads_lose_nothing_that_there_is_room_for(written):
    audit = Audit(written, HandClock(), every=0.001)

    def note(user):
        for n in range(500):
            audit.note(user=user, peer="", name=str(n % 7), **REFUSED)

    threads = [threading.Thread(target=note, args=(f"user{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    assert sum(row["count"] for row in written.rows) == 8 * 500 and audit.dropped == 0


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\ud800", "\u202eevil", "x" * 10_000, "\0"])
def test_names_from_outside_cannot_play_with_whoever_reads_them(audit, written, name):
    audit.note(user="", peer=name, name=name, **REFUSED)
    assert audit.flush()
    [row] = written.rows
    assert row["name"].isprintable() and row["peer"].isprintable() and len(row["name"]) <= 4 * 256
