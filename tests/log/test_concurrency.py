"""Many threads and processes at one partition: dense offsets, every writer's order, nothing twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import polars as pl

from mamba_stream.errors import PreconditionFailed
from mamba_stream.log import Log
from tests.log.neighbour import finished, script
from tests.log.pictures import rows_of

WRITER = """
import json, sys, threading
import polars as pl
from mamba_stream.log import locate

path, name, threads, appends = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
answers = {}

def write(thread):
    for number in range(appends):
        rows = pl.DataFrame({"writer": [f"{name}-{thread}"] * (number % 3 + 1), "number": [number] * (number % 3 + 1)})
        [(partition, both)] = topic.append(rows).items()
        answers.setdefault(f"{name}-{thread}", []).append([number, partition, *both])

with locate(path) as log:
    topic = log["shared"]
    print("ready", flush=True)
    sys.stdin.readline()
    running = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for thread in running: thread.start()
    for thread in running: thread.join()
print(json.dumps(answers))
"""


def run_writers(log: Log, processes: int, threads: int, appends: int) -> dict[str, list[list[int]]]:
    """What every writer was told, by writer."""
    running = [script(WRITER, log.place, f"p{at}", threads, appends) for at in range(processes)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers: dict[str, list[list[int]]] = {}
    for process in running:
        answers |= json.loads(finished(process, 120))
    return answers


def test_processes_and_threads_append_to_one_partition_in_order_and_without_gaps(log: Log) -> None:
    topic = log.create_topic("shared", {"writer": str, "number": int})
    answers = run_writers(log, processes=3, threads=2, appends=60)
    rows = rows_of(topic)
    assert [offset for _, offset, _ in rows] == list(range(topic.offsets()[0][1]))
    at = {offset: row for _, offset, row in rows}
    claimed: Counter[int] = Counter()
    for writer, told in answers.items():
        assert [number for number, *_ in told] == list(range(60))
        firsts = [first for _, _, first, _ in told]
        assert firsts == sorted(firsts), "a writer's appends keep their order"
        for number, _, first, following in told:
            claimed.update(range(first, following))
            assert [at[offset] for offset in range(first, following)] == [(writer, number)] * (number % 3 + 1)
    assert claimed == Counter(range(len(rows))), "every row was acknowledged to one writer"
    assert log.lsn() == 1 + 3 * 2 * 60


def test_followers_in_other_processes_see_everything_in_order(log: Log) -> None:
    topic = log.create_topic("shared", {"writer": str, "number": int}, partitions=3)
    follower = """
import json, sys
from mamba_stream.log import locate
with locate(sys.argv[1]) as log:
    print("ready", flush=True)
    seen = [[b.partition, int(o), *r.values()] for b in log["shared"].read(follow=True)
            for o, r in zip(b.offsets, b.data.to_pylist())]
print(json.dumps(seen))
"""
    running = [script(follower, log.place) for _ in range(2)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    here: list[Any] = []
    thread = threading.Thread(
        target=lambda: here.extend(
            [b.partition, int(o), *r.values()]
            for b in topic.read(follow=True)
            for o, r in zip(b.offsets, b.data.to_pylist(), strict=True)
        )
    )
    thread.start()
    run_writers(log, processes=2, threads=1, appends=80)
    topic.end()
    thread.join(60)
    everything = sorted([p, offset, *row] for p, offset, row in rows_of(topic))
    for seen in (here, *(json.loads(finished(process)) for process in running)):
        assert sorted(seen) == everything
        for partition in range(3):
            offsets = [offset for p, offset, *_ in seen if p == partition]
            assert offsets == sorted(offsets)


def test_producers_that_repeat_themselves_from_many_threads_land_once(log: Log) -> None:
    topic = log.create_topic("shared", {"n": int}, partitions=2)
    answers: list[list[Any]] = [[] for _ in range(6)]

    def send(thread: int) -> None:
        for number in range(40):
            # Two threads are the same producer, and race with the same numbers.
            answers[thread].append(
                topic.append([{"n": number}], producer=f"p{thread // 2}", sequence=number, partition=0)
            )

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    for pair in range(3):
        assert len(answers[2 * pair]) == 40
        assert answers[2 * pair] == answers[2 * pair + 1]
    assert Counter(row[0] for _, _, row in rows_of(topic)) == Counter(dict.fromkeys(range(40), 3))


def test_expectations_make_a_counter_that_loses_nothing(log: Log) -> None:
    """Read the last value, append the next only if nobody else did: from four threads and another process."""
    code = """
import sys
from mamba_stream.log import locate
from mamba_stream.errors import PreconditionFailed
with locate(sys.argv[1]) as log:
    topic, done = log["counter"], 0
    while done < 25:
        end = topic.offsets()[0][1]
        last = next(iter(topic.read(start=end - 1))).data["n"][0].as_py() if end else 0
        try:
            topic.append([{"n": last + 1}], expect={0: end})
            done += 1
        except PreconditionFailed:
            pass
"""
    topic = log.create_topic("counter", {"n": int})
    process = script(code, log.place)

    def count() -> None:
        done = 0
        while done < 25:
            end = topic.offsets()[0][1]
            last = next(iter(topic.read(start=end - 1))).data["n"][0].as_py() if end else 0
            try:
                topic.append([{"n": last + 1}], expect={0: end})
                done += 1
            except PreconditionFailed:
                pass

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    finished(process, 120)
    assert [row[0] for _, _, row in rows_of(topic)] == list(range(1, 101))


def test_a_reader_sees_transactions_whole_while_they_are_written(log: Log) -> None:
    """Each transaction moves an amount between two topics: in what one lsn shows, the sums agree."""
    left, right = (log.create_topic(name, {"amount": int}) for name in ("left", "right"))
    stop = threading.Event()

    def move() -> None:
        for amount in range(150):
            with log.transaction() as tx:
                tx.append("left", [{"amount": -amount}])
                tx.append("right", [{"amount": amount}] * 2)
        stop.set()

    thread = threading.Thread(target=move)
    thread.start()
    while not stop.is_set():
        end = {name: log[name].offsets()[0][1] for name in ("left", "right")}
        # "right" was looked at later: it is never behind.
        assert end["right"] >= 2 * end["left"]
        assert end["right"] % 2 == 0
    thread.join()
    sums = [topic.scan().select(pl.col("amount").sum()).collect().item() for topic in (left, right)]
    assert sums == [-sum(range(150)), 2 * sum(range(150))]


def test_one_process_trims_and_seals_while_others_append_and_read(log: Log) -> None:
    topic = log.create_topic("shared", {"writer": str, "number": int})
    stop = threading.Event()
    failed: list[Exception] = []

    def tidy() -> None:
        try:
            while not stop.is_set():
                begin, end = topic.offsets()[0]
                topic.trim({0: begin + (end - begin) // 2})
                log.seal()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=tidy)
    thread.start()
    answers = run_writers(log, processes=2, threads=1, appends=80)
    stop.set()
    thread.join(60)
    assert failed == []
    begin, end = topic.offsets()[0]
    kept = {offset: row for _, offset, row in rows_of(topic)}
    assert sorted(kept) == list(range(begin, end))
    for writer, told in answers.items():
        for number, _, first, following in told:
            for offset in range(max(first, begin), following):
                assert kept[offset] == (writer, number)
