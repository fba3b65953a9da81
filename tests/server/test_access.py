"""Access lists beside a model that is nothing but the sentence: what no entry allows is denied, and denying wins."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mamba_stream.errors import InvalidInput, InvalidName
from mamba_stream.server.access import ALL, KINDS, OPERATIONS, AccessList, Entry, operations_of
from mamba_stream.server.gate import Need

NAMES = ["orders", "orders.eu", "orders-old", "o", "mailers", "Orders"]
PATTERNS = [*NAMES, "*", "o*", "orders*", "orders.*", "orders.eu.*", "m*"]


def allowed(entries: list[Entry], need: Need) -> bool:
    """The model: plain loops over everything."""

    def speaks(entry: Entry) -> bool:
        if entry.kind != need.kind:
            return False
        if entry.name[-1] == "*":
            return need.name[: len(entry.name) - 1] == entry.name[:-1]
        return entry.name == need.name

    mine = [entry for entry in entries if speaks(entry)]
    for entry in mine:
        if entry.effect == "deny" and (need.operation in entry.operations or "all" in entry.operations):
            return False
    for entry in mine:
        if entry.effect == "allow":
            if need.operation == "describe":
                return True
            if need.operation in entry.operations or "all" in entry.operations:
                return True
    return False


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(KINDS))
    return Entry(
        draw(st.sampled_from(["allow", "deny"])),
        tuple(draw(st.lists(st.sampled_from([*OPERATIONS, ALL]), min_size=1, max_size=3, unique=True))),
        kind,
        "*" if kind == "log" else draw(st.sampled_from(PATTERNS)),
    )


@st.composite
def needs(draw: st.DrawFn) -> Need:
    kind = draw(st.sampled_from(KINDS))
    return Need(
        draw(st.sampled_from(OPERATIONS)), kind, "" if kind == "log" else draw(st.sampled_from(NAMES))
    )


@given(st.lists(entries(), max_size=6), st.lists(needs(), min_size=1, max_size=6))
def test_what_a_list_allows_is_what_the_model_allows(lines, asked):
    mine = AccessList(lines)
    assert [mine.allows(need) for need in asked] == [allowed(lines, need) for need in asked]


@given(st.lists(entries(), max_size=6), entries(), needs())
def test_another_denial_never_allows_and_another_allowance_never_denies(lines, line, need):
    before, after = AccessList(lines).allows(need), AccessList([*lines, line]).allows(need)
    assert (after <= before) if line.effect == "deny" else (after >= before)


@given(st.permutations([0, 1, 2]), st.lists(entries(), min_size=3, max_size=3), needs())
def test_the_order_of_entries_means_nothing(order, lines, need):
    assert AccessList(lines).allows(need) == AccessList([lines[i] for i in order]).allows(need)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_entries_nothing_is_allowed(operation, kind):
    assert not AccessList([]).allows(Need(operation, kind, "" if kind == "log" else "orders"))


@pytest.mark.parametrize("given_", [*OPERATIONS, ALL])
@pytest.mark.parametrize("asked", OPERATIONS)
def test_an_operation_allows_itself_and_to_see_the_thing_and_nothing_else(given_, asked):
    mine = AccessList([Entry("allow", (given_,), "topic", "orders")])
    assert mine.allows(Need(asked, "topic", "orders")) == (asked in (given_, "describe") or given_ == ALL)
    assert not mine.allows(Need(asked, "group", "orders"))
    assert not mine.allows(Need(asked, "topic", "orders2"))


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("topic", "", "names no topic"),
        ("topic", "or*ders", "names no topic"),
        ("topic", "**", "names no topic"),
        ("topic", "a/b", "contains '/'"),
        ("topic", "../../etc", "contains '/'"),
        ("topic", "_state.etl", "group job.NAME"),
        ("topic", "_*", "group job.NAME"),
        ("group", "_x", "must not begin"),
        ("log", "mine", "has no name"),
        ("namespace", "", "names no namespace"),
    ],
)
def test_a_name_that_names_nothing_is_refused(kind, name, why):
    with pytest.raises((InvalidName, InvalidInput), match=why):
        Entry("allow", ("read",), kind, name)


def test_operations_are_read_as_typed_and_a_guess_is_made_at_what_was_meant():
    assert operations_of("read, write,read") == ("read", "write")
    with pytest.raises(InvalidInput, match="'raed' is no operation, did you mean 'read'"):
        operations_of("raed")
    with pytest.raises(InvalidInput, match="say which operations: choose of read"):
        operations_of(" ,")
    with pytest.raises(InvalidInput, match="is to deny something says what"):
        Entry("deny", (), "topic", "orders")


def test_what_was_asked_often_is_remembered_and_never_too_much_of_it(monkeypatch):
    monkeypatch.setattr("mamba_stream.server.access._REMEMBERED", 10)
    mine = AccessList([Entry("allow", ("read",), "topic", "a*"), Entry("deny", ("read",), "topic", "a7*")])
    for _ in range(3):
        for n in range(100):
            assert mine.allows(Need("read", "topic", f"a{n}")) == (not str(n).startswith("7"))
            assert len(mine._judged) <= 10


def test_an_entry_reads_as_it_would_be_said():
    assert str(Entry("deny", ("read", "write"), "topic", "orders.*")) == "deny read,write topic orders.*"
    assert str(Entry("allow", ("all",), "log")) == "allow all log"
