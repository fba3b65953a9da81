"""Rows that wait for the disk lie over those that are on it: what is read is what a dictionary says, at any moment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import mamba_stream as mamba
from mamba_stream.log import directory
from mamba_stream.log.index import Index
from mamba_stream.log.overlay import OverlaidView
from tests.log.neighbour import finished, script
from tests.sizes import examples

KEYS = st.binary(min_size=1, max_size=3).map(lambda key: b"\x10" + key)
VALUES = st.binary(max_size=4)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES),
        st.tuples(st.just("delete"), KEYS, st.none()),
        st.tuples(st.just("delete_prefix"), KEYS.map(lambda key: key[:2]), st.none()),
    ),
    max_size=8,
)
COMMITS = st.lists(st.tuples(st.booleans(), st.booleans(), CHANGES), max_size=12)
PROBES = st.lists(KEYS, max_size=6)


class Given(Exception):
    """A change that is taken back."""


@given(COMMITS, PROBES)
@settings(
    deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_both_layers_read_as_one(tmp_path: Path, commits, probes):
    place = tmp_path / "log"
    shutil.rmtree(place, ignore_errors=True)
    for name in (directory.INDEX, directory.FILES):
        (place / name).mkdir(parents=True)
    index = Index(place / directory.INDEX, 1 << 24)
    expected: dict[bytes, bytes] = {}
    try:
        for durable, refused, changes in commits:
            after = dict(expected)

            def change(draft, changes=changes, after=after, refused=refused):
                for what, key, value in changes:
                    assert draft.get(key) == after.get(key)
                    if what == "put":
                        draft.put(key, value)
                        after[key] = value
                    elif what == "delete":
                        draft.delete(key)
                        after.pop(key, None)
                    else:
                        draft.delete_prefix(key)
                        for one in [one for one in after if one.startswith(key)]:
                            del after[one]
                    assert rows_of(draft) == after
                    for one in probes:
                        assert draft.get(one) == after.get(one)
                if refused:
                    raise Given

            try:
                index.update(change, durable=durable)
                expected = after
            except Given:
                pass
            check(index, expected, probes)
        index.flush()
        assert not index.flush()
        check(index, expected, probes)
        # What the machine forgets at a loss of power.
        shutil.rmtree(place / directory.RECENT, ignore_errors=True)
    finally:
        index.close()
    index = Index(place / directory.INDEX, 1 << 24)
    try:
        check(index, expected, probes)
    finally:
        index.close()


def rows_of(view) -> dict[bytes, bytes]:
    return dict(view.items(b"\x10"))


def check(index: Index, expected: dict[bytes, bytes], probes: list[bytes]) -> None:
    with index.view() as view:
        assert list(view.items(b"\x10")) == sorted(expected.items())
        assert list(view.openings(b"\x10")) == sorted({key[1:].partition(b"\0")[0] for key in expected})
        for probe in [*probes, *expected]:
            assert view.get(probe) == expected.get(probe)
            below = [key for key in expected if key <= probe]
            assert view.floor(probe, b"\x10") == max(below, default=None)
            start = [item for item in sorted(expected.items()) if item[0] >= probe]
            assert list(view.items(b"\x10", probe)) == start


def test_only_what_was_flushed_is_there_after_a_loss_of_power(tmp_path: Path):
    for name in (directory.INDEX, directory.FILES):
        (tmp_path / name).mkdir()
    index = Index(tmp_path / directory.INDEX, 1 << 24)
    index.update(lambda draft: draft.put(b"\x10a", b"1"), durable=False)
    index.update(lambda draft: draft.put(b"\x10b", b"2"))
    index.update(lambda draft: draft.put(b"\x10c", b"3"), durable=False)
    index.update(lambda draft: draft.delete(b"\x10a"), durable=False)
    index.close()
    again = Index(tmp_path / directory.INDEX, 1 << 24)
    with again.view() as view:
        assert rows_of(view) == {b"\x10b": b"2", b"\x10c": b"3"}
    again.close()
    [boot] = (tmp_path / directory.RECENT).iterdir()
    boot.rename(boot.with_name("another"))
    again = Index(tmp_path / directory.INDEX, 1 << 24)
    with again.view() as view:
        assert rows_of(view) == {b"\x10a": b"1", b"\x10b": b"2"}
    again.update(lambda draft: draft.put(b"\x10d", b"4"), durable=False)
    with again.view() as view:
        assert rows_of(view) == {b"\x10a": b"1", b"\x10b": b"2", b"\x10d": b"4"}
    again.close()
    assert [one.name for one in (tmp_path / directory.RECENT).iterdir()] == [boot.name]


BESIDE = """
import sys
from pathlib import Path
from mamba_stream.log.index import Index
index = Index(Path(sys.argv[1]), 1 << 24)
for line in sys.stdin:
    durable, value = line.split()
    index.update(lambda draft: draft.put(b"\\x10a", value.encode()), durable=durable == "True")
    print(flush=True)
