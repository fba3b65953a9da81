from __future__ import annotations

import polars as pl
import pytest

from mamba_stream.log import open_log


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_a_topic_is_created_with_the_columns_that_were_named(run_command, log):
    made = run_command(
        *("topic", "create", "trades", "--schema", "at:datetime,price:decimal(10,2),tags:list[string]"),
        *("--time", "at", "--key", "price", "--partitions", 4, "--log", log),
    )
    assert (made.code, made.err) == (0, "")
    facts = run_command("topic", "describe", "trades", "-o", "json", "--log", log).json
    assert facts["columns"] == {"at": "datetime[us]", "price": "decimal(10,2)", "tags": "list[string]"}
    assert (facts["time"], facts["key"], len(facts["partitions"])) == ("at", ["price"], 4)
    assert facts["partitions"]["0"] == {"begin": 0, "end": 0, "rows": 0, "bytes": 0, "batches": 0}


def test_a_topic_takes_its_columns_from_a_file(run_command, log, tmp_path):
    pl.DataFrame({"n": [1], "word": ["a"]}).write_parquet(tmp_path / "rows.parquet")
    assert run_command("topic", "create", "t", "--like", tmp_path / "rows.parquet", "--log", log).code == 0
    columns = run_command("topic", "describe", "t", "-o", "json", "--log", log).json["columns"]
    assert columns == {"n": "int64", "word": "string"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("at:datetim", "did you mean 'datetime'"),
        ("at", "'at' is not NAME:TYPE"),
        ("a:int64,a:string", "'a' stands there twice"),
        ("", "is not NAME:TYPE"),
        ("a:decimal(39,2)", "1 to 38 digits"),
        ("a:list[decimal(5,9)]", "no more of them behind its point"),
    ],
)
def test_a_schema_that_cannot_be_read_is_a_usage_error_and_makes_no_log(run_command, log, schema, said):
    made = run_command("topic", "create", "t", "--schema", schema, "--log", log)
    assert made.code == 2
    assert said in made.err
    assert not log.exists()


def test_a_name_that_is_not_allowed_is_a_usage_error(run_command, log):
    made = run_command("topic", "create", "../t", "--schema", "a:int64", "--log", log)
    assert made.code == 2
    assert made.err.startswith("error: topic name '../t' contains '/'")
    assert len(made.err.splitlines()) == 1


def test_creating_a_topic_twice_fails_unless_that_is_allowed(run_command, log):
    create = ("topic", "create", "t", "--schema", "a:int64", "--log", log)
    assert [run_command(*create).code, run_command(*create).code] == [0, 1]
    assert run_command(*create, "--exist-ok").code == 0


def test_topics_are_listed_with_their_rows(run_command, log):
    run_command("topic", "create", "b", "--schema", "a:int64", "--log", log)
    run_command("topic", "create", "a", "--schema", "a:int64", "--log", log)
    listed = run_command("topic", "list", "-o", "json", "--log", log).json
    assert [(row["topic"], row["rows"], row["ended"]) for row in listed] == [("a", 0, False), ("b", 0, False)]
    assert "topic" in run_command("topic", "list", "--log", log).out


def test_looking_at_a_log_that_is_not_there_leaves_nothing_behind(run_command, log):
    looked = run_command("topic", "list", "--log", log)
    assert looked.code == 4
    assert looked.err.startswith(f"error: there is no log in {log}")
    assert not log.exists()


def test_an_unknown_topic_is_not_found_and_a_near_name_is_named(run_command, log):
    run_command("topic", "create", "trades", "--schema", "a:int64", "--log", log)
    for verb in ("describe", "tail", "delete"):
        found = run_command("topic", verb, "trade", "--log", log)
        assert found.code == 3
        assert "did you mean 'trades'?" in found.err


