"""Finding a log: one rule for every place that can be named."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec
import polars as pl
import pytest

from mamba_stream.errors import DataCorrupted, InvalidInput, NewerFormat, NotALog, ServerUnavailable
from mamba_stream.log import Log, directory, locate, open_log, rows
from mamba_stream.log.index import Index


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The working directory is empty, and nothing of the user's environment counts."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return


def path_of(place: object, environment: dict[str, str] | None = None) -> Path:
    with locate(place, environment or {}) as log:  # type: ignore[arg-type]
        return log.path


@pytest.mark.embedded
def test_a_directory_may_be_text_or_a_path(tmp_path: Path) -> None:
    assert path_of(tmp_path / "log") == path_of(str(tmp_path / "log")) == tmp_path / "log"
    assert path_of("data") == tmp_path / "work" / "data"


def test_an_open_log_is_itself(log: Log) -> None:
    assert locate(log) is log


@pytest.mark.embedded
def test_nothing_means_the_environment_then_the_file_then_the_users_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = {"XDG_DATA_HOME": str(tmp_path / "share")}
    assert path_of(None, home) == tmp_path / "share" / "mamba-stream" / "log"
    assert f"the log is in {tmp_path / 'share'}" in capsys.readouterr().err
    path_of(None, home)
    assert capsys.readouterr().err == "", "it is named once"
    (tmp_path / "work" / "mamba-stream.toml").write_text('log = "from-file"\n')
    assert path_of(None, home) == tmp_path / "work" / "from-file"
    assert path_of(None, home | {"MAMBA_STREAM_LOG": str(tmp_path / "env")}) == tmp_path / "env"


@pytest.mark.embedded
def test_a_file_without_a_log_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "work" / "mamba-stream.toml").write_text('other = "x"\n')
    assert path_of(None, {"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "mamba-stream" / "log"


@pytest.mark.parametrize(
    ("text", "words"), [("log = 5\n", "log = 5 must be a directory"), ("log =", "not valid TOML")]
)
def test_a_file_that_makes_no_sense_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "work" / "mamba-stream.toml").write_text(text)
    with pytest.raises(InvalidInput, match=rf"mamba-stream.toml.*{words}"):
        path_of(None)


@pytest.mark.parametrize("form", ["localhost:{}", "grpc://localhost:{}", "grpc+tls://localhost:{}"])
def test_where_nothing_listens_is_said_with_what_to_do(form: str) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = form.format(free.getsockname()[1])
    shown = place.removeprefix("grpc://").replace("+", r"\+")
    with pytest.raises(
        ServerUnavailable, match=rf'nothing listens on {shown}: run "mamba-stream serve", or pass a directory'
    ):
        locate(place)


@pytest.mark.parametrize(
    "place", ["http://localhost:9092", "grpc://localhost", "grpc://localhost:0", "a:99999"]
)
def test_an_address_of_another_form_is_refused(place: str) -> None:
    with pytest.raises(InvalidInput, match="write host:port"):
        locate(place)


@pytest.mark.parametrize("place", [5, ["data"], b"data", True])
def test_what_is_no_place_is_refused(place: object) -> None:
    with pytest.raises(InvalidInput, match="give a directory"):
        locate(place)  # type: ignore[arg-type]


def test_an_empty_name_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="names no directory"):
        locate("")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.embedded
def test_a_log_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.create_topic("plain", {"n": int})
        meta = msgspec.structs.replace(log._store.meta, format=directory.FORMAT + 1)
    index = Index(tmp_path / "log" / "index")
    # Later versions may know more of themselves than this one understands.
    later = msgspec.msgpack.encode({**msgspec.to_builtins(meta), "colour": "green"})
    index.update(lambda draft: draft.put(rows.META, later))
    index.close()
    with pytest.raises(
        NewerFormat, match=r"has format 2, and this version .* reads up to 1: upgrade it with pip"
    ):
        open_log(tmp_path / "log")
    index = Index(tmp_path / "log" / "index")
    with index.view() as view:
        assert view.get(rows.META) == later
    index.close()


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log" / "index").mkdir(parents=True)
    with lmdb.open(str(tmp_path / "log" / "index")) as other, other.begin(write=True) as transaction:
        transaction.put(b"theirs", b"precious")
    with pytest.raises(NotALog, match="is the database of something else"):
        open_log(tmp_path / "log")
    with lmdb.open(str(tmp_path / "log" / "index")) as other, other.begin() as transaction:
        assert list(transaction.cursor()) == [(b"theirs", b"precious")]


def test_an_index_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.create_topic("plain", {"n": int})
    (tmp_path / "log" / "index" / "data.mdb").write_bytes(b"\xff" * 50_000)
    with pytest.raises(DataCorrupted, match="the index is damaged .*run: mamba-stream doctor"):
        open_log(tmp_path / "log")


def test_what_could_not_be_opened_can_be_opened_once_it_is_right(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    with pytest.raises(NotALog):
        open_log(tmp_path / "log")
    (tmp_path / "log").unlink()
    with open_log(tmp_path / "log") as log:
        assert log.lsn() == 0


@pytest.mark.synced
def test_the_index_may_begin_small(tmp_path: Path) -> None:
    with open_log(tmp_path / "log", map_size=1 << 16) as log:
        topic = log.create_topic("plain", {"n": int})
        for n in range(400):
            topic.append([{"n": n}])
        assert log.statistics().index_bytes > 1 << 16
    with open_log(tmp_path / "log", map_size=1 << 16) as log:
        assert log["plain"].offsets() == {0: (0, 400)}


@pytest.mark.parametrize("loss", ["deleted", "emptied"])
def test_a_log_whose_index_is_gone_is_not_begun_anew_over_its_rows(tmp_path: Path, loss: str) -> None:
    path = tmp_path / "log"
    with open_log(path) as log:
        log.create_topic("t", {"n": pl.Int64}).append([{"n": 1}])
    index = path / "index" / "data.mdb"
    kept = index.read_bytes()
    if loss == "deleted":
        index.unlink()
    else:
        index.write_bytes(b"")
    with pytest.raises(DataCorrupted, match="holds 1 files of a log: its index was deleted or cut off"):
        open_log(path)
    index.write_bytes(kept)
    with open_log(path) as log:
        assert log["t"].offsets() == {0: (0, 1)}
