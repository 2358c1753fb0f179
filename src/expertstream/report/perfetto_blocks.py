"""Several blocks back to back as one Chrome trace: the layers of an iteration.

A process called "iteration" has a thread of blocks; under it each die has its resources as in perfetto.py. Events are
written block by block, so that memory holds one block at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from expertstream.engine.layout import LOAD
from expertstream.engine.state import transfer_ps
from expertstream.engine.timeline import Timeline
from expertstream.report.perfetto import Tracks, activities, buffers, link_counters, us

if TYPE_CHECKING:
    from expertstream.package import Package

MAX_ACTIVITIES = 500_000  # about 350 bytes each; further blocks appear as a whole only
WINDOWS = 20  # of the links' counters, for each block


class BlockTrace:
    """Writes blocks as they come.

    Args:
        write: of ``perfetto.trace_file``. package: what works of the package. start_ps: when the first block starts.
    """

    def __init__(self, write: Callable[[Iterable[str]], None], package: Package, start_ps: int) -> None:
        self._write, self._package = write, package
        self._now, self._flow, self._activities = start_ps, 0, 0
        self._tracks: Tracks | None = None
        self._free: list[int] = []  # when each channel has done its last transfer
        self._pid = package.n_dies + 2  # after the dies and the I/O die

    def add(
        self,
        name: str,
        timeline: Timeline,
        names: Sequence[tuple[str, str]],
        *,
        tokens: int,
        ahead: Mapping[int, int],
    ) -> None:
        """Write a block that starts when the one before has ended.

        Args:
            names: of the flow and the activity, for each tag. ahead: bytes that each DDR channel loaded for the block
                before its start, once it had done its last transfer for the block before.
        """
        if self._tracks is None:
            self._tracks = Tracks(self._package, timeline.network)
            self._write(self._heading())
            self._write(self._tracks.named())
        tracks, at = self._tracks, self._now - timeline.origin_ps
        args = f'{{"tokens":{tokens},"activities":{len(timeline)}}}'
        whole = self._activities + len(timeline) <= MAX_ACTIVITIES
        title = json.dumps(name if whole else f"{name} (activities left out)")
        duration = us(timeline.latency_ps)
        self._write(
            [
                f'{{"ph":"X","pid":{self._pid},"tid":{self._pid},"ts":{us(self._now)},"dur":{duration},"name":{title},'
                f'"cat":"block","args":{args}}}'
            ]
        )
        if whole:
            self._write(self._loads_ahead(name, tracks, ahead))
            self._write(activities(timeline, tracks, names, at_ps=at, first_flow=self._flow))
            self._write(buffers(timeline, at_ps=at))
            self._write(link_counters(timeline, tracks, at_ps=at, windows_of=WINDOWS))
        self._activities += len(timeline)
        self._flow += int(timeline.chunk.max(initial=-1)) + 1
        free = np.zeros(timeline.network.n_channels, dtype=np.int64)
        loads = timeline.kind == LOAD
        np.maximum.at(free, timeline.resource[loads], timeline.end_ps[loads])
        self._free = (at + free).tolist()
        self._now += timeline.latency_ps

    def _heading(self) -> Iterator[str]:
        pid = self._pid
        for what, args in (
            ("process_name", '{"name":"iteration"}'),
            ("process_sort_index", '{"sort_index":0}'),
        ):
            yield f'{{"ph":"M","pid":{pid},"name":"{what}","args":{args}}}'
        yield f'{{"ph":"M","pid":{pid},"tid":{pid},"name":"thread_name","args":{{"name":"blocks"}}}}'

    def _loads_ahead(self, name: str, tracks: Tracks, ahead: Mapping[int, int]) -> Iterator[str]:
        for channel, n_bytes in ahead.items():
            pid, tid = tracks.channel[channel]
            speed = np.array([self._package.channels[channel].effective_bytes_per_s])
            duration = int(transfer_ps(np.array([n_bytes]), speed)[0])
            title = json.dumps(f"weights ahead for {name}")
            yield (
                f'{{"ph":"X","pid":{pid},"tid":{tid},"ts":{us(self._free[channel])},"dur":{us(duration)},'
                f'"name":{title},"cat":"load","args":{{"bytes":{n_bytes}}}}}'
            )
