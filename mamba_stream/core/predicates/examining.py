"""Whether a predicate is one: sizes, the operators' inputs and options, the literals' types and values."""

from __future__ import annotations

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.predicates.forms import Column, Literal, Operator, Predicate, Values
from mamba_stream.core.predicates.limits import DEEPEST, MOST_NODES, MOST_PATTERNS, MOST_VALUES
from mamba_stream.core.predicates.literals import check_value, dtype
from mamba_stream.core.predicates.operators import OPERATORS, Rule
from mamba_stream.core.predicates.patterns import check_pattern
from mamba_stream.errors import InvalidInput


def examine(predicate: Predicate) -> None:
    """Refuses what is no predicate, or one that is too large.

    Raises:
        InvalidInput: With the piece, and what would be valid.
    """
    nodes = patterns = among = 0
    waiting: list[tuple[Predicate, int]] = [(predicate, 1)]
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if depth > DEEPEST:
            raise InvalidInput(f"the predicate is nested more than {DEEPEST} levels deep")
        if nodes > MOST_NODES:
            raise InvalidInput(
                f"the predicate has more than {MOST_NODES:,} columns, literals and operators: for many values"
                " there is is_in"
            )
        match node:
            case Operator():
                _examine_operator(node)
                patterns += node.name == "contains" and not node.options.get("literal", False)
                waiting.extend((part, depth + 1) for part in node.inputs)
            case Literal():
                check_value(node.dtype, node.value)
            case Values():
                among += len(node.values)
                if among > MOST_VALUES:
                    raise InvalidInput(f"is_in looks among at most {MOST_VALUES:,} values")
                dtype(node.dtype)
                for value in node.values:
                    check_value(node.dtype, value, among=True)
            case Column():
                pass
    if patterns > MOST_PATTERNS:
        raise InvalidInput(f"the predicate has {patterns} regular expressions: at most {MOST_PATTERNS}")
    if isinstance(predicate, Values):
        raise InvalidInput("values stand only in is_in, after what is looked for")


def _examine_operator(node: Operator) -> None:
    rule = OPERATORS.get(node.name)
    if rule is None:
        raise InvalidInput(
            f"there is no operator {node.name[:60]!r}{did_you_mean(node.name[:60], OPERATORS)}; there are"
            f" {', '.join(OPERATORS)}"
        )
    if len(node.inputs) < rule.least or (rule.most is not None and len(node.inputs) > rule.most):
        wanted = str(rule.least) if rule.most == rule.least else f"{rule.least} or more"
        raise InvalidInput(f"{node.name} takes {wanted} inputs, not {len(node.inputs)}")
    _examine_options(node, rule)
    for at, part in enumerate(node.inputs):
        if isinstance(part, Values) != (node.name == "is_in" and at == 1):
            raise InvalidInput(
                "is_in looks among values: write them as the second of its inputs"
                if node.name == "is_in"
                else f"{node.name} takes no values: they stand only in is_in, after what is looked for"
            )
    if node.name == "contains":
        _examine_pattern(node)


def _examine_options(node: Operator, rule: Rule) -> None:
    for name, value in node.options.items():
        if name not in rule.choices:
            allowed = f"it has {', '.join(rule.choices)}" if rule.choices else "it has none"
            raise InvalidInput(f"{node.name} has no option {name[:60]!r}: {allowed}")
        choices = rule.choices[name]
        if choices and not any(
            value is choice or (isinstance(value, str) and value == choice) for choice in choices
        ):
            raise InvalidInput(
                f"{node.name}: {name} is one of {', '.join(map(repr, choices))}, not {value!r:.60}"
            )
    if node.name == "cast":
        kind = node.options.get("to")
        if not isinstance(kind, tuple):
            raise InvalidInput('cast needs a type among its options, such as {"to": ["Int64"]}')
        dtype(kind)


def _examine_pattern(node: Operator) -> None:
    pattern = node.inputs[1]
    if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
        raise InvalidInput(
            "contains looks for text that is written out: make its second input a literal String"
        )
    if not node.options.get("literal", False):
        check_pattern(pattern.value)
