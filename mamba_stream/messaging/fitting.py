"""Whether a rule can judge the rows of a topic: known when the topic is joined, not when its first row comes."""

from __future__ import annotations

import logging

from mamba_stream.errors import ColumnNotFound, ExpressionRefused, InvalidInput
from mamba_stream.log import Log, Topic
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.message import Rule

_logger = logging.getLogger("mamba_stream.messaging")


def check_fits(rule: Rule | None, topic: Topic) -> None:
    """Raises where a rule cannot judge the rows of a topic; one that has no ``check`` of its own is taken at its word.

    Raises:
        ColumnNotFound: It looks at a column that the topic does not have.
        InvalidInput: A condition is of the wrong type for its column.
    """
    check = getattr(rule, "check", None)
    if check is None:
        return
    try:
        check(topic.schema)
    except (ColumnNotFound, ExpressionRefused, InvalidInput) as error:
        raise type(error)(
            f"topic {topic.name!r}: the rule cannot judge its rows: {error}. Correct the rule, or receive this topic "
            "without it"
        ) from error


def check_named(rule: Rule | None, interest: Interest, log: Log) -> None:
    """Raises where a rule cannot judge one of the topics that are named, as far as they are there."""
    for name in interest.named:
        if name in log:
            check_fits(rule, log[name])


def fits(rule: Rule | None, topic: Topic, interest: Interest) -> bool:
    """Whether a topic that came is to be received with this rule; where it is left out, a warning says so.

    A pattern may match topics that nobody thought of: such a one must not stop those that are received.

    Raises:
        ColumnNotFound: As :func:`check_fits`, where the topic was named.
        InvalidInput: The same.
    """
    try:
        check_fits(rule, topic)
    except (ColumnNotFound, ExpressionRefused, InvalidInput) as error:
        if topic.name in interest.named:
            raise
        _logger.warning("a topic that a pattern matches is left out: %s", error)
        return False
    return True
