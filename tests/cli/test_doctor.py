from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("t", {"n": pl.Int64}).append(pl.DataFrame({"n": range(1000)}))
    return tmp_path / "log"


def test_a_sound_log_is_called_sound(run_command, log):
    done = run_command("doctor", log)
    assert done.code == 0
    assert done.out.startswith(f"sound: {log} (")
    report = run_command("doctor", log, "-o", "json").json
    assert report["sound"]
    assert report["counts"]["rows"] == 1000


def test_damage_fails_and_says_where(run_command, log):
    (file,) = [path for path in (log / "files").iterdir() if path.stat().st_size > 4096]
    content = bytearray(file.read_bytes())
    # The thousand numbers lie somewhere in the file: spoil one of them.
    at = content.find((500).to_bytes(8, "little") + (501).to_bytes(8, "little"))
    assert at > 0
    content[at] ^= 1
    file.write_bytes(content)
    done = run_command("doctor", log)
    assert done.code == 1
    assert "damage: topic t, partition 0, offset 0" in done.out
    assert "NOT SOUND" in done.out
    assert not run_command("doctor", log, "-o", "json").json["sound"]


def test_a_directory_that_is_no_log_is_unavailable(run_command, tmp_path):
    assert run_command("doctor", tmp_path).code == 4
    assert run_command("doctor", tmp_path / "nowhere").code == 4


def test_a_repair_says_what_is_lost_and_the_log_is_sound_behind_it(run_command, log):
    assert run_command("doctor", log, "--repair").out.endswith("nothing to repair\n")
    for file in (log / "files").iterdir():
        file.unlink()
    done = run_command("doctor", log, "--repair")
    assert done.code == 1
    assert "loss: topic t, partition 0, offset 0 to 999: its file 00000001.commit is missing" in done.out
    assert f"sound: {log} (" in done.out
    assert run_command("doctor", log).code == 0
    again = run_command("doctor", log, "--repair", "-o", "json")
    assert (again.code, again.json["changes"], again.json["aside"]) == (0, [], None)


def test_a_log_in_use_is_not_repaired(run_command, log):
    with mamba.open(log):
        done = run_command("doctor", log, "--repair")
    assert done.code == 4
    assert "is open in this process" in done.err