index.close()
"""


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_remembered_of_the_last_commit_is_forgotten_when_another_process_commits(
    tmp_path: Path, durable: bool
):
    for name in (directory.INDEX, directory.FILES):
        (tmp_path / name).mkdir()
    index = Index(tmp_path / directory.INDEX, 1 << 24)
    seen = []

    def look(draft):
        seen.append(draft.get(b"\x10a"))
        draft.put(b"\x10b", bytes(len(seen)))

    beside = script(BESIDE, tmp_path / directory.INDEX)
    for value in range(3):
        index.update(look, durable=False)
        index.update(look, durable=False)
        beside.stdin.write(f"{durable} {value}\n")
        beside.stdin.flush()
        beside.stdout.readline()
    index.update(look, durable=False)
    finished(beside)
    index.close()
    assert seen == [None, None, b"0", b"0", b"1", b"1", b"2"]


def test_what_is_seen_without_a_change_is_not_remembered_behind_a_commit_of_another_process(tmp_path: Path):
    """LMDB gives its number once more, to the other one: behind that comes the number that would have been next."""
    for name in (directory.INDEX, directory.FILES):
        (tmp_path / name).mkdir()
    index = Index(tmp_path / directory.INDEX, 1 << 24)
    index.update(lambda draft: draft.put(b"\x10a", b"mine"), durable=False)
    beside = script(BESIDE, tmp_path / directory.INDEX)
    seen = []
    for look in (
        lambda draft: draft.get(b"\x10a"),
        lambda draft: (draft.get(b"\x10a"), draft.delete(b"\x10never there"))[0],
    ):
        for value in range(3):
            beside.stdin.write(f"False {value}\n")
            beside.stdin.flush()
            beside.stdout.readline()
            seen.append(index.update(look, durable=False))
    finished(beside)
    index.close()
    assert seen == [b"0", b"1", b"2"] * 2


REPEATING = """
import sys
import mamba_stream as mamba
with mamba.open(sys.argv[1], durability="os") as log:
    log["t"].append([{"n": -1}])
    print(flush=True)
    for line in sys.stdin:
        log["t"].append([{"n": int(line)}])
        print(flush=True)
"""


def test_an_append_that_is_repeated_takes_no_place_of_another_process(tmp_path: Path):
    with mamba.open(tmp_path / "log", durability="os") as log:
        topic = log.create_topic("t", {"n": int})
        topic.append([{"n": 0}], producer="p", sequence=0)
        beside = script(REPEATING, tmp_path / "log")
        beside.stdout.readline()
        for number in range(1, 6):
            assert topic.append([{"n": 0}], producer="p", sequence=0) == {0: (0, 1)}
            beside.stdin.write(f"{-number - 1}\n")
            beside.stdin.flush()
            beside.stdout.readline()
            topic.append([{"n": number}])
        finished(beside)
        found = [row["n"] for batch in topic.read() for row in batch.data.to_pylist()]
    assert found == [0, -1, -2, 1, -3, 2, -4, 3, -5, 4, -6, 5]


def test_what_was_taken_back_is_not_remembered(tmp_path: Path):
    for name in (directory.INDEX, directory.FILES):
        (tmp_path / name).mkdir()
    index = Index(tmp_path / directory.INDEX, 1 << 24)

    def refused(draft):
        assert draft.get(b"\x10a") == b"1"
        draft.put(b"\x10a", b"2")
        assert draft.get(b"\x10a") == b"2"
        raise Given

    for _ in range(2):
        index.update(lambda draft: draft.put(b"\x10a", b"1"), durable=False)
        with pytest.raises(Given):
            index.update(refused, durable=False)
        index.update(lambda draft: draft.put(b"\x10b", draft.get(b"\x10a")), durable=False)
        with index.view() as view:
            assert view.get(b"\x10b") == b"1"
    index.close()


def test_what_was_changed_is_remembered_as_it_is_then(tmp_path: Path):
    for name in (directory.INDEX, directory.FILES):
        (tmp_path / name).mkdir()
    index = Index(tmp_path / directory.INDEX, 1 << 24)
    seen = []

    def look(draft, then):
        seen.append(draft.get(b"\x10a"))
        then(draft)
        seen.append(draft.get(b"\x10a"))

    for then in (
        lambda draft: draft.put(b"\x10a", b"1"),
        lambda draft: draft.delete(b"\x10a"),
        lambda draft: draft.put(b"\x10a", b"2"),
        lambda draft: draft.delete_prefix(b"\x10"),
    ):
        index.update(lambda draft, then=then: look(draft, then), durable=False)
    index.close()
    assert seen == [None, b"1", b"1", None, None, b"2", b"2", None]


def test_nothing_of_what_is_remembered_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (directory.INDEX, directory.FILES):
        (tmp_path / name).mkdir()
    index = Index(tmp_path / directory.INDEX, 1 << 24)
    index.update(lambda draft: draft.put(b"\x10a", b"1"), durable=False)
    index.update(lambda draft: draft.put(b"\x10b", draft.get(b"\x10a")), durable=False)
    monkeypatch.setattr(OverlaidView, "get", None)
    index.update(lambda draft: draft.put(b"\x10b", draft.get(b"\x10a")), durable=False)
    index.close()
