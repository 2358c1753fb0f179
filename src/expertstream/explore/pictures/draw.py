"""Draw what a folder of results can show, as PNG, SVG and one interactive page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from expertstream.errors import ConfigError, nearest
from expertstream.explore.pictures.heatmap import draw_heat_map, heat_map
from expertstream.explore.pictures.page import Data, write_page
from expertstream.explore.pictures.parallel import draw_parallel, parallel
from expertstream.explore.pictures.pareto import draw_pareto, pareto_plot
from expertstream.explore.pictures.tornado import draw_tornado, tornado
from expertstream.explore.results import Results
from expertstream.files import make_folder
from expertstream.report.chart import save_figure

FORMATS: Final = ("png", "svg", "html")
PAGE: Final = "pictures.html"


@dataclass(frozen=True)
class Wishes:
    """What a reader wants to see; None: what suits the results.

    Attributes:
        x, y: fields of the heat map; value: its result. point: the row of the tornado chart.
    """

    x: str | None = None
    y: str | None = None
    value: str = "utilisation"
    point: int | None = None


_MAKE: Final[dict[str, Callable[[Results, Wishes], Data]]] = {
    "heatmap": lambda results, wishes: heat_map(results, wishes.x, wishes.y, wishes.value),
    "pareto": lambda results, _: pareto_plot(results),
    "parallel": lambda results, _: parallel(results),
    "tornado": lambda results, wishes: tornado(results, wishes.point),
}
_DRAW: Final[dict[str, Callable[[Any], Figure]]] = {
    "heatmap": draw_heat_map,
    "pareto": draw_pareto,
    "parallel": draw_parallel,
    "tornado": draw_tornado,
}
KINDS: Final = tuple(_MAKE)


def draw_pictures(
    results: Results,
    folder: str | os.PathLike[str],
    *,
    kinds: Sequence[str] | None = None,
    formats: Sequence[str] = FORMATS,
    wishes: Wishes | None = None,
) -> tuple[list[Path], list[str]]:
    """Draw pictures into ``folder``, which is made; the same results give the same bytes.

    Args:
        kinds: of ``KINDS``; None: all that the results can show. formats: of ``FORMATS``; "html" is one page for all.

    Returns:
        The files, and for each kind that was left out why.

    Raises:
        ConfigError: an unknown kind or format, a wish that the results cannot fulfil, files that cannot be written, or
            nothing that can be drawn.
    """
    for option, given, known in (("--kind", kinds, KINDS), ("--format", formats, FORMATS)):
        for name in given or ():
            if name not in known:
                allowed = f"{nearest(name, known) or ';'} allowed: {', '.join(known)}"
                raise ConfigError(f"{option} '{name}' is unknown{allowed}")
        if given is not None and not given:
            raise ConfigError(f"{option} names none; allowed: {', '.join(known)}")
    wishes = wishes or Wishes()
    pictures: list[tuple[str, Data]] = []
    left_out: list[str] = []
    for kind in kinds or KINDS:
        asked = kind == "heatmap" and (wishes.x or wishes.y or wishes.value != Wishes.value)
        try:
            pictures.append((kind, _MAKE[kind](results, wishes)))
        except ConfigError as error:
            if kinds or asked or (kind == "tornado" and wishes.point is not None):
                raise
            left_out.append(f"no {kind}: {error}")
    asked_for = {"--x": (wishes.x, "heatmap"), "--y": (wishes.y, "heatmap"), "--point": (wishes.point, "tornado")}
    for option, (wish, kind) in asked_for.items():
        if wish is not None and kinds and kind not in kinds:
            left_out.append(f"{option} changes nothing: no {kind} was asked for")
    if not pictures:
        raise ConfigError(f"nothing can be drawn: {'; '.join(left_out)}")
    place = make_folder(folder)
    files = []
    for kind, data in pictures:
        for name in formats:
            if name != "html":
                files.append(place / f"{kind}.{name}")
                save_figure(_DRAW[kind](data), files[-1])
    if "html" in formats and pictures:
        files.append(place / PAGE)
        write_page(pictures, files[-1], f"{results.spec.model} on {results.spec.package}")
    return files, left_out
