"""Tables of ablation.md, sensitivity.md and adaptive.md, from those that ``docs.generate.reproduction run`` keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from docs.generate.reproduction import line_of, table_of
from expertstream.errors import ConfigError
from expertstream.reproduce import all_studies
from expertstream.reproduce.drawing import title_of
from expertstream.reproduce.means import cells
from expertstream.reproduce.studies.ablation import INGREDIENTS, STEPS, VARIANTS
from expertstream.reproduce.studies.sensitivity import ADAPTIVE, DDR, OURS, STRATEGIES, d2d_bound, speed
from expertstream.reproduce.study import Row
from expertstream.units import signed

WAITS: Final = {
    "ddr": "waits for DDR",
    "d2d": "D2D",
    "space": "space",
    "other_die": "another die",
    "no_work": "no work left",
}


def claims(name: str) -> str:
    """The assumptions of a study, and its claims."""
    study = all_studies()[name]
    lines = [line_of(claim) for claim in study.claims(_rows(name))]
    head = ["| claim | ours | | why |", "| --- | --- | --- | --- |"]
    return "\n".join([*(f"- {text}" for text in study.assumptions), "", *head, *lines])


def variants() -> str:
    """A1 to A4 and EP on captures: means over the layers, the least and the most of a layer in brackets."""
    head = ["tokens", "", "latency, ms", "latency / bound", "MACs of peak, %", "peak SRAM, MB"]
    head += [f"{what}, %" for what in WAITS.values()]
    shown = [row for row in _rows("ablation") if row["captured"] and row["variant"] in (*STEPS, "ep")]
    parts = []
    for (source,), mine in cells(shown, "source").items():
        lines = [
            [
                str(row["tokens"]),
                f"{row['variant']} `{VARIANTS[row['variant']]['strategy']}`" if row["variant"] in STEPS else "`ep`",
                _spread(row, "latency_ms", 2),
                _spread(row, "gap", 3),
                _spread(row, "mac_percent", 1),
                _spread(row, "peak_mb", 0),
                *(f"{row[f'wait_{cause}_percent']:.1f}" for cause in WAITS),
            ]
            for row in mine
        ]
        parts.append("\n".join([f"### {source.replace('__', ', ')}", "", _table(head, lines)]))
    return "\n\n".join(parts)


def ingredients() -> str:
    """Gain of speed by each ingredient, everything else equal: the least, the median and the most over the sources."""
    found = {(row["source"], row["tokens"], row["variant"]): row["latency_ms"] for row in _rows("ablation")}
    sizes = list(dict.fromkeys(tokens for _, tokens, _ in found))
    sources = list(dict.fromkeys(source for source, _, _ in found))
    lines = []
    for name, (with_it, without) in INGREDIENTS.items():
        gains = {
            n: [100 * (found[source, n, without] / found[source, n, with_it] - 1) for source in sources] for n in sizes
        }
        lines.append([name, *(_ends(gains[n], signed) for n in sizes)])
    return _table(["ingredient", *(f"{n} tokens, %" for n in sizes)], lines)


def crossover() -> str:
    """Speed of the paper's and our strategy over the faster TP, by model and DDR bandwidth."""
    parts = []
    for (gb, tokens), mine in cells(_rows("sensitivity"), "d2d_gb", "tokens").items():
        lines = []
        for (model,), some in cells(mine, "model").items():
            by_ddr = cells(some, "ddr_times")
            texts = [_speed(by_ddr[(times,)]) for times in DDR]
            lines.append([title_of(model, "captured" if some[0]["captured"] else None), *texts])
        head = ["model", *(f"DDR x{times}" for times in DDR)]
        parts.append("\n".join([f"### {tokens} tokens, D2D {gb} GB/s", "", _table(head, lines)]))
    return "\n\n".join(parts)


def gaps() -> str:
    """Latency / lower bound of every strategy: the least, the median and the most over the models."""
    parts = []
    for (tokens,), mine in cells(_rows("sensitivity"), "tokens").items():
        at = cells(mine, "strategy", "d2d_gb", "ddr_times")
        lines = [
            [
                f"`{name}`",
                str(gb),
                *(_ends([row["gap"] for row in at[name, gb, times]], "{:.2f}".format) for times in DDR),
            ]
            for name in STRATEGIES
            for (gb,) in cells(mine, "d2d_gb")
        ]
        head = ["strategy", "D2D, GB/s", *(f"DDR x{times}" for times in DDR)]
        parts.append("\n".join([f"### {tokens} tokens", "", _table(head, lines)]))
    return "\n\n".join(parts)


def regimes() -> str:
    """Adaptive streaming over the best of the others, by package, change, tokens and DDR bandwidth."""
    rows = _rows("regimes")
    times = sorted({row["ddr"] for row in rows})
    lines = []
    for (dies, change, tokens), mine in cells(rows, "dies", "change", "tokens").items():
        at = {row["ddr"]: row for row in mine}
        texts = [f"{at[n]['ratio']:.3f} `{at[n]['best']}` {at[n]['best_gap']:.2f}" if n in at else "" for n in times]
        lines.append([dies, change, str(tokens), *texts])
    return _table(["dies", "package", "tokens", *(f"DDR x{n}" for n in times)], lines)


def _rows(name: str) -> list[Row]:
    return table_of(all_studies()[name])


def _speed(rows: Sequence[Row]) -> str:
    texts = [
        f"**{speed(rows, name):.2f}**" if d2d_bound(rows, name) else f"{speed(rows, name):.2f}"
        for name in (OURS, ADAPTIVE)
    ]
    return " / ".join(texts)


def _spread(row: Row, name: str, digits: int) -> str:
    mean, least, most = (f"{row[key]:.{digits}f}" for key in (name, f"{name}_least", f"{name}_most"))
    return f"{mean} ({least} to {most})"


def _ends(values: Sequence[float], show: Callable[[float], str]) -> str:
    ordered = sorted(values)
    return " / ".join(show(value) for value in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


SHOW: Final[dict[str, Callable[[], str]]] = {
    "ablation": lambda: claims("ablation"),
    "variants": variants,
    "ingredients": ingredients,
    "sensitivity": lambda: claims("sensitivity"),
    "crossover": crossover,
    "gaps": gaps,
    "regimes": regimes,
    "regime-claims": lambda: claims("regimes"),
}


def main(arguments: Sequence[str]) -> None:
    """Print one of ``SHOW``."""
    if len(arguments) != 1 or arguments[0] not in SHOW:
        raise ConfigError(f"{' '.join(arguments)} was given; allowed: {', '.join(SHOW)}")
    print(SHOW[arguments[0]]())


if __name__ == "__main__":
    main(sys.argv[1:])
