from __future__ import annotations

import datetime as dt
import json
import math
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import mamba_stream as mamba
from tests import forking
from tests.server.running import until
from tests.sizes import examples

UTC = dt.UTC

EVERYTHING = pl.DataFrame(
    {
        "at": [dt.datetime(2013, 1, 1, 10, 0, 0, 123456, UTC), None],
        "fine": pl.Series([1_356_998_400_123_456_789, None]).cast(pl.Datetime("ns", "UTC")),
        "day": [dt.date(2013, 1, 1), None],
        "clock": [dt.time(10, 30), None],
        "price": [Decimal("3.50"), None],
        "flag": [True, None],
        "small": pl.Series([-128, None], dtype=pl.Int8),
        "big": pl.Series([2**63, None], dtype=pl.UInt64),
        "ratio": [0.1, None],
        "word": ['naïve, "quoted"\nand broken', None],
        "raw": [b"\x00\xff", None],
        "list": [[1, None], None],
        "odd name, really": [{"a": 1, "b": ["x"]}, None],
    }
)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def frame_of(log, topic):
    with mamba.open(log) as opened:
        return opened[topic].scan().collect()


@pytest.mark.parametrize("suffix", ["ndjson", "csv", "parquet"])
def test_a_file_is_appended_with_a_schema_guessed_from_it(run_command, log, tmp_path, suffix):
    frame = pl.DataFrame(
        {
            "at": ["2013-01-01T10:00:00Z", "2013-01-01T11:00:00Z"],
            "n": [1, None],
            "price": [1.5, 2.0],
            "word": ["a", "b"],
        }
    )
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        frame = frame.with_columns(pl.col("at").str.to_datetime(time_unit="us", time_zone="UTC"))
    getattr(frame, f"write_{suffix}")(file)
    done = run_command("produce", "t", file, "--create", "--time", "at", "--key", "word", "--log", log)
    assert (done.code, done.out, done.err) == (0, "", "2 rows appended to t\n")
    stored = frame_of(log, "t")
    assert stored.schema == {
        "at": pl.Datetime("us", "UTC"),
        "n": pl.Int64,
        "price": pl.Float64,
        "word": pl.String,
    }
    assert stored.rows() == [
        (dt.datetime(2013, 1, 1, 10, tzinfo=UTC), 1, 1.5, "a"),
        (dt.datetime(2013, 1, 1, 11, tzinfo=UTC), None, 2.0, "b"),
    ]
    with mamba.open(log) as opened:
        assert (opened["t"].time, opened["t"].key) == ("at", ("word",))


def test_what_is_consumed_as_json_can_be_produced_again(run_command, log, tmp_path):
    with mamba.open(log) as opened:
        opened.create_topic("there", EVERYTHING).append(EVERYTHING)
        opened.create_topic("back", EVERYTHING)
    (tmp_path / "rows.ndjson").write_text(run_command("consume", "there", "-o", "json", "--log", log).out)
    assert (
        run_command("produce", "back", tmp_path / "rows.ndjson", "--log", log).err
        == "2 rows appended to back\n"
    )
    assert frame_of(log, "back").equals(frame_of(log, "there"))


@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "n": st.none() | st.integers(-(2**63), 2**63 - 1),
                "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
                "s": st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
                "b": st.none() | st.booleans(),
            }
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["ndjson", "csv"]),
)
def test_rows_arrive_as_they_were_written(tmp_path_factory, rows, form):
    from mamba_stream.cli.incoming import incoming

    frame = pl.DataFrame(rows, schema={"n": pl.Int64, "x": pl.Float64, "s": pl.String, "b": pl.Boolean})
    file = tmp_path_factory.mktemp("rows") / "rows"
    if form == "ndjson":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.write_csv(file)
    schema = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with file.open("rb") as source:
        read = pl.concat([pl.DataFrame(batch) for batch in incoming(source, form).batches(schema)])
    assert read.equals(frame)


