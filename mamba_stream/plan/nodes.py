"""A pipeline as data: every verb is a frozen node that points at the nodes before it.

Nodes are compared by identity: the same node used twice is one step, and two equal ones are two. Each knows the
place in the user's program where it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal

import polars as pl

APPEND_TIME: Final = "append_time"
"""The column that says when rows were appended, where that is their time."""

APPEND_TIME_TYPE: Final = pl.Datetime("us")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the user's program a verb was called."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """A step of a pipeline.

    Attributes:
        place: Where the user wrote it.
    """

    place: Place

    takes_changes: ClassVar[bool] = False
    """Whether it knows what to do with a row that takes back an earlier one."""

    @property
    def parents(self) -> tuple[Node, ...]:
        """The nodes whose rows it takes."""
        return ()

    @property
    def shaped_by(self) -> tuple[Node, ...]:
        """The nodes whose shapes decide its own."""
        return self.parents

    @property
    def verb(self) -> str:
        """What the user called."""
        return type(self).__name__.lower()


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(Node):
    """Where rows come from, and what is said about their time.

    Attributes:
        time: The time column; ``None`` takes the topic's.
        lateness: In microseconds.
        idle: Seconds of silence after which a partition no longer holds back time.
        name: Tells it apart from another source that reads the same topic.
    """

    time: str | None
    lateness: int
    idle: float
    name: str

    @property
    def verb(self) -> str:
        return "stream"


@dataclass(frozen=True, eq=False, kw_only=True)
class TopicSource(Source):
    """The rows of a topic.

    Attributes:
        topic: Its name.
        bound: The open topic, where the user passed one.
        start: Where a first run begins.
        ahead: Rows further than this before their append time are rejected; microseconds.
        declared: The schema that the user says it has.
        by_append: Whether the rows' time is when they were appended, which is a column more.
    """

    topic: str
    bound: Any = None
    start: Any = "earliest"
    ahead: int | None = None
    declared: pl.Schema | None = None
    by_append: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameSource(Source):
    """The rows of a frame, which is bounded and has one partition."""

    frame: pl.DataFrame = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class ConnectorSource(Source):
    """The rows of a connector's source (:class:`mamba_stream.connect.Source`)."""

    source: Any


@dataclass(frozen=True, eq=False, kw_only=True)
class Step(Node):
    """A step with one input."""

    parent: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.parent,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stateful(Node):
    """A step that remembers, with any number of inputs.

    Attributes:
        name: Under which its state is kept.
    """

    name: str

    by_time: ClassVar[bool] = True
    """Whether it goes by time: then rows can come too late for it."""

    in_chunks: ClassVar[bool] = False
    """Whether it takes rows in chunks as they lie: it computes nothing of them, and puts together what it keeps."""

    keeps_rows: ClassVar[bool] = False
    """Whether the rows that it gives are ones that it got, with their origin, and not rows of its own making."""

    tells_sides: ClassVar[bool] = False
    """Whether a row that it makes of two can carry the origin of both, instead of waiting for a number of its own."""

    takes_sides: ClassVar[bool] = False
    """Whether it can tell the order of rows that carry the origin of two."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Filter(Step):
    """Rows for which all predicates are true."""

    takes_changes: ClassVar[bool] = True

    predicates: tuple[pl.Expr, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Step):
    """Only these columns."""

    takes_changes: ClassVar[bool] = True

    exprs: tuple[pl.Expr, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class WithColumns(Step):
    """Further columns, or others in place of some."""

    takes_changes: ClassVar[bool] = True

    exprs: tuple[pl.Expr, ...]

    @property
    def verb(self) -> str:
        return "with_columns"


@dataclass(frozen=True, eq=False, kw_only=True)
class Drop(Step):
    """Without some columns: names or selectors."""

    takes_changes: ClassVar[bool] = True

    columns: tuple[Any, ...]
    strict: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Rename(Step):
    """Other names for columns: a mapping, or a function of the name."""

    takes_changes: ClassVar[bool] = True

    names: Mapping[str, str] | Callable[[str], str]
    strict: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Cast(Step):
    """Other types for columns: as ``LazyFrame.cast`` takes them."""

    takes_changes: ClassVar[bool] = True

    dtypes: Any
    strict: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Explode(Step):
    """A row for each element of lists.

    Attributes:
        columns: The columns with lists, names or selectors; those of a row are equally long.
        empty_as_null: Whether an empty list gives a row with null, and not none.
        keep_nulls: Whether a null gives a row with null, and not none.
    """

    takes_changes: ClassVar[bool] = True

    columns: tuple[Any, ...]
    empty_as_null: bool
    keep_nulls: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Unnest(Step):
    """A column for each field of structs.

    Attributes:
        columns: The columns with structs, names or selectors.
        separator: Between the struct's name and the field's; ``None`` for the field's alone.
    """

    takes_changes: ClassVar[bool] = True

    columns: tuple[Any, ...]
    separator: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MapBatches(Step):
    """A user's function over batches.

    Attributes:
        function: The user's.
        schema: What it gives; ``None`` for the columns of its input.
        timeout: How long a call may take, in seconds.
    """

    takes_changes: ClassVar[bool] = True

    function: Callable[..., Any] = field(repr=False)
    schema: pl.Schema | None
    timeout: float | None = None

    @property
    def verb(self) -> str:
        return "map_batches"


@dataclass(frozen=True, eq=False, kw_only=True)
class Inspect(Step):
    """Shows batches to a function."""

    takes_changes: ClassVar[bool] = True

    function: Callable[[pl.DataFrame], object]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lookup(Step):
    """A join with a table that stays as it is."""

    takes_changes: ClassVar[bool] = True

    table: pl.DataFrame = field(repr=False)
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: Literal["inner", "left", "semi", "anti"]
    suffix: str

    @property
    def verb(self) -> str:
        return "join"


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Node):
    """The rows of several streams."""

    takes_changes: ClassVar[bool] = True

    inputs: tuple[Node, ...]

    @property
    def parents(self) -> tuple[Node, ...]:
        return self.inputs


@dataclass(frozen=True, eq=False, kw_only=True)
class Handover(Concat):
    """The rows of one stream to its end, and behind it those of another."""

    @property
    def verb(self) -> str:
        return "sequence"

    @property
    def history(self) -> Node:
        """The stream that comes first."""
        return self.inputs[0]

    @property
    def live(self) -> Node:
        """The stream that goes on behind it."""
        return self.inputs[1]


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Windows as the user describes them; lengths are in microseconds, which a time column may refuse.

    Attributes:
        kind: What they are called.
        size: How long a window is; of sessions the gap. Of months there is no length: 0.
        every: How far apart windows start; of cumulative ones, how far apart they end.
        origin: Where one of them starts; weeks start on Mondays.
        words: The same as the user wrote it, such as ``hopping 10s every 2s``.
        calendar: The size as ``dt.truncate`` takes it, where it is one of days or more: these follow time zones.
        offset: How far behind its start by the calendar a window starts.
        count: Of windows of so many rows.
    """

    kind: Literal["tumbling", "hopping", "cumulative", "session", "rows"]
    size: int
    every: int
    origin: int
    words: str
    calendar: str = ""
    offset: int = 0
    count: int = 0

    @property
    def closes_together(self) -> bool:
        """Whether all rows with one ``window_start`` come out together, of all keys."""
        return self.kind in ("tumbling", "hopping")


