"""Looking at several things that change, together: over a network in one trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from mamba_stream.log.asked import text_of
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.rows import TopicRow

if TYPE_CHECKING:
    from mamba_stream.log.storage import Storage
    from mamba_stream.log.topic import Topic

_T = TypeVar("_T")
_UNKNOWN: Final = object()

ALONE: Final = object()
"""Stands for the answer to a question that is to be asked once more, by itself."""


@dataclass(frozen=True, slots=True)
class LsnOf:
    """The number of the last commit."""


@dataclass(frozen=True, slots=True)
class HeadsOf:
    """The state of a topic's partitions."""

    topic: TopicRow


@dataclass(frozen=True, slots=True)
class RecordOf:
    """One record."""

    namespace: str
    key: str


@dataclass(frozen=True, slots=True)
class RecordsOf:
    """The records of a namespace."""

    namespace: str


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Rows of partitions from given offsets on, one partition after the other, until there are about so many."""

    topic: TopicRow
    start: Mapping[int, int]
    most_rows: int
    most_bytes: int


Question = LsnOf | HeadsOf | RecordOf | RecordsOf | RowsOf


class Answer(Generic[_T]):
    """What a question comes to: asked when it is first looked at, and from then on always the same."""

    def __init__(self, ask: Callable[[], _T]) -> None:
        self._ask = ask
        self._value: Any = _UNKNOWN

    @property
    def known(self) -> bool:
        """Whether it was looked at."""
        return self._value is not _UNKNOWN

    def get(self) -> _T:
        """The answer.

        Raises:
            MambaStreamError: What the question raises when it is asked by itself.
        """
        if self._value is _UNKNOWN:
            self._value = self._ask()
        value: _T = self._value
        return value


class RecordsAnswer(Answer[dict[str, bytes]]):
    """Records of a namespace by key, in the order of keys.

    Args:
        ask: Gives all.
        ask_first: Gives the first alone.
    """

    def __init__(
        self, ask: Callable[[], dict[str, bytes]], ask_first: Callable[[], dict[str, bytes]]
    ) -> None:
        super().__init__(ask)
        self._ask_first = ask_first

    def first(self) -> str | None:
        """The key of the first; ``None`` where there are none. Costs no look at all of them, where that is more."""
        return next(iter(self.get() if self.known else self._ask_first()), None)


class Look:
    """Questions that are asked together; ``log.look()`` makes one.

    First come all questions, then the answers are looked at. Over a network all are asked in one trip, as the first
    answer is looked at, and answered in their order, one after the other. In a directory, where asking costs next to
    nothing, each is asked when its answer is looked at.

    Example:
        >>> import mamba_stream as mamba, tempfile
        >>> with mamba.open(tempfile.mkdtemp()) as log:
        ...     look = log.look()
        ...     sessions, leases = look.record("sessions", "next"), look.records("leases")
        ...     sessions.get(), leases.get()
        (None, {})

    Args:
        storage: Where the log lies.
        beyond: Ask once the log is past the commit of this number, or ``timeout`` seconds are over; without, at once.
            Over a network the answers come by themselves then.
        timeout: Seconds.
    """

    def __init__(self, storage: Storage, beyond: int | None = None, timeout: float = 0.0) -> None:
        self._storage = storage
        self._beyond, self._timeout = beyond, timeout
        self._questions: list[Question] = []
        self._asked = False
        self._told: Sequence[Any] | None = None

    def lsn(self) -> Answer[int]:
        """As ``log.lsn()``."""
        number = self._add(LsnOf())

        def ask() -> int:
            told = self._answer(number)
            return self._storage.lsn() if told is ALONE else told

        return Answer(ask)

    def offsets(self, topic: Topic) -> Answer[dict[int, tuple[int, int]]]:
        """As ``topic.offsets()``."""
        number = self._add(HeadsOf(topic._row))

        def ask() -> dict[int, tuple[int, int]]:
            told = self._answer(number)
            if told is ALONE:
                return topic.offsets()
            return {partition: (head.begin, head.end) for partition, head in told.items()}

        return Answer(ask)

    def record(self, namespace: str, key: str) -> Answer[bytes | None]:
        """As ``log.record(namespace, key)``."""
        number = self._add(RecordOf(text_of(namespace), text_of(key)))

        def ask() -> bytes | None:
            told = self._answer(number)
            return self._storage.record(namespace, key) if told is ALONE else told

        return Answer(ask)

    def records(self, namespace: str) -> RecordsAnswer:
        """As ``log.records(namespace)``."""
        number = self._add(RecordsOf(text_of(namespace)))

        def ask(limit: int | None = None) -> dict[str, bytes]:
            told = self._answer(number)
            return self._storage.records(namespace, None, limit) if told is ALONE else told

        return RecordsAnswer(ask, lambda: ask(1))

    def rows(
        self, topic: Topic, start: Mapping[int, int], most_rows: int, most_bytes: int
    ) -> Answer[dict[int, list[LogBatch]]]:
        """Rows that come along with the other answers, by partition, the first of each from ``start`` on.

        Whoever wants more, or finds none, reads on from where these end, and meets there what may be wrong: in a
        directory, where a reader costs nothing, none ever come along, nor do large ones over a network.
        """
        number = self._add(RowsOf(topic._row, dict(start), most_rows, most_bytes))

        def ask() -> dict[int, list[LogBatch]]:
            told = self._told_of(number)
            return {} if told is ALONE or isinstance(told, BaseException) else told

        return Answer(ask)

    def _add(self, question: Question) -> int:
        assert not self._asked, "all questions come before the answers"
        self._questions.append(question)
        return len(self._questions) - 1

    def _answer(self, number: int) -> Any:
        """What came of a question; ``ALONE`` where it is to be asked by itself."""
        told = self._told_of(number)
        if isinstance(told, BaseException):
            raise told
        return told

    def _told_of(self, number: int) -> Any:
        if not self._asked:
            self._told = self._storage.together(self._questions, self._beyond, self._timeout)
            if self._told is None and self._beyond is not None:
                self._storage.wait(self._beyond, self._timeout)
            self._asked = True
        return ALONE if self._told is None else self._told[number]
