"""Pictures of concepts that are drawn as sketches, or from the decisions of ``schedule`` alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from docs.generate.svg import COLOURS, INK, MUTED, Canvas
from expertstream.package import Package, Topology
from expertstream.schedule.token_buffering import Qos, Slack, defer, pass_done, token_counts
from expertstream.strategy.tiles import Tiles

BLUE, ORANGE, GREEN, *_ = COLOURS
EMPTY, FRAME = "#ffffff", "#b9b4a8"


def _die(canvas: Canvas, x: float, y: float, slots: list[str], *, name: str = "", array: bool = True) -> None:
    """A die of 120 x 92 with its weight buffer's slots and, to the right of them, its MAC array."""
    canvas.rect(x, y, 120, 92, "#f0ede4", stroke=FRAME)
    canvas.text(x + 6, y + 14, name, size=11, colour=MUTED)
    for i, fill in enumerate(slots):
        canvas.rect(x + 8 + 24 * (i % 2), y + 22 + 24 * (i // 2), 20, 20, fill, stroke=FRAME)
    if array:
        canvas.rect(x + 72, y + 28, 40, 40, EMPTY, stroke=INK)
        canvas.text(x + 92, y + 84, "MACs", size=10, colour=MUTED, anchor="middle")


def rules(file: Path) -> None:
    """Rules 1 to 5, a die each."""
    canvas = Canvas(760, 222, "The virtualization rules")
    texts = [
        ("Rule 1", "What has just come is", "computed now, and", "sent on meanwhile."),
        ("Rule 2", "Nothing came: take one", "from local storage,", "compute and send it."),
        ("Rule 3", "No die is left to visit:", "free the slot when the", "compute has ended."),
        ("Rule 4", "Room in the buffer:", "load the next one", "from DDR."),
        ("Rule 5", "(option) DDR gives to", "the die with the most", "free storage."),
    ]
    for i, (name, *lines) in enumerate(texts):
        canvas.text(14 + 150 * i, 22, name, bold=True)
        for j, line in enumerate(lines):
            canvas.text(14 + 150 * i, 40 + 15 * j, line, size=11)
    y = 92
    _die(canvas, 14, y, [BLUE, EMPTY, EMPTY, EMPTY])
    canvas.line([(2, y + 32), (20, y + 32)], arrow=True)
    canvas.line([(44, y + 32), (84, y + 46)], arrow=True)
    canvas.line([(30, y + 44), (30, y + 80), (148, y + 80)], arrow=True)
    _die(canvas, 164, y, [EMPTY, EMPTY, GREEN, EMPTY])
    canvas.line([(193, y + 56), (234, y + 50)], arrow=True)
    canvas.line([(182, y + 68), (182, y + 82), (298, y + 82)], arrow=True)
    _die(canvas, 314, y, [EMPTY, EMPTY, EMPTY, ORANGE])
    canvas.line([(366, y + 56), (384, y + 50)], arrow=True)
    canvas.line([(346, y + 46), (366, y + 66)], COLOURS[5], width=2.5)
    canvas.line([(366, y + 46), (346, y + 66)], COLOURS[5], width=2.5)
    _die(canvas, 464, y, [BLUE, GREEN, EMPTY, EMPTY])
    canvas.line([(482, y + 116), (482, y + 68)], arrow=True)
    for x, slots in ((614, [BLUE, GREEN, ORANGE, EMPTY]), (686, [BLUE, EMPTY, EMPTY, EMPTY])):
        canvas.rect(x, y, 62, 92, "#f0ede4", stroke=FRAME)
        for j, fill in enumerate(slots):
            canvas.rect(x + 8 + 24 * (j % 2), y + 22 + 24 * (j // 2), 20, 20, fill, stroke=FRAME)
    canvas.line([(680, y + 116), (680, y + 104), (704, y + 104), (704, y + 68)], arrow=True)
    for x in (482, 680):
        canvas.text(x, y + 128, "DDR", size=11, anchor="middle")
    canvas.write(file)


def admission(file: Path) -> None:
    """A ring of full buffers that wait for each other, and the free slots that admission asks for."""
    canvas = Canvas(760, 286, "Full buffers that wait for each other, and the admission that forbids it")
    canvas.text(16, 24, "Without a rule: every buffer is full, everybody waits", bold=True)
    corners = [(30, 48), (210, 48), (210, 184), (30, 184)]
    for i, (x, y) in enumerate(corners):
        _die(canvas, x, y - 6, [COLOURS[i]] * 4, name=f"die {i}", array=False)
    for points in (
        [(150, 88), (208, 88)], [(270, 134), (270, 176)], [(210, 224), (152, 224)], [(90, 178), (90, 136)],
    ):  # fmt: skip
        canvas.line(points, COLOURS[5], width=2.5, arrow=True)
    canvas.text(400, 24, "With it: free slots that a micro-slice needs to enter", bold=True)
    for i in range(4):
        x = 400 + 88 * i
        canvas.rect(x, 60, 68, 92, "#f0ede4", stroke=FRAME)
        canvas.text(x + 34, 76, f"stop {i + 1}", size=11, colour=MUTED, anchor="middle")
        for j in range(4):
            fill = BLUE if j == 0 else EMPTY if j < 4 - i else "#d8d3c6"
            canvas.rect(x + 12 + 24 * (j % 2), 86 + 24 * (j // 2), 20, 20, fill, stroke=FRAME)
        if i < 3:
            canvas.line([(x + 68, 106), (x + 86, 106)], arrow=True)
        canvas.text(x + 34, 172, f"needs {4 - i}", anchor="middle")
    for i, line in enumerate(
        ("Blue: its own slot. White: one more for each stop to come.", "Grey: may be full.",
         "Whoever is furthest on needs least: someone can always go on.")
    ):  # fmt: skip
        canvas.text(400, 200 + 17 * i, line, size=11, colour=MUTED)
    canvas.write(file)


def tiles(file: Path) -> None:
    """4x4 dies in tiles of 1, 4 and 16: the part of an expert's tokens on each die, and the way of its weights."""
    canvas = Canvas(760, 292, "Tiles of adaptive streaming")
    topology = Topology.of(Package.preset("4x4"))
    for i, (size, name) in enumerate(((1, "as TP"), (4, "between"), (16, "as FSE-DP"))):
        x, y = 24 + 250 * i, 44
        canvas.text(x, 26, f"Tiles of {size}: {name}", bold=True)
        members = Tiles.of(topology, np.array([size])).members[size]
        for t, tile in enumerate(members.tolist()):
            at = [(x + 50 * (die % 4), y + 48 * (die // 4)) for die in tile]
            for part, (left, top) in enumerate(at):
                canvas.rect(left, top, 42, 40, COLOURS[t % 4 if size == 4 else t % 8] if size < 16 else BLUE)
                canvas.rect(left + 6, top + 6, 30, 28, EMPTY)
                canvas.text(left + 21, top + 24, str(part + 1) if size > 1 else "all", size=11, anchor="middle")
            for (a, b), (c, d) in itertools.pairwise(at):
                right, down = (c > a) - (c < a), (d > b) - (d < b)
                start = (a + 21 + 21 * right, b + 20 + 20 * down)
                canvas.line([start, (start[0] + 8 * right, start[1] + 8 * down)], width=2, arrow=True)
        copies = topology.n_dies // size
        canvas.text(x, 254, f"each token: {copies} {'copy' if copies == 1 else 'copies'}", size=11, colour=MUTED)
        canvas.text(x, 271, f"weights: sent on {size - 1} times", size=11, colour=MUTED)
    canvas.write(file)


def token_buffering(file: Path) -> None:
    """Decisions of Algorithm 2 at one layer over some iterations, and the experts that are loaded."""
    requests, iterations, n_experts, slack, theta = 8, 24, 24, Slack(1, 4), 2
    rng = np.random.default_rng(5)
    share = 1 / np.arange(1, n_experts + 1)

    def draw() -> list[int]:
        return rng.choice(n_experts, 2, replace=False, p=share / share.sum()).tolist()  # type: ignore[no-any-return]

    qos, experts, waited = [Qos()] * requests, [draw() for _ in range(requests)], [False] * requests
    canvas = Canvas(760, 312, "Token buffering: which requests are deferred at a layer, iteration by iteration")
    canvas.text(16, 24, "One layer, eight requests, at most one deferral in four passes", bold=True)
    loaded = []
    for at in range(iterations):
        deferred, qos = defer(experts, token_counts(experts, n_experts), qos, slack, theta)
        for r in range(requests):
            fill = ORANGE if deferred[r] else GREEN if waited[r] else "#cfe0ee"
            canvas.rect(92 + 26 * at, 40 + 22 * r, 23, 19, fill)
        run = [experts[r] for r in range(requests) if not deferred[r]]
        loaded.append(len({e for one in run for e in one}) / max(len(run), 1))
        qos = [q if wait else pass_done(q, slack) for q, wait in zip(qos, deferred, strict=True)]
        experts = [one if wait else draw() for one, wait in zip(experts, deferred, strict=True)]
        waited = deferred
    for r in range(requests):
        canvas.text(16, 54 + 22 * r, f"request {r}", colour=MUTED)
    canvas.text(92, 236, "iterations")
    canvas.line([(156, 232), (200, 232)], arrow=True)
    for i, (fill, label) in enumerate(
        (("#cfe0ee", "runs"), (ORANGE, "deferred: an expert of it has one token only"), (GREEN, "rejoins and runs"))
    ):
        canvas.rect((220, 290, 590)[i], 225, 12, 12, fill)
        canvas.text((238, 308, 608)[i], 236, label)
    canvas.text(16, 266, "experts loaded for each request that runs", colour=MUTED)
    for at, value in enumerate(loaded):
        canvas.rect(92 + 26 * at, 302 - 16 * value, 23, 16 * value, BLUE)
        canvas.text(103.5 + 26 * at, 299, f"{value:.1f}", size=10, colour="#ffffff", anchor="middle")
    canvas.write(file)
