"""A partition that is read: what comes next and how far it is done, beside a model that keeps sets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

import mamba_stream as mamba
from mamba_stream.errors import StaleLease
from mamba_stream.messaging.lanes import SOUGHT, Lane
from mamba_stream.messaging.schema import MESSAGES
from tests.messaging.receiving import messages
from tests.sizes import examples

ROWS = 30


class Host:
    def __init__(self) -> None:
        self.done = 0

    def count(self, portion) -> None:
        self.done += portion.news()[1]

    def delay(self, lane, microseconds) -> None:
        pass


@pytest.fixture(scope="module")
def topic(tmp_path_factory):
    with mamba.open(tmp_path_factory.mktemp("lanes") / "log") as log:
        made = log.create_topic("t", MESSAGES)
        for size in (1, 7, 2, 10, 10):
            made.append(messages(range(size)))
        assert made.offsets()[0] == (0, ROWS)
        yield made


class Model:
    """Everything by offset: who has it, and whether it is done."""

    def __init__(self) -> None:
        self.next = 0
        self.open: set[int] = set()

    @property
    def position(self) -> int:
        return min(self.open, default=self.next)

    def back(self, offset: int) -> None:
        self.open = {each for each in self.open if each < offset}
        self.next = offset


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "take", "ack", "ack", "nack", "finish", "again", "seek", "refilter"]),
            st.integers(0, ROWS),
            st.integers(1, 9),
        ),
        max_size=40,
    )
)
def test_what_is_handed_out_and_how_far_it_is_done_is_as_the_model_says(topic, operations):
    lane, model = Lane(Host(), topic, 0, 0, None), Model()
    out: list = []
    for kind, number, few in operations:
        if kind == "take":
            portion = lane.next(None, few)
            if portion is None:
                assert model.next == ROWS
                assert lane.at_end()
                continue
            for message in portion.messages(few):
                assert message.offset == model.next
                model.next += 1
                model.open.add(message.offset)
                out.append(message)
        elif kind in ("ack", "nack") and out:
            settle(out, model, out[number % len(out)], kind)
        elif kind == "finish":
            for portion in lane.portions:
                portion.finish(portion.handed)
            model.open.clear()
        elif kind == "again":
            if model.open:
                model.back(model.position)
            lane.rewind_open()
        elif kind == "seek" and few < 4:
            lane.seek(number)
            model.open.clear()
            model.next = number
        elif kind == "refilter":
            lane.refilter()
        assert lane.position == model.position
    lane.drop(SOUGHT)
    for message in out:
        with pytest.raises(StaleLease):
            message.ack()


def settle(out: list, model: Model, message, kind: str) -> None:
    latest = max(index for index, each in enumerate(out) if each.offset == message.offset)
    valid = message.offset in model.open and out[latest] is message
    try:
        message.ack() if kind == "ack" else message.nack()
        assert valid
    except StaleLease:
        assert not valid
    if valid and kind == "ack":
        model.open.discard(message.offset)
    elif valid:
        model.back(message.offset)


def test_a_seek_that_is_interrupted_passes_over_nothing(topic, monkeypatch):
    lane = Lane(Host(), topic, 0, 0, None)
    portion = lane.next(None, ROWS)
    while portion.count < 7:
        portion.messages(ROWS)
        portion.finish(ROWS)
        portion = lane.next(None, ROWS)
    portion.messages(3)
    portion.finish(2)
    assert lane.position == 3

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for part in ("drop", "_go"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            original = getattr(lane, part)
            patch.setattr(lane, part, lambda *given, original=original: (original(*given), interrupted()))
            lane.seek(2)
        assert lane.position <= 3