@pytest.mark.parametrize(
    ("suffix", "text", "said"),
    [
        ("ndjson", '{"n":1}\n{"n":"x"}', "line 2: Expected `int`, got `str` in `n`"),
        ("ndjson", '{"n":1}\n\n{"smal":1}', "line 3: unexpected 'smal', did you mean 'small'?"),
        ("ndjson", '{"n":true}', "line 1: Expected `int`, got `bool`"),
        ("ndjson", '{"n":1}\n{"n"', "line 2: "),
        ("ndjson", "[1]", "line 1: Expected `object`, got `array`"),
        ("ndjson", '{"at":"yesterday"}', "column 'at': at is not ISO 8601: 'yesterday'"),
        ("ndjson", '{"small":300}', "line 1: Expected `int` <= 127"),
        ("csv", "n\n1\nx\n", "line 3: Expected `int`, got `str` in `n`"),
        ("csv", "n,smal\n1,2\n", "header: unexpected 'smal', did you mean 'small'?"),
        ("csv", "n\n1,2\n", "line 2: 2 cells, and the header has 1"),
        ("csv", 'n,at\n1,"2013', "line 3: unexpected end of data"),
        ("parquet", "not that", "not a Parquet file"),
    ],
)
def test_a_row_that_does_not_fit_is_named_and_nothing_of_its_batch_is_appended(
    run_command, log, tmp_path, suffix, text, said
):
    schema = "n:int64,small:int8,at:datetime"
    run_command("topic", "create", "t", "--schema", schema, "--log", log)
    (tmp_path / f"rows.{suffix}").write_text(text)
    done = run_command("produce", "t", tmp_path / f"rows.{suffix}", "--log", log)
    assert done.code == 1
    assert said in done.err
    assert done.err.startswith("error: ")
    assert frame_of(log, "t").height == 0


def test_a_moment_keeps_its_nanoseconds_or_is_refused(run_command, log, tmp_path):
    run_command("topic", "create", "ns", "--schema", "at:datetime[ns]", "--log", log)
    run_command("topic", "create", "us", "--schema", "at:datetime", "--log", log)
    (tmp_path / "rows.ndjson").write_text('{"at":"2013-01-01T10:00:00.123456789+02:00"}')
    assert run_command("produce", "ns", tmp_path / "rows.ndjson", "--log", log).code == 0
    assert frame_of(log, "ns")["at"].dt.timestamp("ns").to_list() == [1_357_027_200_123_456_789]
    refused = run_command("produce", "us", tmp_path / "rows.ndjson", "--log", log)
    assert (refused.code, frame_of(log, "us").height) == (1, 0)


def test_nothing_is_created_unless_that_was_asked_for(run_command, log, tmp_path):
    (tmp_path / "rows.ndjson").write_text('{"n":1}')
    assert run_command("produce", "t", tmp_path / "rows.ndjson", "--log", log).code == 4
    assert not log.exists()
    run_command("topic", "create", "other", "--schema", "n:int64", "--log", log)
    missing = run_command("produce", "t", tmp_path / "rows.ndjson", "--log", log)
    assert missing.code == 3
    assert run_command("topic", "list", "-o", "json", "--log", log).json[0]["topic"] == "other"


def test_a_topic_can_be_ended_with_its_last_row(run_command, log, tmp_path):
    (tmp_path / "rows.ndjson").write_text('{"n":1}')
    produce = ("produce", "t", tmp_path / "rows.ndjson", "--create", "--end", "--log", log)
    assert run_command(*produce).code == 0
    assert run_command("topic", "list", "-o", "json", "--log", log).json[0]["ended"]
    assert run_command(*produce).code == 1


def test_a_pipe_is_appended_as_it_comes_and_followed_as_it_is_appended(log, environment, run_command):
    run_command("topic", "create", "t", "--schema", "n:int64", "--log", log)
    command = [sys.executable, "-m", "mamba_stream.cli"]
    writer = forking.Process([*command, "produce", "t", "--log", log], stdin=subprocess.PIPE, env=environment)
    follower = forking.Process(
        [*command, "consume", "t", "--follow", "-n", "3", "-o", "json", "--log", log],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    with writer, follower:
        for n in range(3):
            writer.stdin.write(f'{{"n":{n}}}\n'.encode())
            writer.stdin.flush()
            # The next row is written only once this one has come all the way round.
            assert json.loads(follower.stdout.readline()) == {"n": n}
        writer.stdin.close()
        assert (follower.wait(30), writer.wait(30)) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [("produce", "t", "--create"), ("produce", "t", "--create", "--format", "csv"), ("publish", "t")],
)
def test_waiting_for_rows_is_ended_with_ctrl_c(log, environment, arguments):
    command = [sys.executable, "-c", READS, *arguments, "--log", log]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as reading:
        assert reading.stdout.readline() == b"reads\n"
        until(lambda: " S " in Path(f"/proc/{reading.pid}/stat").read_text())
        reading.send_signal(signal.SIGINT)
        try:
            assert reading.wait(30) == 130
        finally:
            reading.kill()


