"""What happens over time, in constant memory: neighbouring iterations are merged as a run grows long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 256  # points kept; from half of it on
FIELDS = (
    "start_ps",
    "end_ps",
    "iterations",
    "batch_tokens",
    "input_tokens",
    "output_tokens",
    "deferrals",
    "running",
    "kv_bytes",
)
START, END, RUNNING, KV = (FIELDS.index(name) for name in ("start_ps", "end_ps", "running", "kv_bytes"))


class Series:
    """Points of ``FIELDS``: sums over their iterations, of ``running`` and ``kv_bytes`` the maxima."""

    def __init__(self) -> None:
        self._points: list[list[int]] = []
        self._stride = 1  # iterations in a full point

    def add(self, **values: int) -> None:
        """Add an iteration; all of ``FIELDS`` but ``iterations``."""
        point = [values.get(name, 1) for name in FIELDS]
        if self._points and self._points[-1][2] < self._stride:
            self._points[-1] = _merged(self._points[-1], point)
            return
        if len(self._points) == MOST:
            self._points = [_merged(*self._points[i : i + 2]) for i in range(0, MOST, 2)]
            self._stride *= 2
        self._points.append(point)

    def columns(self) -> dict[str, list[int]]:
        """The points, field by field."""
        return {name: [point[at] for point in self._points] for at, name in enumerate(FIELDS)}

    def state(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return {"stride": self._stride, "points": self._points}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Series:
        """Continue from ``state``."""
        new = cls()
        new._stride, new._points = int(state["stride"]), [list(point) for point in state["points"]]
        return new


def _merged(a: list[int], b: list[int]) -> list[int]:
    out = [x + y for x, y in zip(a, b, strict=True)]
    out[START], out[END] = a[START], b[END]
    for at in (RUNNING, KV):
        out[at] = max(a[at], b[at])
    return out
