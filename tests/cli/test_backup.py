from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("t", {"n": pl.Int64}).append(pl.DataFrame({"n": range(1000)}))
    return tmp_path / "log"


def test_a_log_is_backed_up_listed_and_restored(run_command, log, tmp_path):
    done = run_command("backup", log, tmp_path / "kept")
    assert done.code == 0
    assert done.out.startswith(f"backed up {log} as of commit 2 to {tmp_path / 'kept'}: backups/")
    again = run_command("backup", log, tmp_path / "kept", "--keep", "1", "-o", "json").json
    assert (again["lsn"], again["copied"], again["pruned"]) == (2, 0, 1)
    [listed] = run_command("restore", tmp_path / "kept", "--list", "-o", "json").json
    assert listed["commit"] == 2
    with mamba.open(log) as opened:
        opened["t"].append([{"n": 1}])
    run_command("backup", log, tmp_path / "kept")
    back = run_command("restore", tmp_path / "kept", tmp_path / "back", "--to", "2")
    assert (back.code, back.out.startswith(f"restored {tmp_path / 'back'} as of commit 2 (20")) == (0, True)
    assert "the next backup is of commit 3 (20" in back.out
    assert back.out.endswith("): there is none of a moment in between\n")
    with mamba.open(tmp_path / "back") as opened:
        assert opened["t"].scan().collect().height == 1000


def test_a_damaged_backup_is_listed_as_such_and_hides_no_other(run_command, log, tmp_path):
    names = []
    for number in range(3):
        with mamba.open(log) as opened:
            opened["t"].append([{"n": number}])
        run_command("backup", log, tmp_path / "kept")
        names.append(max(path.name for path in (tmp_path / "kept" / "backups").iterdir()))
    manifest = tmp_path / "kept" / "backups" / names[1]
    manifest.write_bytes(manifest.read_bytes().replace(b'"lsn":4', b'"lsn":5'))
    listed = run_command("restore", tmp_path / "kept", "--list", "-o", "json")
    assert listed.code == 1
    assert [one["commit"] for one in listed.json] == [3, 4, 5]
    assert [one["state"] for one in listed.json] == ["whole", "damaged", "whole"]
    assert "does not match its checksum" in listed.err
    assert [one["bytes"] is None for one in listed.json] == [False, True, False]
    assert run_command("restore", tmp_path / "kept", tmp_path / "back", "--to", "4").code == 1
    assert run_command("restore", tmp_path / "kept", tmp_path / "back", "--to", "3").code == 0


def test_what_cannot_be_is_refused_with_words(run_command, log, tmp_path):
    assert run_command("backup", tmp_path / "nowhere", tmp_path / "kept").code == 4
    assert "cannot lie in" in run_command("backup", log, log / "kept").err
    run_command("backup", log, tmp_path / "kept")
    over = run_command("restore", tmp_path / "kept", log)
    assert over.code == 1
    assert "holds something" in over.err
    assert run_command("restore", tmp_path / "kept").code == 2
    assert run_command("restore", tmp_path / "kept", tmp_path / "back", "--to", "0").code == 3
    assert run_command("restore", tmp_path / "empty", tmp_path / "back").code == 3


def test_topics_are_copied(run_command, log, tmp_path):
    [row] = run_command("copy", "t", "--log", log, "--into", tmp_path / "other", "-o", "json").json
    assert row == {"topic": "t", "partition": 0, "from": 0, "to": 1000, "rows": 1000}
    assert (
        "nothing that was not there"
        in run_command("copy", "t", "--log", log, "--into", tmp_path / "other").err
    )
    assert run_command("copy", "nothing", "--log", log, "--into", tmp_path / "other").code == 3
