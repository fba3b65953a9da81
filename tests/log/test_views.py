"""Views and drafts of the index: what is read is proven, and found by the order of keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import lmdb
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.log.format import Damaged
from mamba_stream.log.views import Draft, View

KEYS = st.binary(min_size=1, max_size=3).map(lambda key: bytes(byte % 3 for byte in key))


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    with lmdb.open(str(tmp_path)) as opened:
        yield opened


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(known=st.sets(KEYS, min_size=1), prefix=KEYS.map(lambda k: k[:1]) | st.just(b""), key=KEYS)
def test_rows_are_found_by_prefix_start_and_floor(
    env: lmdb.Environment, known: set[bytes], prefix: bytes, key: bytes
) -> None:
    with env.begin(write=True) as transaction:
        draft = Draft(transaction)
        draft.delete_prefix(b"")
        for each in known:
            draft.put(each, each * 2)
        inside = sorted(each for each in known if each.startswith(prefix))
        assert list(draft.items(prefix)) == [(each, each * 2) for each in inside]
        assert [each for each, _ in draft.items(prefix, prefix + key)] == [
            k for k in inside if k >= prefix + key
        ]
        below = [each for each in inside if each <= prefix + key]
        # Only a key that sorts directly before is looked at: with the prefix, or there is none.
        assert draft.floor(prefix + key, prefix) == (below[-1] if below else None)
        assert draft.rows == len(known)
        draft.delete_prefix(prefix)
        assert {each for each, _ in draft.items(b"")} == {
            each for each in known if not each.startswith(prefix)
        }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(known=st.sets(KEYS), prefix=KEYS.map(lambda k: k[:1].replace(b"\0", b"")))
def test_openings_are_what_keys_have_before_their_first_zero_byte(
    env: lmdb.Environment, known: set[bytes], prefix: bytes
) -> None:
    with env.begin(write=True) as transaction:
        draft = Draft(transaction)
        draft.delete_prefix(b"")
        for each in known:
            draft.put(each, b"")
        inside = {each[len(prefix) :].split(b"\0")[0] for each in known if each.startswith(prefix)}
        assert list(draft.openings(prefix)) == sorted(inside)


def test_what_is_not_there_is_none(env: lmdb.Environment) -> None:
    with env.begin() as transaction:
        view = View(transaction)
        assert view.get(b"a") is None
        assert list(view.items(b"a")) == []
        assert view.floor(b"a", b"") is None


def test_a_damaged_row_is_never_returned(env: lmdb.Environment) -> None:
    with env.begin(write=True) as transaction:
        Draft(transaction).put(b"a", b"value")
        transaction.put(b"a", b"Value" + transaction.get(b"a")[5:])
    with env.begin() as transaction:
        view = View(transaction)
        with pytest.raises(Damaged):
            view.get(b"a")
        with pytest.raises(Damaged):
            list(view.items(b""))


def test_a_row_under_another_key_is_damaged(env: lmdb.Environment) -> None:
    with env.begin(write=True) as transaction:
        Draft(transaction).put(b"a", b"value")
        transaction.put(b"b", transaction.get(b"a"))
        with pytest.raises(Damaged):
            View(transaction).get(b"b")
