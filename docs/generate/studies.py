"""Pages of the ablation and the sensitivity study, from what ``expertstream reproduce`` wrote.

expertstream reproduce ablation sensitivity --traces TRACES --output reproduction
python -m docs.generate.studies reproduction
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from expertstream.report.files import replacing

Row = dict[str, str]
DOCS = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Write docs/ablation.md and docs/sensitivity.md."""
    folder = Path(arguments[0] if arguments else "reproduction")
    for name, tables in (("ablation", _ablation), ("sensitivity", _sensitivity)):
        about = json.loads((folder / f"{name}.json").read_text())
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        lines = [
            f"# {about['title']}",
            "",
            "Generated from measured rows, not written by hand, by:",
            "",
            "```sh",
            f"expertstream reproduce {name} --traces TRACES --output reproduction",
            "python -m docs.generate.studies reproduction  # this page; needs the rows of both studies",
            "```",
            "",
            *(f"- {text}" for text in about["assumptions"]),
            "",
            "## What it says",
            "",
            *(f"- **{c['claimed']}** ({c['verdict']}): {c['ours']}.{_sentence(c['why'])}" for c in about["claims"]),
            "",
            *tables(rows),
        ]
        with replacing(DOCS / f"{name}.md") as temporary:
            temporary.write_text("\n".join(lines).rstrip() + "\n")
    return 0


def _sentence(text: str) -> str:
    return f" {text}." if text else ""


def _ablation(rows: list[Row]) -> list[str]:
    head = [
        "tokens",
        "variant",
        "latency, ms",
        "gap (least to most of a layer)",
        "MACs of peak",
        "peak SRAM, MB (most)",
    ]
    head += ["wait for DDR", "D2D", "space", "other die", "no work left"]
    out: list[str] = []
    for source in dict.fromkeys(row["source"] for row in rows):
        lines = [
            [
                row["tokens"],
                row["variant"],
                f"{float(row['latency_ms']):.3f}",
                f"{float(row['gap']):.3f} ({float(row['gap_least']):.3f} to {float(row['gap_most']):.3f})",
                f"{float(row['mac_percent']):.1f} %",
                f"{float(row['peak_mb']):.0f} ({float(row['most_mb']):.0f})",
                *(f"{float(row[f'wait_{cause}_percent']):.1f} %" for cause in _CAUSES),
            ]
            for row in rows
            if row["source"] == source
        ]
        out += [f"## {source.replace('__', ', ')}", "", *_table(head, lines), ""]
    return out


_CAUSES = ("ddr", "d2d", "space", "other_die", "no_work")


def _sensitivity(rows: list[Row]) -> list[str]:
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    head = ["tokens", "DDR", "D2D, GB/s", *(f"`{name}`" for name in strategies), "busiest link, fse-dp-paired"]
    out = ["Cells: latency in ms (latency / lower bound).", ""]
    for model in dict.fromkeys(row["model"] for row in rows):
        places: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in rows:
            if row["model"] == model:
                places.setdefault((row["tokens"], row["ddr_times"], row["d2d_gb"]), {})[row["strategy"]] = row
        lines = [
            [
                tokens,
                f"x{times}",
                gb,
                *(f"{float(of[name]['latency_ms']):.3f} ({float(of[name]['gap']):.2f})" for name in strategies),
                f"{100 * float(of['fse-dp-paired']['link_share']):.0f} %",
            ]
            for (tokens, times, gb), of in places.items()
        ]
        captured = any(row["model"] == model and row["captured"] == "true" for row in rows)
        out += [f"## {model}, {'captured' if captured else 'synthetic'} routing", "", *_table(head, lines), ""]
    return out


def _table(head: list[str], lines: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
