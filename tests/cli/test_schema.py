from __future__ import annotations

import polars as pl
import pytest


@pytest.fixture
def log(tmp_path, run_command):
    place = tmp_path / "log"
    run_command("topic", "create", "t", "--schema", "at:datetime,n:int32", "--time", "at", "--log", place)
    return place


def test_a_topic_is_altered_and_its_history_is_shown(run_command, log):
    added = run_command("topic", "alter", "t", "--add", "note:string", "--log", log)
    assert (added.code, added.err) == (0, "")
    assert added.out.startswith("topic t: added 'note' (String)")
    wider = run_command("topic", "alter", "t", "--schema", "at:datetime,n:int64,note:string", "--log", log)
    assert "'n' Int32 -> Int64" in wider.out
    shown = run_command("schema", "show", "t", "-o", "json", "--log", log).json
    assert (shown["version"], shown["compatibility"]) == (3, "backward")
    assert shown["columns"] == {"at": "datetime[us]", "n": "int64", "note": "string"}
    assert [words.partition("UTC: ")[2] for words in shown["versions"].values()] == [
        "created",
        "added 'note' (String)",
        "'n' Int32 -> Int64",
    ]
    first = run_command("schema", "show", "t", "--version", 1, "-o", "json", "--log", log).json
    assert first["columns"] == {"at": "datetime[us]", "n": "int32"}
    described = run_command("topic", "describe", "t", "-o", "json", "--log", log).json
    assert described["schemas"] == shown["versions"]


def test_versions_and_files_are_compared(run_command, log, tmp_path):
    assert run_command("schema", "diff", "t", "--log", log).err == "no difference\n"
    run_command("topic", "alter", "t", "--add", "note:string", "--log", log)
    run_command("topic", "alter", "t", "--add", "x:float64", "--log", log)
    last = run_command("schema", "diff", "t", "-o", "json", "--log", log)
    assert last.json == [{"column": "x", "before": None, "after": "Float64"}]
    both = run_command("schema", "diff", "t", "--from", 1, "--to", 3, "-o", "json", "--log", log).json
    assert [row["column"] for row in both] == ["note", "x"]
    (tmp_path / "rows.ndjson").write_text('{"n": 1, "other": true}\n')
    found = run_command("schema", "diff", "t", tmp_path / "rows.ndjson", "-o", "json", "--log", log).json
    assert {"column": "other", "before": None, "after": "Boolean"} in found
    assert run_command("schema", "diff", "t", "--from", 7, "--log", log).code == 2


def test_it_is_told_what_would_be_taken_and_nothing_is_changed(run_command, log, tmp_path):
    check = ("schema", "check", "t")
    narrow = run_command(*check, "--schema", "at:datetime,n:int16", "-o", "json", "--log", log)
    assert (narrow.code, narrow.json["append"], narrow.json["alter"]) == (0, True, False)
    assert "not to become Int16" in narrow.json["alter refused"]
    wide = run_command(*check, "--schema", "at:datetime,n:int64", "-o", "json", "--log", log)
    assert (wide.code, wide.json["append"], wide.json["alter"]) == (1, False, True)
    assert "'n' is Int64" in wide.json["append refused"]
    assert run_command(*check, "--schema", "at:datetime,n:int64", "--for", "alter", "--log", log).code == 0

    rows = tmp_path / "rows.ndjson"
    rows.write_text('{"n": 1, "at": "2026-01-01T00:00:00Z"}\n{"n": 3000000000}\n')
    refused = run_command(*check, rows, "-o", "json", "--log", log)
    assert (refused.code, refused.json["append"]) == (1, False)
    assert refused.json["append refused"].startswith("line 2:")
    rows.write_text('{"n": 1}\n{"n": 3}\n')
    assert run_command(*check, rows, "--log", log).code == 0
    pl.DataFrame({"n": [1]}, schema={"n": pl.Int32}).write_parquet(tmp_path / "rows.parquet")
    columns = run_command(*check, tmp_path / "rows.parquet", "-o", "json", "--log", log)
    assert "missing column 'at'" in columns.json["append refused"]
    assert run_command("topic", "describe", "t", "-o", "json", "--log", log).json["rows"] == 0
    assert run_command(*check, "--log", log).code == 2


def test_what_cannot_be_altered_is_refused_in_one_line(run_command, log):
    refused = run_command("topic", "alter", "t", "--schema", "at:date,n:int32", "--log", log)
    assert refused.code == 1
    assert refused.err.startswith("error: topic 't' cannot be altered: 'at' is Datetime('us', 'UTC')")
    assert len(refused.err.splitlines()) == 1
    assert run_command("topic", "alter", "t", "--add", "m:int8", "--schema", "n:int8", "--log", log).code == 2
    assert run_command("topic", "alter", "t", "--compatibility", "full", "--log", log).code == 0
    assert "compatibility='full'" in run_command(
        "topic", "alter", "t", "--schema", "at:datetime,n:int64", "--log", log
    ).err  # fmt: skip
