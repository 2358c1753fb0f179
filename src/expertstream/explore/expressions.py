"""Constraints as text, such as ``package.die.weight_buffer <= 14 MiB and tokens < 256``; parsed, never executed."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from expertstream.errors import ConfigError, nearest
from expertstream.units import parse_bandwidth, parse_bytes, parse_frequency_hz, parse_time_ps

Lookup = Callable[[str], Any]

MAX_LENGTH: Final = 1000
_NUMBER: Final = r"(?<![\w.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
# a number, a space and a unit; texts in quotes are left alone
_QUANTITY: Final = re.compile(rf"'[^']*'|\"[^\"]*\"|({_NUMBER})\s+([A-Za-z]+(?:/s)?)(?![\w(.])")
_KINDS: Final = {
    "size": parse_bytes,
    "bandwidth": parse_bandwidth,
    "time": parse_time_ps,
    "frequency": parse_frequency_hz,
}
_WORDS: Final = {"and", "or", "not", "in", "if", "else", "is"}
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_MIRRORED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
}


class Comparison(NamedTuple):
    """A name compared with a plain value, turned so that the name is on the left.

    Attributes:
        unit: "size", "bandwidth", "time" or "frequency" for a quantity, "" for a plain value.
        must: whether the condition as a whole can only hold if this does.
    """

    name: str
    op: type[ast.cmpop]
    value: Any
    unit: str
    must: bool


class Expression:
    """A condition over names: comparisons, and/or/not, + - * / // %, in (...), and min max abs ceil floor log2.

    Quantities may have units, as in ``14 MiB`` or ``25.6 GB/s``; they are brought to base units.

    Raises:
        ConfigError: the text cannot be read, uses something else, or names what is not ``known``.
    """

    def __init__(self, text: str, known: Iterable[str]) -> None:
        self.text = text
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"the expression is {len(text)} characters long; at most {MAX_LENGTH} are allowed")
        try:
            plain, self._units = _in_base_units(" ".join(text.split()))
            self._tree = ast.parse(plain, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(
                f"'{text}' cannot be read; write for example 'package.die.weight_buffer <= 14 MiB'"
            ) from None
        self.names = tuple(dict.fromkeys(self._names(self._tree)))
        allowed = list(known)
        for name in self.names:
            if name not in allowed:
                shown = f" Known: {', '.join(allowed)}" if len(allowed) <= 12 else ""
                raise ConfigError(f"'{text}' names '{name}', which is unknown{nearest(name, allowed) or '.'}{shown}")

    def comparisons(self) -> list[Comparison]:
        """Every comparison of a name with a plain value."""
        return list(self._comparisons(self._tree, True))

    def bare(self) -> list[str]:
        """What stands as a condition by itself, compared with nothing."""
        return list(self._bare(self._tree))

    def holds(self, lookup: Lookup) -> bool:
        """Whether the condition holds. Raises ConfigError if it cannot be worked out."""
        return bool(self._value(self._tree, lookup))

    def violation(self, lookup: Lookup) -> float:
        """How far the condition is from holding, relative to a comparison's right side; 0 or less where it holds."""
        tree = self._tree
        if not (isinstance(tree, ast.Compare) and len(tree.ops) == 1):
            return 0.0 if self.holds(lookup) else 1.0
        left, right = self._value(tree.left, lookup), self._value(tree.comparators[0], lookup)
        signs = {ast.Lt: 1, ast.LtE: 1, ast.Gt: -1, ast.GtE: -1}
        sign = signs.get(type(tree.ops[0]))
        if sign is None or not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            return 0.0 if self.holds(lookup) else 1.0
        distance = sign * (left - right) / (abs(right) or 1.0)
        return distance if distance or self.holds(lookup) else 1e-12  # "<" fails where both sides are equal

    def _names(self, node: ast.AST) -> Iterable[str]:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return
            case ast.Name() | ast.Attribute():
                yield _dotted(node, self.text)
                return
            case ast.Call(func=ast.Name(id=function), args=[_, *_], keywords=[]) if function in _FUNCTIONS:
                children: list[ast.AST] = list(node.args)
            case ast.BoolOp():
                children = list(node.values)
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                children = [node.left, node.right]
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                children = [node.operand]
            case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
                children = [node.left, *node.comparators]
            case ast.Tuple() | ast.List():
                children = list(node.elts)
            case _:
                raise ConfigError(
                    f"'{self.text}' uses {type(node).__name__}, which is not allowed; allowed are names, numbers with "
                    f"units, comparisons, and, or, not, in, + - * / // % and {', '.join(_FUNCTIONS)}"
                )
        for child in children:
            yield from self._names(child)

    def _comparisons(self, node: ast.AST, must: bool) -> Iterable[Comparison]:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
                if isinstance(left, ast.Constant) and type(op) in _MIRRORED:
                    left, right, kind = right, left, _MIRRORED[type(op)]
                else:
                    kind = type(op)
                values = right.elts if isinstance(right, (ast.Tuple, ast.List)) else [right]
                if isinstance(left, (ast.Name, ast.Attribute)):
                    for value in values:
                        if isinstance(value, ast.Constant):
                            unit = self._units.get(value.col_offset, "")
                            yield Comparison(_dotted(left, self.text), kind, value.value, unit, must)
            return
        must = must and isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)
        for child in ast.iter_child_nodes(node):
            yield from self._comparisons(child, must)

    def _bare(self, node: ast.AST) -> Iterable[str]:
        match node:
            case ast.BoolOp():
                for value in node.values:
                    yield from self._bare(value)
            case ast.UnaryOp(op=ast.Not()):
                yield from self._bare(node.operand)
            case ast.Compare():
                return
            case _:
                yield ast.unparse(node)

    def _value(self, node: ast.AST, lookup: Lookup) -> Any:
        try:
            return _evaluate(node, lookup, self.text)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"'{self.text}' cannot be worked out: {error}") from None


