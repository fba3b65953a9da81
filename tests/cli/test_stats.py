from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

import mamba_stream as mamba
from tests import forking


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        with mamba.Producer(opened) as producer:
            for name in ("emails", "other"):
                producer.create_topic(name, partitions=2)
            producer.send_many("emails", ["x"] * 60)
        with mamba.Consumer(opened, group="mailers") as consumer:
            consumer.subscribe("emails")
            assert len(list(consumer.consume(max_messages=40))) == 40
    return tmp_path / "log"


def test_the_figures_of_topics_and_groups_are_told(run_command, log):
    found = run_command("stats", "-o", "json", "--log", log).json
    topics = {each["topic"]: each for each in found["topics"]}
    assert topics.keys() == {"emails", "other"}
    assert (topics["emails"]["backlog"], topics["emails"]["messages"]) == (20, 60)
    assert (topics["emails"]["per_second"], topics["emails"]["consumers"]) == (1.0, 0)
    assert (topics["other"]["backlog"], topics["other"]["bytes"]) == (None, 0)
    [group] = found["groups"]
    assert (group["group"], group["backlog"], group["topics"]) == ("mailers", 20, ["emails"])
    table = run_command("stats", "--log", log)
    assert (table.code, table.err) == (0, "")
    assert all(word in table.out for word in ("emails", "mailers", "backlog", "per s", "p99", "size"))


def test_one_topic_is_told_of_with_its_groups(run_command, log):
    found = run_command("stats", "other", "-o", "json", "--log", log).json
    assert ([each["topic"] for each in found["topics"]], found["groups"]) == (["other"], [])
    assert run_command("stats", "other", "--log", log).err == "no groups\n"
    missing = run_command("stats", "email", "--log", log)
    assert missing.code == 3
    assert "did you mean 'emails'?" in missing.err


def test_a_log_that_is_not_there_is_not_created(run_command, tmp_path):
    assert run_command("stats", "--log", tmp_path / "nothing").code == 4
    assert not (tmp_path / "nothing").exists()


def test_it_is_watched_until_it_is_interrupted(environment, log):
    command = [sys.executable, "-m", "mamba_stream.cli", "stats", "--watch", "-o", "json", "--log", str(log)]
    with forking.Process(command, env=environment, stdout=subprocess.PIPE) as watching:
        first = json.loads(watching.stdout.readline())
        with mamba.open(log) as opened, mamba.Producer(opened) as producer:
            producer.send("other", "x").result()
        second = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert first["at"] < second["at"]
    assert [each["messages"] for each in second["topics"]] == [60, 1]


def test_a_reader_that_has_seen_enough_ends_the_watch(environment, log):
    command = [sys.executable, "-m", "mamba_stream.cli", "stats", "--watch", "-o", "json", "--log", str(log)]
    with forking.Process(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as watching:
        watching.stdout.readline()
        watching.stdout.close()
        assert watching.wait(30) == 0
        assert watching.stderr.read() == b""
