"""The doctor: a sound log is called sound, and each kind of damage is found, named and nothing else."""

from __future__ import annotations

import os
import re
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from mamba_stream.errors import NotALog
from mamba_stream.log import Log, batchproblems, examination, fileproblems, open_log, rows
from mamba_stream.log.doctor import examine, metas
from mamba_stream.log.examination import examine as examine_here
from mamba_stream.log.findings import Finding
from mamba_stream.log.index import Index
from tests.log.neighbour import finished, script


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log with a sealed and an open part, three topics, a group, a record and a producer; closed."""
    place = tmp_path / "log"
    with open_log(place) as log:
        trades = log.create_topic("trades", {"ts": pl.Datetime("us"), "n": int}, partitions=2, time="ts")
        log.create_topic("other", {"s": str}, compression="zstd").append([{"s": "x"}] * 50)
        for n in range(4):
            trades.append([{"n": n}] * 3, partition=n % 2, producer="p", sequence=n)
        log.seal()
        for n in range(4, 8):
            trades.append([{"n": n}] * 3, partition=n % 2)
        with log.transaction() as tx:
            tx.commit_offsets("g", {("trades", 0): 3})
            tx.put_record("a", "b", b"c")
    return place


def findings(path: Path) -> list[Finding]:
    found: list[Finding] = []
    examine_here(path, found.append)
    return found


def files(path: Path, suffix: str) -> list[Path]:
    return sorted((path / "files").glob(f"*{suffix}"))


def change(path: Path, work: Callable[[Any], None]) -> None:
    """Changes the index as only damage, or a defect, would."""
    index = Index(path / "index")
    index.update(work)
    index.close()


def row(path: Path, prefix: bytes, at: int = 0) -> tuple[bytes, bytes]:
    index = Index(path / "index")
    with index.view() as view:
        found = list(view.items(prefix))[at]
    index.close()
    return found


def test_a_sound_log_is_called_sound_and_counted(path: Path) -> None:
    report = examine(path)
    assert report.sound
    assert report.structure
    assert report.findings == ()
    assert report.counts["topics"] == 2
    assert report.counts["rows"] == 50 + 24
    assert report.counts["batches"] == 7
    assert report.counts["files"] == 5


def test_an_examination_changes_nothing(path: Path) -> None:
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in path.rglob("*")
        if p.is_file() and p.name != "lock.mdb"
    }
    assert examine(path).sound
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}


def test_what_is_no_log_is_not_examined(tmp_path: Path) -> None:
    with pytest.raises(NotALog, match=r"is not a log: there is no index/data.mdb in it"):
        examine(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".commit", ".arrows"])
def test_a_flipped_bit_in_a_batch_is_damage_with_its_place(path: Path, suffix: str) -> None:
    target = files(path, suffix)[1 if suffix == ".arrows" else -1]
    data = bytearray(target.read_bytes())
    data[-100] ^= 1
    target.write_bytes(data)
    report = examine(path)
    assert not report.sound
    [found] = report.findings
    assert (found.severity, found.topic) == ("damage", "trades")
    assert (found.partition, found.offset, found.next_offset) == (
        (1, 9, 12) if suffix == ".commit" else (1, 0, 6)
    )
    assert f"its bytes in {target.name} are damaged" in found.what


def test_every_byte_of_a_segment_is_covered(path: Path) -> None:
    [target, *_] = files(path, ".arrows")
    data = target.read_bytes()
    for at in range(0, len(data), 7):
        target.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert [found.severity for found in findings(path)] == ["damage"], f"byte {at}"


def test_every_byte_of_a_table_of_contents_is_covered(path: Path) -> None:
    [target, *_] = files(path, ".toc")
    data = target.read_bytes()
    for at in range(0, len(data), 11):
        target.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert [found.severity for found in findings(path)] == ["damage"], f"byte {at}"


def test_a_missing_file_is_loss_for_every_batch_in_it(path: Path) -> None:
    files(path, ".commit")[-1].unlink()
    found = findings(path)
    assert {finding.severity for finding in found} == {"loss"}
    assert {(f.topic, f.partition, f.offset) for f in found if f.topic} == {
        ("trades", p, o) for p in (0, 1) for o in (6, 9)
    }
    assert any("is missing; 4 batches lie in it" in f.what for f in found)


def test_a_file_that_was_cut_off_is_loss(path: Path) -> None:
    target = files(path, ".commit")[-1]
    os.truncate(target, target.stat().st_size - 1)
    found = findings(path)
    assert {finding.severity for finding in found} == {"loss"}
    assert [(f.topic, f.partition, f.offset) for f in found if f.topic] == [("trades", 1, 9)]


def test_a_missing_table_of_contents_is_damage(path: Path) -> None:
    files(path, ".toc")[0].unlink()
    [found] = findings(path)
    assert (found.severity, found.what.split(": ")[1]) == ("damage", "its table of contents is missing")


def test_files_of_nobody_and_strangers_are_notes(path: Path) -> None:
    for name in ("0000ffff.commit", "new-1-2-3", "README.txt", "cafe"):
        (path / "files" / name).write_text("")
    report = examine(path)
    assert report.sound
    assert {found.what.split(" ")[0] for found in report.findings} == {
        "0000ffff.commit",
        "new-1-2-3",
        "README.txt",
        "cafe",
    }
    assert all(found.severity == "note" for found in report.findings)


def flipped(prefix: bytes, at: int = 0) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        key, value = row(path, prefix, at)
        sealed = bytearray(rows.seal(key, value))
        sealed[len(sealed) // 2] ^= 1
        change(path, lambda draft: draft._transaction.put(key, bytes(sealed)))

    return damage


def replaced(
    prefix: bytes, unpack: Callable[[bytes], Any], pack: Callable[[Any], bytes], **fields: Any
) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        key, value = row(path, prefix)
        changed = {name: get(getattr(unpack(value), name)) for name, get in fields.items()}
        new = pack(msgspec.structs.replace(unpack(value), **changed))
        change(path, lambda draft: draft.put(key, new))

    return damage


def removed(prefix: bytes, at: int = 0) -> Callable[[Path], None]:
    return lambda path: change(path, lambda draft, key=row(path, prefix, at)[0]: draft.delete(key))  # type: ignore[misc]


def packed(value: Any) -> bytes:
    return bytes(value.pack())


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "the state of a partition does not match its checksum": (
        flipped(rows.HEAD),
        "does not match its checksum",
    ),
    "an entry does not match its checksum": (flipped(rows.ENTRY, 2), "does not match its checksum"),
    "a topic does not match its checksum": (flipped(rows.TOPIC), "does not match its checksum"),
    "a schema does not match its checksum": (flipped(rows.SCHEMA), "does not match its checksum"),
    "a file's row does not match its checksum": (flipped(rows.FILE, -1), "does not match its checksum"),
    "a group's offset does not match its checksum": (flipped(rows.OFFSET), "does not match its checksum"),
    "a record does not match its checksum": (flipped(rows.RECORD), "does not match its checksum"),
    "a producer's number does not match its checksum": (
        flipped(rows.PRODUCER),
        "does not match its checksum",
    ),
    "an entry is missing": (removed(rows.ENTRY, 1), "do not follow each other"),
    "the last entry is missing": (removed(rows.ENTRY, -1), "0 sound entries where its state counts 1"),
    "the state of a partition is missing": (removed(rows.HEAD), "the partition's state is missing"),
    "a topic's name is missing": (removed(rows.NAME), "the topic's name leads elsewhere"),
    "a topic is missing": (removed(rows.TOPIC), "leads nowhere"),
    "a schema is missing": (removed(rows.SCHEMA), "the topic's schema is missing or damaged"),
    "a file's row is missing": (removed(rows.FILE, -1), "which it does not know"),
    "an entry points elsewhere": (
        replaced(rows.ENTRY, rows.unpack_entry, packed, position=lambda n: n + 64),
        "are damaged|do not match",
    ),
    "an entry counts other rows": (
        replaced(rows.ENTRY, rows.unpack_entry, packed, rows=lambda n: n + 1),
        "rows",
    ),
    "a partition's state counts other entries": (
        replaced(rows.HEAD, rows.unpack_head, packed, entries=lambda n: n + 1),
        "sound entries where its state counts",
    ),
    "a partition's state has another chain": (
        replaced(rows.HEAD, rows.unpack_head, packed, chain=lambda n: n ^ 1),
        "do not match the checksum over them",
    ),
    "a partition ends elsewhere": (
        replaced(rows.HEAD, rows.unpack_head, packed, end=lambda n: n + 1),
        "the last entry ends at",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_to_the_index_is_found(path: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(path)
    found = findings(path)
    assert any(finding.severity == "damage" for finding in found)
    assert any(re.search(words, finding.what) for finding in found), found


def test_a_page_of_the_index_that_is_rubbish_is_found_and_crashes_nobody(path: Path) -> None:
    data = path / "index" / "data.mdb"
    content = data.read_bytes()
    pages = range(2, len(content) // 4096)
    found = 0
    for page in pages[-6:]:
        start = page * 4096
        data.write_bytes(content[: start + 16] + b"\xa5" * 4080 + content[start + 4096 :])
        found += not examine(path).sound
    data.write_bytes(content)
    assert examine(path).sound
    assert found, "one of the last pages that were written is in use"


def test_a_changed_number_of_the_newest_state_is_found(path: Path) -> None:
    """LMDB takes the state of the higher number, which may now be the older one: every page of it is sound."""
    data = path / "index" / "data.mdb"
    content = data.read_bytes()
    assert metas(path / "index") == []
    for at, mask in ((144, 8), (147, 1), (150, 3), (4096 + 144, 1), (4096 + 151, 128)):
        data.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
        assert "do not follow each other" in "".join(metas(path / "index")), f"byte {at}"
    report = examine(path)
    assert report.structure
    assert any("do not follow each other" in found.what for found in report.findings)
    assert not report.sound


@pytest.mark.parametrize("at", [44, 45, 92, 4096 + 44, 4096 + 92])
def test_a_database_that_is_said_to_be_of_another_kind_is_found(path: Path, at: int) -> None:
    """One that may have many values for a key would take the next commit as more values."""
    data = path / "index" / "data.mdb"
    content = bytearray(data.read_bytes())
    content[at] ^= 4
    data.write_bytes(content)
    [found] = metas(path / "index")
    assert f"meta page {at // 4096} has flags that no log has" in found


def test_an_index_that_was_never_written_to_has_no_newest_state(tmp_path: Path) -> None:
    Index(tmp_path).close()
    assert metas(tmp_path) == []


def test_a_row_that_is_there_and_not_found_by_its_key_is_found(path: Path) -> None:
    """A page that leads to others says from which key on they hold rows; one row too far, and it is passed by."""
    with open_log(path) as log:
        for n in range(100):
            log["trades"].append([{"n": n}], partition=0)
    data = path / "index" / "data.mdb"
    content = bytearray(data.read_bytes())
    newest = max((0, 4096), key=lambda page: struct.unpack_from("=Q", content, page + 144)[0])
    root = 4096 * struct.unpack_from("=Q", content, newest + 128)[0]
    assert content[root + 10] == 1, "a page that leads to others"
    last = (
        root
        + struct.unpack_from("=H", content, root + struct.unpack_from("=H", content, root + 12)[0] - 2)[0]
    )
    key = bytes(content[last + 8 : last + 8 + struct.unpack_from("=H", content, last + 6)[0]])
    assert key[:1] == rows.ENTRY
    content[last + 8 + len(key) - 1] ^= 128
    data.write_bytes(content)
    found = findings(path)
    assert found
    assert all("is not found by its key" in finding.what for finding in found)
    assert {finding.severity for finding in found} == {"damage"}


BUSY = """
import sys
from mamba_stream.log import Log, recovery
from mamba_stream.log.store import acquire
from tests.log.handclock import HandClock

