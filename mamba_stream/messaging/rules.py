"""Which messages: a rule over headers and columns, evaluated on Arrow batches before rows become messages."""

from __future__ import annotations

from typing import Any, Self

import polars as pl
import pyarrow as pa

from mamba_stream.errors import InvalidInput
from mamba_stream.messaging.conditions import Condition, Mask, OnExpression, combined, condition
from mamba_stream.plan.expressions import check_row_wise


class FilterRule:
    """Which messages: conditions that must all hold. A rule without any lets everything pass.

    Args:
        expressions: Polars expressions that look at nothing but their row, over the columns of the topic.

    What is missing holds no condition but its negation: ``!=`` and ``~`` are the complement of what they negate.

    Example:
        >>> import mamba_stream as mamba
        >>> rule = mamba.FilterRule()
        >>> rule.add_condition("region", "eu")
        FilterRule(header 'region' == 'eu')
        >>> rule.add_condition("attempt", 3, op="<")
        FilterRule(header 'region' == 'eu', header 'attempt' < 3)

        >>> import polars as pl
        >>> urgent = mamba.FilterRule(pl.col("priority") > 5)
        >>> mamba.FilterRule.any(urgent, ~rule)
        FilterRule(any([(col("priority")) > (dyn int: 5)], none(all(header 'region' == 'eu', header 'attempt' < 3))))
    """

    def __init__(self, *expressions: pl.Expr) -> None:
        self._parts: list[Condition] = []
        for expression in expressions:
            self.add_expression(expression)

    def add_condition(self, name: str, value: Any = None, *, op: str = "==", on: str = "header") -> Self:
        """Adds a condition, and returns the rule.

        Args:
            name: Of the header, or of the column.
            value: What it is compared with: for a header str or bytes, or a number, which compares with headers
                that read as one; a list for ``in``, a regular expression for ``matches``, nothing for ``exists``.
            op: ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in``, ``matches`` (anywhere in the text) or
                ``exists``.
            on: ``"header"``, or ``"column"``: ``event_type``, ``key``, ``priority``, ``time`` of messages, any
                column of a typed topic.

        Raises:
            InvalidInput: The operator is unknown, or the value cannot be right for it.
        """
        self._parts.append(condition(name, op, value, on))
        return self

    def add_expression(self, expression: pl.Expr) -> Self:
        """Adds a Polars expression, and returns the rule.

        Raises:
            ExpressionRefused: It looks beyond its row.
        """
        if not isinstance(expression, pl.Expr):
            raise InvalidInput(
                f"a rule is made of Polars expressions such as pl.col('price') > 3, not of "
                f"{type(expression).__name__} {expression!r:.60}; conditions go to add_condition(...)"
            )
        check_row_wise(expression, verb="FilterRule")
        self._parts.append(OnExpression(expression))
        return self

    @classmethod
    def all(cls, *rules: FilterRule) -> FilterRule:
        """Messages for which all of these hold."""
        return cls._of("all", rules)

    @classmethod
    def any(cls, *rules: FilterRule) -> FilterRule:
        """Messages for which at least one of these holds."""
        return cls._of("any", rules)

    @classmethod
    def none(cls, *rules: FilterRule) -> FilterRule:
        """Messages for which none of these holds."""
        return cls._of("none", rules)

    def __and__(self, other: FilterRule) -> FilterRule:
        return FilterRule.all(self, other)

    def __or__(self, other: FilterRule) -> FilterRule:
        return FilterRule.any(self, other)

    def __invert__(self) -> FilterRule:
        return FilterRule.none(self)

    def __repr__(self) -> str:
        return f"FilterRule({', '.join(map(str, self._parts))})"

    @property
    def condition(self) -> Condition:
        """What it comes to, as it is now."""
        return combined("all", self._parts)

    def check(self, schema: pa.Schema) -> None:
        """Raises where rows of this schema cannot be judged, so that it is known before the first one comes.

        Raises:
            ColumnNotFound: It names a column that is not there.
            InvalidInput: A condition is of the wrong type for its column.
        """
        for part in self._parts:
            part.check(schema)

    def columns(self, schema: pa.Schema) -> list[str]:
        """The columns that it needs, in the order of the schema."""
        wanted = set().union(*(part.columns(schema) for part in self._parts))
        return [name for name in schema.names if name in wanted]

    def mask(self, batch: pa.RecordBatch) -> Mask | None:
        """For every row whether the rule holds; ``None`` where it holds for all, whatever they are.

        Args:
            batch: Rows with at least the columns that it needs.
        """
        if not self._parts:
            return None
        return self.condition.mask(batch)

    @classmethod
    def _of(cls, how: str, rules: tuple[FilterRule, ...]) -> FilterRule:
        for rule in rules:
            if not isinstance(rule, FilterRule):
                raise InvalidInput(
                    f"FilterRule.{how}(...) takes rules, not {type(rule).__name__} {rule!r:.60}"
                )
        if not rules:
            raise InvalidInput(f"FilterRule.{how}() has no rules: pass at least one")
        found = cls()
        # What is added to them later does not change this one.
        found._parts.append(combined(how, [rule.condition for rule in rules]))
        return found
