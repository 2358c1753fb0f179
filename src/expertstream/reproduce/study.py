"""What a study is: its points, what is measured at each, and what becomes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.figure import Figure

from expertstream.errors import ConfigError

Point = dict[str, Any]
Row = dict[str, Any]
Verdict = Literal["agrees", "differs", "not comparable"]


@dataclass(frozen=True)
class Setting:
    """How much is computed.

    Attributes:
        seeds: draws of the synthetic routing; windows of a capture, as far as it is long enough.
        full: every layer under every seed; otherwise the layers are shared out among the seeds.
        traces: captures of real models; each gets rows of its own.
        tokens: tokens per iteration where a study varies them. layers: most layers of a model; None: all.

    Raises:
        ConfigError: no seed.
    """

    seeds: int = 10
    full: bool = False
    traces: tuple[Path, ...] = ()
    tokens: tuple[int, ...] = (16, 64, 256, 1024)
    layers: int | None = None

    def __post_init__(self) -> None:
        """Check what a user may get wrong."""
        if self.seeds < 1:
            raise ConfigError(f"--seeds is {self.seeds}; it must be at least 1")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper beside our figure.

    Attributes:
        section: of the paper. claimed, ours: one sentence or figure each. why: what explains a difference.

    Raises:
        ConfigError: an unknown verdict, or one other than "agrees" without a reason.
    """

    section: str
    claimed: str
    ours: str
    verdict: Verdict
    why: str = ""

    def __post_init__(self) -> None:
        """Check what an author may get wrong."""
        if self.verdict not in get_args(Verdict):
            raise ConfigError(f"the verdict '{self.verdict}' is unknown; allowed: {', '.join(get_args(Verdict))}")
        if self.verdict != "agrees" and not self.why:
            raise ConfigError(f"the claim '{self.claimed}' is called '{self.verdict}' but does not say why")


@dataclass(frozen=True)
class Study:
    """A figure of the paper (or one of our own).

    Attributes:
        name: what the command line calls it; the module has the same name.
        title: one line. section: of the paper, or "beyond the paper".
        points: what is to be measured, as plain JSON values. A point with a "trace" names a file, whose content counts.
        measure: a function of a module of this room: the plain numbers of one point. It depends on nothing but the
            point, so that its rows can be kept and can come from any process.
        measure_iterations: the same for points that have "iterations", in a study that mixes them with others.
        table: rows of the figure, from those of the points, in their order. Every row of a point has the point's
            values, too.
        draw, claims: the figure and the claims, from the table alone.
        assumptions: one sentence each, for the caption.
    """

    name: str
    title: str
    section: str
    points: Callable[[Setting], Sequence[Point]]
    measure: Callable[[Point], Row]
    table: Callable[[Sequence[Row]], list[Row]]
    draw: Callable[[Sequence[Row]], Figure]
    claims: Callable[[Sequence[Row]], list[Claim]]
    assumptions: tuple[str, ...] = ()
    measure_iterations: Callable[[Point], Row] | None = None

    def measure_of(self, point: Point) -> Callable[[Point], Row]:
        """What measures a point."""
        return self.measure_iterations if self.measure_iterations and "iterations" in point else self.measure

    def measured(self, point: Point) -> Row:
        """The plain numbers of a point."""
        return self.measure_of(point)(point)