clock = HandClock()
log = Log(acquire(__import__("pathlib").Path(sys.argv[1]), clock))
busy = log.create_topic("busy", {"n": int})
for n in range(6):
    busy.append([{"n": n}])
print(flush=True)
for line in sys.stdin:
    exec(line)
    print(flush=True)
"""


def tell(writer: Any, line: str) -> None:
    """Has it do something, and waits until that is done."""
    writer.stdin.write(f"{line}\n")
    writer.stdin.flush()
    writer.stdout.readline()


@pytest.mark.parametrize("when", ["batches", "files"])
@pytest.mark.parametrize(
    "work", ["log.seal()", "busy.trim(6)", "busy.trim(6); log.seal()", "log.delete_topic('busy')"]
)
def test_what_moves_while_it_is_at_work_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, work: str
) -> None:
    """It takes longer than the minute for which files stay in which nothing lies any more."""
    writer = script(BUSY, tmp_path / "log")
    writer.stdout.readline()

    tell(writer, "log.seal()")
    tell(writer, "busy.append([{'n': 6}])")
    at, name = {"batches": (batchproblems, "problem_of"), "files": (fileproblems, "frame_problems")}[when]
    looked = getattr(at, name)

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(at, name, looked)
        tell(writer, work)
        tell(writer, "clock.at += 2 * recovery.TRASH_DELAY; log.maintain()")
        tell(writer, "clock.at += 2 * recovery.TRASH_DELAY; log.maintain()")
        return looked(*arguments)

    monkeypatch.setattr(at, name, slowly)
    assert [finding for finding in findings(tmp_path / "log") if finding.severity != "note"] == []
    assert getattr(at, name) is looked
    finished(writer)


def test_a_topic_that_comes_and_goes_while_it_is_at_work_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = script(BUSY, tmp_path / "log")
    writer.stdout.readline()
    walked = examination.entries

    def meanwhile(*arguments: Any) -> Iterator[tuple[bytes, bytes]]:
        tell(writer, "log.create_topic('brief', {'n': int}).append([{'n': 1}])")
        yield from walked(*arguments)
        tell(writer, "log.delete_topic('brief'); clock.at += 2 * recovery.TRASH_DELAY; log.maintain()")

    monkeypatch.setattr(examination, "entries", meanwhile)
    assert [finding for finding in findings(tmp_path / "log") if finding.severity != "note"] == []
    finished(writer)


def test_what_is_damaged_where_it_has_moved_while_it_is_at_work_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = script(BUSY, tmp_path / "log")
    writer.stdout.readline()
    looked = batchproblems.problem_of

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(batchproblems, "problem_of", looked)
        for line in ("log.seal()", "clock.at += 2 * recovery.TRASH_DELAY; log.maintain()"):
            tell(writer, line)
        [segment] = files(tmp_path / "log", ".arrows")
        content = bytearray(segment.read_bytes())
        content[-64] ^= 1
        segment.write_bytes(content)
        return looked(*arguments)

    monkeypatch.setattr(batchproblems, "problem_of", slowly)
    found = [finding for finding in findings(tmp_path / "log") if finding.severity != "note"]
    assert [(one.severity, one.topic, one.offset, one.next_offset) for one in found] == [
        ("damage", "busy", 0, 6)
    ]
    finished(writer)


def test_it_runs_beside_writers_and_calls_none_of_their_work_damage(log: Log, tmp_path: Path) -> None:
    topic = log.create_topic("busy", {"n": int}, partitions=2)
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            topic.append([{"n": n}])
            n += 1
            if n % 20 == 0:
                topic.trim({0: topic.offsets()[0][1] // 2})
                log.seal()
            if n % 30 == 0:
                log.create_topic("brief", {"n": int}).append([{"n": 1}])
                log.delete_topic("brief")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            report = examine(tmp_path / "log")
            assert report.sound, report.findings
    finally:
        stop.set()
        thread.join()


def test_it_remembers_only_the_range_of_a_batch(tmp_path: Path) -> None:
    peaks = []
    for number, batches in enumerate((2_000, 22_000)):
        with open_log(tmp_path / str(number)) as log:
            log.create_topic("many", {"n": int})
            with log.transaction() as transaction:
                for n in range(batches):
                    transaction.append("many", [{"n": n}])
        tracemalloc.start()
        try:
            counts = examine_here(tmp_path / str(number), lambda finding: pytest.fail(str(finding)))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert counts["batches"] == batches
    # Of a page of entries both hold the same.
    assert (peaks[1] - peaks[0]) / 20_000 < 60


def test_it_looks_at_the_last_of_the_most_partitions(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        topic = log.create_topic("wide", {"n": int}, partitions=65_536)
        topic.append([{"n": 1}], partition=65_535)
    assert findings(tmp_path / "log") == []
    [file] = files(tmp_path / "log", "")
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    [found] = findings(tmp_path / "log")
    assert (found.topic, found.partition, found.offset) == ("wide", 65_535, 0)
