"""The heat map of links and DDR channels on the mesh, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expertstream.report.verdict import percent
from expertstream.units import format_bytes

if TYPE_CHECKING:
    from expertstream.simulate import Result

DIE, PITCH = 74, 138  # sizes in units of the picture
MARGIN_X, MARGIN_Y = 78, 12
STRIP = 15  # width of a link's arrow


def dead_links(result: Result) -> list[int]:
    """Numbers of the directed links that do not work, ascending."""
    live = result.workload.package.live_links
    return [number for number, (a, b) in enumerate(result.timeline.network.links.tolist()) if (a, b) not in live]


def link_map(result: Result, number: int) -> str:
    """Dies of the mesh; an arrow per directed link and per DDR channel, darker the busier."""
    package, busy = result.workload.package, result.metrics.busy
    width = MARGIN_X * 2 + DIE + (package.cols - 1) * PITCH
    height = MARGIN_Y * 2 + DIE + (package.rows - 1) * PITCH
    parts = []
    dead = [result.timeline.network.links[number].tolist() for number in dead_links(result)]
    for (a, b), share, moved in zip(
        result.timeline.network.links.tolist(), busy.link_share.tolist(), busy.link_bytes.tolist(), strict=True
    ):
        (row, col), (to_row, to_col) = divmod(a, package.cols), divmod(b, package.cols)
        if [a, b] in dead:
            parts.append(_link(row, col, to_row - row, to_col - col, None, f"link from die {a} to die {b}: dead"))
            continue
        text = f"link from die {a} to die {b}: busy {percent(share)}, {format_bytes(moved)}"
        parts.append(_link(row, col, to_row - row, to_col - col, share, text))
    for die in range(package.n_dies):
        x, y = _corner(*divmod(die, package.cols))
        broken = die in package.faults.dead_dies
        state = "dead" if broken else f"busy {percent(float(busy.compute_share[die]))}"
        parts.append(
            f'<g><title>die {die}: {state}</title><rect class="die" x="{x}" y="{y}" width="{DIE}" '
            f'height="{DIE}" rx="8"/><text class="die-name" x="{x + DIE / 2:g}" y="{y + 32}">die {die}</text>'
            f'<text class="small" x="{x + DIE / 2:g}" y="{y + 50}">{state}</text></g>'
        )
    at_die: dict[int, int] = {}
    for channel, (spec, share) in enumerate(zip(package.channels, busy.channel_share.tolist(), strict=True)):
        nth = at_die.get(spec.dies[0], 0)
        at_die[spec.dies[0]] = nth + 1
        row, col = divmod(spec.dies[0], package.cols)
        text = f"DDR channel {channel}, die {', '.join(map(str, spec.dies))}: busy {percent(share)}, "
        text += format_bytes(int(busy.channel_bytes[channel]))
        parts.append(_channel(row, col, nth, package.cols, share, text))
    steps = "".join(f'<span style="--heat:{share}%"></span>' for share in range(0, 101, 10))
    return f"""<figure class="links">
<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="links-title-{number}"
 style="max-width:{width * 1.3:.0f}px">
<title id="links-title-{number}">Busy share of every link and DDR channel on the mesh</title>
{"".join(parts)}
</svg>
<figcaption>Share of the latency for which each directed link and DDR channel is busy:
<span class="scale" aria-hidden="true">0 % {steps} 100 %</span></figcaption>
</figure>
"""


def _corner(row: int, col: int) -> tuple[int, int]:
    return MARGIN_X + col * PITCH, MARGIN_Y + row * PITCH


def _link(row: int, col: int, down: int, right: int, share: float | None, text: str) -> str:
    """An arrow on the right-hand side of the way between two dies; ``share`` is None for a dead link."""
    x, y = _corner(row, col)
    middle_x, middle_y = x + DIE / 2 + right * PITCH / 2, y + DIE / 2 + down * PITCH / 2
    middle_x, middle_y = middle_x - 11 * down, middle_y + 11 * right
    turn = {(0, 1): 0, (1, 0): 90, (0, -1): 180, (-1, 0): 270}[down, right]
    length = (PITCH - DIE) / 2 - 4
    half = STRIP / 2
    shape = f"M{-length} {-half}H{length - 8}L{length} 0L{length - 8} {half}H{-length}Z"
    upright = f' transform="translate({middle_x:g} {middle_y:g})"'
    if right:
        label_x, label_y = 0.0, 26.0 if right > 0 else -18.0
    else:
        label_x, label_y = (-30.0 if down > 0 else 30.0), 4.0
    return (
        f'<g{upright} style="--heat:{100 * (share or 0):.1f}%"><title>{text}</title>'
        f'<path class="{"broken" if share is None else "heat"}" transform="rotate({turn})" d="{shape}"/>'
        f'<text class="small" x="{label_x:g}" y="{label_y:g}">'
        f"{'dead' if share is None else percent(share)}</text></g>"
    )


def _channel(row: int, col: int, nth: int, cols: int, share: float, text: str) -> str:
    x, y = _corner(row, col)
    side = 1 if col == cols - 1 and cols > 1 else -1
    left = x + DIE + 6 if side > 0 else x - 70
    top = y + 6 + 34 * nth
    return (
        f'<g style="--heat:{100 * share:.1f}%"><title>{text}</title>'
        f'<rect class="heat" x="{left}" y="{top}" width="64" height="14" rx="3"/>'
        f'<text class="small" x="{left + 32}" y="{top + 26}">DDR {percent(share)}</text></g>'
    )
