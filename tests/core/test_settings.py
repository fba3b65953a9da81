from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from mamba_stream.core.settings import Address, Seconds, Section, read_file, shown, table_of
from mamba_stream.core.sizes import Size
from mamba_stream.errors import InvalidInput


class Oven(msgspec.Struct, frozen=True, kw_only=True):
    door: Address = Address("localhost", 1)
    window: Address | None = Address("localhost", 2)
    heat: Size = Size(1024)
    time: Seconds = Seconds(30)
    recipe: Path | None = None
    loud: bool = False
    shelves: int = 3
    mode: Literal["bake", "grill"] = "bake"
    code: str = ""


OVEN = Section(Oven, "oven", "OVEN_", secret=frozenset({"code"}))
FILE = Path("/etc/oven.toml")


def test_flags_go_before_the_environment_which_goes_before_the_file_and_each_says_where_it_came_from():
    found = OVEN.gather(
        FILE,
        {"door": "a:1", "heat": "1KiB", "shelves": 5, "loud": True},
        {"OVEN_DOOR": "b:2", "OVEN_SHELVES": "6", "PATH": "/bin"},
        {"door": "c:3", "mode": None},
    )
    assert found.checked() == Oven(door=Address("c", 3), heat=Size(1024), shelves=6, loud=True)
    assert found.sources == {
        "door": "--door",
        "window": "default",
        "heat": "/etc/oven.toml",
        "time": "default",
        "recipe": "default",
        "loud": "/etc/oven.toml",
        "shelves": "OVEN_SHELVES",
        "mode": "default",
        "code": "default",
    }


def test_what_a_file_says_of_paths_is_relative_to_it_and_elsewhere_to_where_one_is():
    assert OVEN.gather(FILE, {"recipe": "bread.txt"}).checked().recipe == Path("/etc/bread.txt")
    assert OVEN.gather(FILE, {"recipe": "/bread.txt"}).checked().recipe == Path("/bread.txt")
    assert OVEN.gather(FILE, {}, {"OVEN_RECIPE": "bread.txt"}).checked().recipe == Path("bread.txt")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("door", "[::1]:9092", Address("::1", 9092)),
        ("door", "0.0.0.0:0", Address("0.0.0.0", 0)),
        ("window", "off", None),
        ("heat", "1GiB", 1 << 30),
        ("heat", "1.5 MB", 3 << 19),
        ("heat", "4096", 4096),
        ("heat", 8192, 8192),
        ("time", "1m30s", 90),
        ("time", "250ms", 0.25),
        ("loud", "true", True),
        ("loud", "0", False),
        ("mode", "grill", "grill"),
        ("shelves", "7", 7),
    ],
)
def test_a_value_is_what_its_kind_reads(key, text, value):
    read = OVEN.read(key, text)
    assert read == value
    # What is shown of it reads as the same again.
    assert OVEN.read(key, "off" if read is None else shown(read)) == read


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("door", "localhost", "HOST:PORT"),
        ("door", ":9092", "HOST:PORT"),
        ("door", "::1:9092", "HOST:PORT"),
        ("door", "localhost:x", "HOST:PORT"),
        ("door", "localhost:70000", "at most 65535"),
        ("door", "off", "HOST:PORT"),
        ("door", 9092, "HOST:PORT"),
        ("heat", "much", "give a size"),
        ("heat", "1 parsec", "give a size"),
        ("heat", "1e999", "give a size"),
        ("heat", True, "give a size"),
        ("heat", -1, "give a size"),
        ("time", "30", "with its unit"),
        ("time", 3.5, "with its unit"),
        ("recipe", 5, "path of a file"),
        ("loud", "perhaps", "bool"),
        ("loud", 1, "bool"),
        ("shelves", "many", "int"),
        ("shelves", "2.5", "int"),
        ("mode", "gril", "choose one of bake, grill, did you mean 'grill'"),
    ],
)
def test_what_it_cannot_be_is_refused_with_file_key_and_variable(key, value, message):
    found = OVEN.gather(FILE, {key: value})
    (problem,) = found.problems
    assert problem.startswith(f"/etc/oven.toml: [oven] {key} = {value!r}: ")
    assert message in problem
    assert problem.endswith(f"(the variable is OVEN_{key.upper()})")
    with pytest.raises(InvalidInput, match="oven.toml"):
        found.checked()


def test_all_mistakes_are_told_at_once_and_unknown_names_with_what_was_meant():
    found = OVEN.gather(
        FILE, {"dor": "a:1", "heat": []}, {"OVEN_SHELFES": "1", "OVEN_TIME": "x"}, {"mode": "fry"}
    )
    assert [problem.split(";")[0].split(" = ")[0] for problem in found.problems] == [
        "/etc/oven.toml: [oven] dor is no setting, did you mean 'door'?",
        "/etc/oven.toml: [oven] heat",
        "the environment's OVEN_SHELFES is no setting, did you mean 'OVEN_SHELVES'?",
        "OVEN_TIME",
        "--mode",
    ]


def test_a_secret_is_not_in_the_message_that_it_is_wrong():
    (problem,) = OVEN.gather(FILE, {"code": 123456}).problems
    assert "123456" not in problem
    assert "[oven] code" in problem


def test_a_file_is_read_or_refused(tmp_path):
    assert read_file(tmp_path / "none.toml") == {}
    path = tmp_path / "some.toml"
    path.write_text("[oven]\nheat = 1")
    assert table_of(path, read_file(path), "oven") == {"heat": 1}
    assert table_of(path, read_file(path), "fridge") == {}
    path.write_text("oven = 1")
    with pytest.raises(InvalidInput, match=r"oven = 1 must be a table: \[oven\]"):
        table_of(path, read_file(path), "oven")
    path.write_text("[oven")
    with pytest.raises(InvalidInput, match=r"some\.toml is not valid TOML"):
        read_file(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match=r"some\.toml is not valid TOML"):
        read_file(path)
