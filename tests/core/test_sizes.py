from __future__ import annotations

import pytest

from mamba_stream.core.sizes import Size, size_of
from mamba_stream.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0), (7, 7), ("8", 8), ("7B", 7), ("1kb", 1024), ("1 KiB", 1024), ("1.5MiB", 3 << 19), ("10GB", 10 << 30),
        ("2TiB", 2 << 40),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize(
    "wrong", ["", "GB", "1 PB", "one", "-1", "-1GB", -2, 1.5, None, True, "nan", "inf GB", 1 << 63]
)
def test_what_is_no_size_is_refused(wrong):
    with pytest.raises(InvalidInput, match="give a size, as 512MiB"):
        size_of(wrong)


def test_a_size_is_written_in_the_largest_whole_unit():
    assert [str(Size(size)) for size in (0, 1, 1 << 10, 3 << 20, (1 << 30) + 1)] == [
        "0B", "1B", "1KiB", "3MiB", "1073741825B",
    ]  # fmt: skip