READS = """
import os, signal, sys
from mamba_stream.cli import interrupting, main

def told():
    ready()
    os.write(1, b"reads\\n")

ready, interrupting.interruptible = interrupting.interruptible, told
main()
"""


def test_each_format_is_read_from_standard_input(spawn_command, log):
    frame = pl.DataFrame({"n": [1, 2]})
    parquet = __import__("io").BytesIO()
    frame.write_parquet(parquet)
    inputs = {"ndjson": b'{"n":1}\n{"n":2}', "csv": b"n\n1\n2", "parquet": parquet.getvalue()}
    for form, stdin in inputs.items():
        done = spawn_command("produce", form, "--format", form, "--create", "--log", log, stdin=stdin)
        assert (done.code, done.err) == (0, f"2 rows appended to {form}\n")
        assert frame_of(log, form).equals(frame)


@pytest.fixture
def numbers(log):
    with mamba.open(log) as opened:
        topic = opened.create_topic(
            "t", {"n": pl.Int64, "s": pl.String, "at": pl.Datetime("us", "UTC")}, time="at"
        )
        start = dt.datetime(2013, 1, 1, tzinfo=UTC)
        for low in range(0, 100, 7):
            ns = range(low, min(low + 7, 100))
            topic.append([{"n": n, "s": f"s{n}", "at": start + dt.timedelta(hours=n)} for n in ns])
    return log


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], range(100)),
        (["-n", 5], range(5)),
        (["-n", 0], []),
        (["--start", 90], range(90, 100)),
        (["--start", "latest"], []),
        (["--start", "2013-01-03"], range(48, 100)),
        (["--start", "2013-01-01T12:00:00+02:00", "-n", 3], range(10, 13)),
        (["--where", "n >= 20 AND n < 25"], range(20, 25)),
        (["--where", "s IN ('s3', 's77') OR n = 50"], [3, 50, 77]),
        (["--where", "n >= 90 AND NOT s IS NULL", "-n", 3], [90, 91, 92]),
        (["--start", 95, "--where", "s LIKE '%6' OR s LIKE '%8'", "-n", 9], [96, 98]),
    ],
)
def test_consume_prints_the_rows_that_were_asked_for(run_command, numbers, options, expected):
    done = run_command("consume", "t", "-o", "json", *options, "--log", numbers)
    assert (done.code, done.err) == (0, "")
    assert [row["n"] for row in done.rows] == list(expected)


def test_columns_and_offsets_are_printed_on_demand(run_command, numbers):
    only = run_command(
        "consume", "t", "-o", "json", "-n", 1, "--columns", "s", "--where", "n = 9", "--log", numbers
    )
    assert only.rows == [{"s": "s9"}]
    placed = run_command("consume", "t", "-o", "json", "--offsets", "--start", 42, "-n", 1, "--log", numbers)
    assert placed.rows == [
        {"_partition": 0, "_offset": 42, "n": 42, "s": "s42", "at": "2013-01-02T18:00:00Z"}
    ]


def test_a_table_has_one_header_and_aligned_columns(run_command, numbers):
    table = run_command("consume", "t", "-n", 9, "--columns", "n,s", "--log", numbers).out
    assert table.splitlines() == ["n  s", *(f"{n}  s{n}" for n in range(9))]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--where", "prise > 3"], 1, "no column 'prise'"),
        (["--where", "n > > 3"], 2, "unable to parse"),
        (["--where", "n + 1"], 2, "not true or false"),
        (["--where", "SUM(n) > 3"], 2, "looks beyond its row"),
        (["--where", "n > LAG(n)"], 2, ""),
        (["--columns", "n,m"], 1, "no column 'm'"),
        (["--start", "yesterday"], 2, "neither 'earliest', 'latest', an offset nor a time"),
        (["--start", "1000"], 1, "lies behind its end 100"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(run_command, numbers, options, code, said):
    done = run_command("consume", "t", *options, "--log", numbers)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(environment, numbers):
    shell = f"'{sys.executable}' -m mamba_stream.cli consume t --log '{numbers}' | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_not_a_number_is_null_in_json(run_command, log):
    with mamba.open(log) as opened:
        opened.create_topic("t", {"x": pl.Float64}).append([{"x": math.nan}, {"x": math.inf}])
    assert run_command("consume", "t", "-o", "json", "--log", log).rows == [{"x": None}, {"x": None}]
