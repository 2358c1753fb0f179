"""Fig. 17: latency over buffer size and number of micro-slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from expertstream.errors import BufferTooSmallError
from expertstream.reproduce import drawing
from expertstream.reproduce.layers import SAMPLING, layer_points, layer_row, one_layer_per_seed, with_strategies
from expertstream.reproduce.means import cells, mean_of, summary
from expertstream.reproduce.study import Claim, Point, Row, Setting, Study

MODELS: Final = ("phi-3.5-moe-paper", "qwen3-30b-a3b")
TOKENS: Final = (256, 1024)
MIB: Final = 2**20
BUFFERS: Final = (1, 2, 4, 8, 14, 28)  # MiB of weights per die
SLICES: Final = (1, 2, 4, 8, 16, 32, 64)  # per expert and die; four times as many per expert
DIES: Final = 4
FEW: Final = 10  # micro-slices per expert


def points(setting: Setting) -> list[Point]:
    """A layer of each seed with every buffer and number of micro-slices."""
    layers = one_layer_per_seed(layer_points(setting, tokens=TOKENS, sources=dict.fromkeys(MODELS)))
    return [
        point
        for buffer in BUFFERS
        for slices in SLICES
        for point in with_strategies(
            layers,
            ("fse-dp-paired",),
            changes={"die.weight_buffer": buffer * MIB},
            options={"micro_slices": slices},
        )
    ]


def measure(point: Point) -> Row:
    """The layer's measures; no latency where the buffer is too small to work at all."""
    try:
        return layer_row(point)
    except BufferTooSmallError:
        return {"latency_ps": None, "bound_ps": None}


def table(rows: Sequence[Row]) -> list[Row]:
    """Latency and gap of each (model, tokens, buffer, micro-slices); without numbers where it cannot run."""
    plain = [
        row
        | {
            "buffer_mib": row["changes"]["die.weight_buffer"] // MIB,
            "micro_slices_per_expert": DIES * row["options"]["micro_slices"],
        }
        for row in rows
    ]
    by = ("model", "tokens", "buffer_mib", "micro_slices_per_expert")
    out: list[Row] = []
    for key, mine in cells(plain, *by).items():
        if any(row["latency_ps"] is None for row in mine):
            out.append(dict(zip(by, key, strict=True)) | {"layers": 0, "latency_ms": None, "gap": None})
            continue
        row = summary(mine, by, latency_ms=mean_of("latency_ps", 1e-9), bound_ms=mean_of("bound_ps", 1e-9))[0]
        out.append(row | {"gap": row["latency_ms"] / row["bound_ms"]})
    return out


def draw(rows: Sequence[Row]) -> Figure:
    """A map per (model, tokens): latency over the lower bound."""
    panels = cells(rows, "model", "tokens")
    figure, axes = drawing.panels(2, -(-len(panels) // 2), height=2.2)
    for place, ((model, tokens), mine) in zip(axes, panels.items(), strict=False):
        gap = {(row["micro_slices_per_expert"], row["buffer_mib"]): row["gap"] for row in mine}
        texts = {at: _text(value) for at, value in gap.items()}
        drawing.heat_map(place, gap, texts, cmap="cividis_r", least=1, most=1.5)
        place.set_xlabel("micro-slices per expert", fontsize=7)
        place.set_ylabel("weight buffer (MiB per die)", fontsize=7)
        place.set_title(f"{drawing.title_of(model)}, {tokens} tokens", fontsize=8)
    text = "Latency / lower bound of fse-dp-paired on 2x2 over weight buffer and micro-slices, a layer of each seed"
    drawing.caption(figure, text)
    return figure


def _text(gap: float | None) -> dict[str, Any]:
    if gap is None:
        return {"s": "too small", "fontsize": 5, "color": "black"}
    return {"s": f"{gap:.2f}", "fontsize": 7, "color": "black" if gap < 1.25 else "white"}


def claims(rows: Sequence[Row]) -> list[Claim]:
    """What sections IV and VI say of micro-slices."""
    small = [row for row in rows if row["gap"] is not None and row["model"] == MODELS[1]]
    few, lost = 0, []
    designs = cells(small, "tokens", "buffer_mib")
    for mine in designs.values():
        best = min(mine, key=_latency)
        few += best["micro_slices_per_expert"] < FEW
        coarse = [row for row in mine if row["micro_slices_per_expert"] < FEW]
        lost += [100 * (min(map(_latency, coarse)) / _latency(best) - 1)] if coarse else []
    large = [row for row in rows if (row["model"], row["tokens"], row["buffer_mib"]) == (MODELS[0], 1024, 14)]
    runs = [row for row in large if row["gap"] is not None]
    first, best, last = runs[0], min(runs, key=_latency), runs[-1]
    steps = ", ".join(f"{row['gap']:.2f} with {row['micro_slices_per_expert']}" for row in (first, best, last))
    return [
        Claim(
            "IV, Fig. 17",
            "Below 10 micro-slices per expert are preferred for small experts",
            f"Qwen3: they are the fastest in {few} of {len(designs)} settings of tokens and buffer; elsewhere they "
            f"lose at most {max(lost):.1f} %, where the buffer can hold such large ones",
            "agrees" if max(lost) < 5 else "differs",
            "The optimum is flat",
        ),
        Claim(
            "IV, Fig. 17",
            "Too coarse loses flexibility, too fine pays control overhead",
            f"Phi-3.5, 1024 tokens, 14 MiB: latency / bound is {steps} micro-slices per expert",
            "agrees" if best["gap"] < min(first["gap"], last["gap"]) - 0.005 else "differs",
            "64 control cycles per micro-slice are our assumption",
        ),
    ]


def _latency(row: Row) -> float:
    return float(row["latency_ms"])


STUDY = Study(
    name="fig17",
    title="Latency over buffer size and number of micro-slices",
    section="IV, VI, Fig. 17",
    points=points,
    measure=measure,
    table=table,
    draw=draw,
    claims=claims,
    assumptions=(
        SAMPLING[0],
        "One layer of each seed, from the middle of its share. The paper does not state the tokens: 256 and 1024 are "
        "shown, as below all is at the DDR bound.",
        "The gap is latency / max(DDR bound, compute bound).",
    ),
)