def _evaluate(node: ast.AST, lookup: Lookup, text: str) -> Any:
    def at(child: ast.AST) -> Any:
        return _evaluate(child, lookup, text)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name() | ast.Attribute():
            return lookup(_dotted(node, text))
        case ast.Call(func=ast.Name(id=function)):
            return _FUNCTIONS[function](*(at(argument) for argument in node.args))
        case ast.BoolOp(op=ast.And()):
            return all(at(value) for value in node.values)
        case ast.BoolOp():
            return any(at(value) for value in node.values)
        case ast.BinOp():
            left, right = at(node.left), at(node.right)
            if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
                raise TypeError(f"{left!r} and {right!r} are not both numbers")
            return _ARITHMETIC[type(node.op)](left, right)
        case ast.UnaryOp(op=ast.Not()):
            return not at(node.operand)
        case ast.UnaryOp():
            return -at(node.operand)
        case ast.Compare():
            left = at(node.left)
            for op, right_node in zip(node.ops, node.comparators, strict=True):
                right = at(right_node)
                if not _COMPARE[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.Tuple() | ast.List():
            return [at(item) for item in node.elts]
        case _:  # __init__ has refused everything else
            raise TypeError(type(node).__name__)


def _dotted(node: ast.AST, text: str) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ConfigError(f"'{text}' takes an attribute of {type(node).__name__}, which is not allowed")
    return ".".join([node.id, *reversed(parts)])


def _in_base_units(text: str) -> tuple[str, dict[int, str]]:
    """The text with quantities as numbers in base units, and what each is, by its place in bytes."""
    out, kinds, end = "", dict[int, str](), 0
    for match in _QUANTITY.finditer(text):
        number, unit = match.groups()
        if number is None or unit in _WORDS:
            continue
        out += text[end : match.start()]
        kind, value = _quantity(f"{number} {unit}")
        kinds[len(out.encode())] = kind
        out, end = out + str(value), match.end()
    return out + text[end:], kinds


def _quantity(text: str) -> tuple[str, int]:
    for kind, parse in _KINDS.items():
        try:
            return kind, parse(text)
        except ConfigError:
            continue
    raise ConfigError(f"'{text}' is no quantity; units are such as MiB, GB/s, ns and MHz")
