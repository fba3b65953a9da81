"""Where a group keeps its books: in the log's records, and in the memory of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mamba_stream.errors import PreconditionFailed
from mamba_stream.log import Log, open_log
from mamba_stream.messaging.books import Book, Change, LogBook, PrivateBook

BOOKS = [LogBook, PrivateBook]


@pytest.mark.parametrize("kind", BOOKS)
def test_a_change_is_made_whole_or_not_at_all(tmp_path: Path, kind: Callable[[Log], Book]) -> None:
    with open_log(tmp_path / "log") as log:
        book = kind(log)
        book.commit(Change({("n", "a"): None}, {("n", "a"): b"1", ("n", "b"): b"2", ("m", "a"): b"3"}))
        assert book.records("n") == {"a": b"1", "b": b"2"}
        with pytest.raises(PreconditionFailed):
            book.commit(Change({("n", "a"): b"other"}, {("n", "b"): None, ("n", "c"): b"4"}))
        assert book.records("n") == {"a": b"1", "b": b"2"}
        book.commit(Change({("n", "a"): b"1"}, {("n", "a"): None, ("n", "c"): b"4"}))
        assert book.records("n") == {"b": b"2", "c": b"4"}
        assert book.records("n", before="c") == {"b": b"2"}
        assert book.records("n", limit=1) == {"b": b"2"}
        assert book.get(("m", "a")) == b"3"


@pytest.mark.parametrize("kind", BOOKS)
def test_threads_that_count_together_lose_no_count(tmp_path: Path, kind: Callable[[Log], Book]) -> None:
    with open_log(tmp_path / "log") as log:
        book = kind(log)
        place = ("counts", "n")
        errors: list[BaseException] = []

        def count() -> None:
            done = 0
            try:
                while done < 50:
                    known = book.get(place)
                    number = 0 if known is None else int(known)
                    try:
                        book.commit(
                            Change(
                                {place: known}, {place: b"%d" % (number + 1), ("counts", f"{number}"): b""}
                            )
                        )
                        done += 1
                    except PreconditionFailed:
                        continue
                    assert book.records("counts")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert book.get(place) == b"200"