def test_tail_prints_what_was_appended_last_over_all_partitions(run_command, log):
    import mamba_stream as mamba

    with mamba.open(log) as opened:
        topic = opened.create_topic("t", {"n": pl.Int64}, partitions=3)
        for n in range(10):
            topic.append([{"n": n}], partition=n * 7 % 3)
    tail = run_command("topic", "tail", "t", "-n", 4, "-o", "json", "--log", log)
    assert [row["n"] for row in tail.rows] == [6, 7, 8, 9]
    assert run_command("topic", "tail", "t", "-n", 0, "--log", log).out == ""


def test_a_topic_is_deleted_only_when_that_is_confirmed(spawn_command, run_command, log):
    run_command("topic", "create", "t", "--schema", "a:int64", "--log", log)
    refused = spawn_command("topic", "delete", "t", "--log", log, stdin=b"n\n")
    assert refused.code != 0
    assert len(run_command("topic", "list", "-o", "json", "--log", log).json) == 1
    assert run_command("topic", "delete", "t", "--yes", "--log", log).code == 0
    assert run_command("topic", "list", "-o", "json", "--log", log).json == []


def test_a_topic_with_a_strict_key_is_created_and_described(run_command, log):
    create = ("topic", "create", "t", "--schema", "a:int64", "--key", "a", "--log", log)
    assert run_command(*create, "--strict-key").code == 0
    described = run_command("topic", "describe", "t", "-o", "json", "--log", log)
    assert described.json["strict key"] is True


def test_how_a_topic_is_kept_is_said_when_it_is_made_and_altered(run_command, log):
    create = ("topic", "create", "t", "--schema", "a:int64", "--key", "a", "--log", log)
    assert run_command(*create, "--retention", "7d", "--retention-bytes", "10GB", "--compact").code == 0
    assert run_command("topic", "alter", "t", "--quota", "50GB", "--log", log).code == 0

    def described():
        return run_command("topic", "describe", "t", "-o", "json", "--log", log).json

    facts = described()
    assert (facts["retention"], facts["retention bytes"]) == ("7 days, 0:00:00", "10GiB")
    assert facts["quota"] == "50GiB"
    assert run_command("topic", "alter", "t", "--quota", "none", "--log", log).code == 0
    assert described()["quota"] == "none"
    assert (facts["compact"], facts["tombstones"]) == (True, "1 day, 0:00:00")
    altered = run_command(
        "topic",
        "alter",
        "t",
        "--retention",
        "none",
        "--no-compact",
        "--seal-compression",
        "zstd",
        "--log",
        log,
    )
    assert (altered.code, altered.err) == (0, "")
    facts = described()
    assert (facts["retention"], facts["retention bytes"], facts["compact"]) == ("none", "10GiB", False)
    assert facts["seal compression"] == "zstd"


def test_upkeep_is_done_and_told(run_command, log):
    assert run_command("topic", "create", "t", "--schema", "a:int64", "--log", log).code == 0
    with open_log(log) as opened:
        for n in range(3):
            opened["t"].append([{"a": n}])
        found = run_command("maintain", str(log), "--budget", "1GiB", "-o", "json").json
        assert (found["done"], found["trimmed rows"], found["merged batches"]) == (True, 0, 2)
        held = opened.lock("upkeep", "log")
        refused = run_command("maintain", "--log", log)
        assert refused.code == 1 and "is at it already" in refused.err
        held.release()
    looked = run_command("maintain", "--log", log, "--scrub", "1GiB", "-o", "json").json
    assert (looked["done"], looked["scrubbed bytes"] > 0, looked["damaged"]) == (True, True, [])


def test_an_alteration_says_what_is_wrong_with_it(run_command, log):
    assert run_command("topic", "create", "t", "--schema", "a:int64", "--log", log).code == 0
    assert run_command("topic", "alter", "t", "--log", log).code == 2
    refused = run_command("topic", "alter", "t", "--compact", "--log", log)
    assert refused.code == 1
    assert "the topic has no key" in refused.err
    assert run_command("topic", "alter", "u", "--retention", "1d", "--log", log).code == 3
