"""Constraint expressions: what they mean, and that nothing but conditions gets through."""

from __future__ import annotations

import pytest

from expertstream.errors import ConfigError
from expertstream.explore.conditions import check_kinds, check_together
from expertstream.explore.expressions import Expression
from expertstream.explore.fields import field_paths
from expertstream.explore.rows import result_columns

VALUES = {"tokens": 64, "strategy": "ep", "package.die.weight_buffer": 14 << 20, "package.d2d.bandwidth": 288 * 10**9}


def holds(text: str) -> bool:
    return Expression(text, VALUES).holds(VALUES.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("package.die.weight_buffer <= 14 MiB", True),
        ("package.die.weight_buffer < 14 MiB", False),
        ("package.d2d.bandwidth == 288 GB/s", True),
        ("package.d2d.bandwidth / 4 >= 72 GB/s and not tokens < 64", True),
        ("strategy == 'ep' or tokens > 100", True),
        ("strategy in ('tp', 'fse-dp')", False),
        ("16 <= tokens < 64", False),
        ("min(tokens, 10) + max(1, 2) * ceil(0.5) == 12", True),
        ("tokens % 3 == 1 and -tokens // 10 == -7", True),
        ("log2(tokens) == 6", True),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokns < 3", "'tokns < 3' names 'tokns', which is unknown; did you mean 'tokens'?"),
        ("tokens <", "'tokens <' cannot be read; write for example 'package.die.weight_buffer <= 14 MiB'"),
        ("tokens < 3 parsec", "'3 parsec' is no quantity; units are such as MiB, GB/s, ns and MHz"),
        ("__import__('os').system('true')", "uses Call, which is not allowed"),
        ("tokens.__class__ == 1", "names 'tokens.__class__', which is unknown"),
        ("(lambda: 1)()", "uses Call, which is not allowed"),
        ("[t for t in (1, 2)]", "uses ListComp, which is not allowed"),
        ("tokens ** 99 > 1", "uses BinOp, which is not allowed"),
        ("tokens[0] == 1", "uses Subscript, which is not allowed"),
        ("f'{tokens}' == '1'", "uses JoinedStr, which is not allowed"),
        ("(a := 3) > 1", "uses NamedExpr, which is not allowed"),
        ("tokens > 1 " * 100, "at most 1000 are allowed"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Expression(text, VALUES)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["'a' * 999999999 == 'b'", "tokens / 0 > 1", "strategy < 3", "log2(0) < 1"])
def test_what_cannot_be_worked_out_is_one_message(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be worked out"):
        holds(text)


def test_violation_grows_with_the_distance_and_is_not_above_zero_where_it_holds() -> None:
    def violation(text: str) -> float:
        return Expression(text, VALUES).violation(VALUES.__getitem__)

    assert violation("tokens <= 128") == -0.5
    assert violation("tokens <= 32") == 1.0
    assert violation("tokens >= 256") == 0.75
    assert violation("tokens < 64") > 0
    assert violation("tokens <= 64") == 0
    assert violation("strategy == 'tp'") == 1.0
    assert violation("strategy == 'ep' and tokens == 64") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "package.die.weight_buffer <= 14",
            "'package.die.weight_buffer <= 14' compares package.die.weight_buffer with 14, which has no unit; write "
            "for example '14 MiB'",
        ),
        ("25.6 < package.channels.bandwidth", "with 25.6, which has no unit; write for example '25.6 GB/s'"),
        (
            "tokens > 4 and package.die.clock in (8 MHz, 900)",
            "with 900, which has no unit; write for example '800 MHz'",
        ),
        ("package.die.weight_buffer <= 14 ns", "with a time; it is a size, such as '14 MiB'"),
        ("tokens <= 14 MiB", "compares tokens with a size; it is a number without a unit"),
        ("strategy < 3", "compares strategy, which is a text, with 3"),
        ("strategy < 'tp'", "compares strategy, which is a text, with 'tp'"),
        ("tokens == 'many'", "compares tokens, which is a number, with 'many'"),
        ("gap <= 1.1 ms", "compares gap with a time; it is a number without a unit"),
        ("latency_ps < 8 MiB", "compares latency_ps with a size; it is a time, such as '30 us'"),
        ("sram_bytes < 3 ms", "compares sram_bytes with a time; it is a size, such as '8 MiB'"),
        ("gap == 'small'", "compares gap, which is a number, with 'small'"),
        ("utilisation", "'utilisation' uses utilisation as a condition; compare it, as in 'utilisation <= 3'"),
        ("tokens > 3 and not (gap or tokens > 5)", "uses gap as a condition"),
        ("gap - 1", "uses gap - 1 as a condition; compare it, as in 'gap - 1 <= 3'"),
    ],
)
def test_kinds_and_units_are_checked_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_kinds(Expression(text, [*field_paths(), *result_columns()]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "package.die.weight_buffer > 0 and package.d2d.bandwidth < 288 GB/s",
        "latency_ps < 3 ms and latency_ps < 3000000",
        "package.die.token_buffer * 2 <= package.die.weight_buffer",
        "strategy in ('tp', 'ep') and tokens != 3",
        "sram_bytes <= 8 MiB and peak_package_bytes < 9 and energy_pj < 1e9",
        "synthetic or not options.redispatch",
        "not synthetic == True",
    ],
)
def test_fitting_kinds_and_units_pass(text: str) -> None:
    check_kinds(Expression(text, [*field_paths(), *result_columns()]))


@pytest.mark.parametrize(
    ("texts", "culprit"),
    [
        (["tokens < 16", "strategy == 'ep'", "tokens > 64"], 2),
        (["tokens < 16 and tokens >= 16"], 0),
        (["tokens == 4", "5 <= tokens"], 1),
        (["tokens <= 16", "tokens >= 16"], None),
        (["tokens < 16 or tokens > 64", "tokens > 20"], None),
        (["not tokens < 16", "tokens < 16 or strategy == 'ep'"], None),
    ],
)
def test_contradictions_are_found(texts: list[str], culprit: int | None) -> None:
    assert check_together([Expression(text, VALUES) for text in texts]) == culprit
