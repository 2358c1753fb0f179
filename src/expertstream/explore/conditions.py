"""What can be said of conditions before anything runs: units that are missing, kinds that differ, contradictions."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Final

from expertstream.errors import ConfigError
from expertstream.explore.expressions import Comparison, Expression
from expertstream.explore.fields import field_paths, kind_of, unit_of
from expertstream.explore.rows import result_columns

_LOWER: Final = (ast.Gt, ast.GtE, ast.Eq)
_UPPER: Final = (ast.Lt, ast.LtE, ast.Eq)
TRUTH: Final = "synthetic"  # the only result that is true or false
_ORDER: Final = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def check_kinds(expression: Expression) -> None:
    """Check every comparison of a field or a result with a plain value, and that nothing but truths stands alone.

    Raises:
        ConfigError: a unit is missing, of another kind or out of place, a text is compared with a number, or a number
            or a text stands where a condition is needed.
    """
    for name in expression.bare():
        if not (name == TRUTH or (name in field_paths() and kind_of(name) is bool)):
            raise ConfigError(f"'{expression.text}' uses {name} as a condition; compare it, as in '{name} <= 3'")
    for one in expression.comparisons():
        is_result = one.name in result_columns()
        if isinstance(one.value, bool) or one.value is None or not (is_result or one.name in field_paths()):
            continue
        text, is_text = isinstance(one.value, str), not is_result and kind_of(one.name) is str
        if text != is_text or (text and issubclass(one.op, _ORDER)):
            kind = "a text" if is_text else "a number"
            raise ConfigError(f"'{expression.text}' compares {one.name}, which is {kind}, with {one.value!r}")
        unit = _unit_of_result(one.name) if is_result else unit_of(one.name)
        kind, example = unit or ("", "")
        if one.unit == kind or (unit and one.value == 0):
            continue
        if unit and not one.unit:
            if is_result:  # its name says in which unit it is
                continue
            without = f"{one.name} with {one.value}, which has no unit"
            raise ConfigError(f"'{expression.text}' compares {without}; write for example '{example}'")
        wanted = f"a {kind}, such as '{example}'" if unit else "a number without a unit"
        raise ConfigError(f"'{expression.text}' compares {one.name} with a {one.unit}; it is {wanted}")


def _unit_of_result(name: str) -> tuple[str, str] | None:
    kinds = {"_ps": ("time", "30 us"), "_bytes": ("size", "8 MiB")}
    return next((kind for ending, kind in kinds.items() if name.endswith(ending)), None)


def check_together(expressions: Sequence[Expression]) -> int | None:
    """The number of the first condition that leaves no value of a name together with those before it; None: fine.

    Looked at are comparisons of one name with one number that must hold; what is left of others shows when they run.
    """
    lower: dict[str, Comparison] = {}
    upper: dict[str, Comparison] = {}
    for number, expression in enumerate(expressions):
        for one in expression.comparisons():
            if not one.must or isinstance(one.value, (str, bool)) or one.value is None:
                continue
            if issubclass(one.op, _LOWER) and (one.name not in lower or one.value >= _value(lower[one.name])):
                lower[one.name] = one
            if issubclass(one.op, _UPPER) and (one.name not in upper or one.value <= _value(upper[one.name])):
                upper[one.name] = one
            if one.name in lower and one.name in upper:
                least, most = lower[one.name], upper[one.name]
                strict = ast.Gt in (least.op, most.op) or ast.Lt in (least.op, most.op)
                if _value(least) > _value(most) or (_value(least) == _value(most) and strict):
                    return number
    return None


def _value(comparison: Comparison) -> float:
    assert isinstance(comparison.value, (int, float))
    return comparison.value