@dataclass(frozen=True, slots=True)
class Changing:
    """Windows that give results before they are over, or again afterwards: their rows are a changelog.

    Attributes:
        at_once: Whether every batch gives what it changed.
        every: How far time has to come for results before the end of windows, in microseconds; ``None`` gives none.
        corrections: How long after its end a window takes rows and gives its results anew, in microseconds.
    """

    at_once: bool
    every: int | None
    corrections: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Window(Stateful, Step):
    """Aggregates by key and window.

    Attributes:
        spec: The windows.
        by: The keys.
        aggregates: What to make of each window.
        changing: How results change, where they do.
    """

    spec: WindowSpec
    by: tuple[str, ...]
    aggregates: Mapping[str, pl.Expr]
    changing: Changing | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Beside(Step):
    """Rows that a node gives beside those that go on: whoever runs it hands them over."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LateRows(Beside):
    """The rows of one input of a step that came too late for it."""

    parent: Stateful
    port: int = 0

    @property
    def origin(self) -> Node:
        """The node whose rows they are."""
        return self.parent.parents[self.port]

    @property
    def shaped_by(self) -> tuple[Node, ...]:
        return (self.origin,)

    @property
    def verb(self) -> str:
        return "late"


@dataclass(frozen=True, eq=False, kw_only=True)
class WithTime(Stateful, Step):
    """Rows of sources under another time: one that was not there before, as it had to be decoded.

    Attributes:
        time: The column.
        lateness: In microseconds.
    """

    by_time: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = True

    time: str
    lateness: int

    @property
    def verb(self) -> str:
        return "with_time"


@dataclass(frozen=True, eq=False, kw_only=True)
class RejectedRows(Beside):
    """The rows that have no time, or one too far ahead: of a source, or of where another time is taken."""

    parent: Source | WithTime

    @property
    def verb(self) -> str:
        return "rejected"


@dataclass(frozen=True, eq=False, kw_only=True)
class Changes(Step):
    """A changelog as rows that say in ``_op`` what they do."""

    takes_changes: ClassVar[bool] = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Output(Step):
    """Rows that go to a topic; the end of a branch."""

    takes_changes: ClassVar[bool] = True

    topic: str
    key: tuple[str, ...]
    partitions: int | None
    retention: timedelta | None = None

    @property
    def verb(self) -> str:
        return "to"


@dataclass(frozen=True, eq=False, kw_only=True)
class SinkOutput(Step):
    """Rows that go to a connector's sink; the end of a branch.

    Attributes:
        sink: The sink (:class:`mamba_stream.connect.Sink` or ``TransactionalSink``).
        name: What the job's progress calls it, and with the job's name what the sink knows the writer by.
    """

    takes_changes: ClassVar[bool] = True  # its shape says whether the sink does

    sink: Any
    name: str

    @property
    def verb(self) -> str:
        return "to"


AnySource = TopicSource | FrameSource | ConnectorSource
AnyOutput = Output | SinkOutput
RowStep = Filter | Select | WithColumns | Drop | Rename | Cast | Explode | Unnest


def walk(roots: Sequence[Node]) -> list[Node]:
    """All nodes, each once, parents before children, in an order that depends on the plan alone."""
    order: dict[int, Node] = {}
    waiting: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while waiting:
        node, parents_done = waiting.pop()
        if id(node) in order:
            continue
        if parents_done:
            order[id(node)] = node
        else:
            waiting.append((node, True))
            waiting.extend((parent, False) for parent in reversed(node.parents))
    return list(order.values())
