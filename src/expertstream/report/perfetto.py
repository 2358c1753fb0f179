"""A timeline as Chrome trace events, for ui.perfetto.dev and chrome://tracing.

Each die is a process: its MAC array, its DDR channels and its outgoing links are threads, its buffers and the load of
its links counters. Channels that serve several dies belong to a process of their own, the I/O die. Arrows follow each
micro-slice along its expert's trajectory. Times are microseconds with six decimals: exact to the picosecond.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expertstream.analysis import busy_in_windows, links_of_sends, occupancy
from expertstream.engine.layout import COMPUTE, LOAD
from expertstream.engine.network import Network
from expertstream.engine.timeline import KINDS, Timeline
from expertstream.files import replacing
from expertstream.package import Package, SurvivingPackage
from expertstream.units import counted

if TYPE_CHECKING:
    from expertstream.simulate import Result
    from expertstream.workload import LayerWorkload

POOLS = ("weight buffer", "token buffer")
LINK_WINDOWS = 500  # of the counters of the links
EVENTS_AT_ONCE = 4096  # events joined to one write
START, STEP, FINISH = "s", "t", "f"  # phases of a flow


def write_perfetto(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a run as a Chrome trace-event file; the same run gives the same bytes.

    An event's name says what is moved or computed, columns as half-open ranges; ``args`` hold bytes, tokens, the time
    waited since it was asked for, and the group. A transfer over several links appears on each of them. The events are
    written as they are made.

    Raises:
        ConfigError: the file cannot be written.
    """
    routing = result.workload.routing
    about = {
        "model": result.workload.model.name,
        "package": result.workload.package.name,
        "strategy": result.strategy,
        "tokens": result.workload.n_tokens,
        "layer": routing.layer,
        "routing": f"SYNTHETIC: {routing.source}" if routing.synthetic else routing.source,
        "ddr_layout": result.plan.ddr_layout,
        "notes": list(result.plan.notes),
    }
    tracks = Tracks(result.workload.package, result.timeline.network)
    experts = expert_names(result.workload)
    names = [(experts[e], f"{experts[e]} columns {a}-{b}") for e, a, b in result.plan.slices.tolist()]
    timeline = result.timeline
    with trace_file(path, about) as write:
        write(tracks.named())
        write(activities(timeline, tracks, names))
        write(buffers(timeline))
        write(link_counters(timeline, tracks))


@contextmanager
def trace_file(path: str | os.PathLike[str], about: dict[str, Any]) -> Iterator[Callable[[Iterable[str]], None]]:
    """Give a function that writes events as they are made; the file appears whole if the block ends well.

    Raises:
        ConfigError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},"traceEvents":[\n')
        before = ""

        def write(events: Iterable[str]) -> None:
            nonlocal before
            stream = iter(events)
            while some := list(itertools.islice(stream, EVENTS_AT_ONCE)):
                file.write(before + ",\n".join(some))
                before = ",\n"

        yield write
        file.write("\n]}\n")


class Tracks:
    """Process and thread of every resource; numbers from 1, because 0 is the idle process of an operating system.

    Of what faults leave of a package, dies and DDR channels have the names that they have in the whole package.
    """

    def __init__(self, package: Package, network: Network) -> None:
        n_dies = network.n_dies
        left = package if isinstance(package, SurvivingPackage) else None
        self.dies: Sequence[int] = left.dies if left else range(n_dies)  # names of the dies
        self._channels: Sequence[int] = left.channel_numbers if left else range(len(package.channels))
        attached = [channel.dies for channel in package.channels]
        io_die = n_dies + 1
        self.links = network.links.tolist()
        self.mac = [(die + 1, die + 1) for die in range(n_dies)]
        self.channel = [
            (dies[0] + 1 if len(dies) == 1 else io_die, n_dies + 1 + number) for number, dies in enumerate(attached)
        ]
        first = n_dies + 1 + len(attached)
        self.link = [(source + 1, first + number) for number, (source, _) in enumerate(self.links)]
        self._processes = {die + 1: f"die {name}" for die, name in enumerate(self.dies)}
        if any(pid == io_die for pid, _ in self.channel):
            self._processes[io_die] = "I/O die"

    def named(self) -> Iterator[str]:
        """Metadata events: names and order of the processes and threads."""
        for pid, name in self._processes.items():
            yield f'{{"ph":"M","pid":{pid},"name":"process_name","args":{{"name":"{name}"}}}}'
            yield f'{{"ph":"M","pid":{pid},"name":"process_sort_index","args":{{"sort_index":{pid}}}}}'
        threads = [
            *((place, "MAC array") for place in self.mac),
            *((place, f"DDR channel {name}") for name, place in zip(self._channels, self.channel, strict=True)),
            *((place, f"link to die {self.dies[to]}") for (_, to), place in zip(self.links, self.link, strict=True)),
        ]
        for (pid, tid), name in threads:
            yield f'{{"ph":"M","pid":{pid},"tid":{tid},"name":"thread_name","args":{{"name":"{name}"}}}}'
            yield f'{{"ph":"M","pid":{pid},"tid":{tid},"name":"thread_sort_index","args":{{"sort_index":{tid}}}}}'


def activities(
    timeline: Timeline, tracks: Tracks, names: Sequence[tuple[str, str]], *, at_ps: int = 0, first_flow: int = 0
) -> Iterator[str]:
    """Events of all activities, with their flows.

    Args:
        names: of the flow and the activity, for each tag. at_ps: time of the timeline's start. first_flow: added to the
            numbers of chunks to give those of flows.
    """
    rows, links = links_of_sends(timeline)
    hops = np.searchsorted(rows, np.arange(len(timeline) + 1))  # where each row's links begin
    columns = (
        timeline.start_ps,
        timeline.end_ps,
        timeline.kind,
        timeline.resource,
        timeline.die,
        timeline.source,
        timeline.chunk,
        timeline.tag,
        timeline.bytes,
        timeline.tokens,
        timeline.ready_ps,
        timeline.space_ps,
        timeline.group,
        _flow_phases(timeline),
        hops[:-1],
        hops[1:],
    )
    for values in _rows(columns):
        start, end, kind, resource, die, source, chunk, tag, n_bytes, tokens, ready, space, group, *rest = values
        phase, first_hop, end_hop = rest
        flow, what = names[tag] if tag >= 0 else ("", "tokens" if kind != LOAD else "load")
        ts, duration, waited = us(at_ps + start), us(end - start), us(start - ready)
        if kind == COMPUTE:
            places = [tracks.mac[die]]
            name = f"{what}, {counted(tokens, 'token')}"
            args = f'"tokens":{tokens},"wait_us":{waited},"group":{group}'
        else:
            args = f'"bytes":{n_bytes},"wait_for_space_us":{us(space)},"wait_us":{waited},"group":{group}'
            if kind == LOAD:
                places = [tracks.channel[resource]]
                name = f"{what} to die {tracks.dies[die]}"
            else:
                places = [tracks.link[link] for link in links[first_hop:end_hop].tolist()]
                name = f"{what} from die {tracks.dies[source]} to die {tracks.dies[die]}"
        for pid, tid in places:
            yield (
                f'{{"ph":"X","pid":{pid},"tid":{tid},"ts":{ts},"dur":{duration},'
                f'"name":"{name}","cat":"{KINDS[kind]}","args":{{{args}}}}}'
            )
        for nth, (pid, tid) in enumerate(places if phase else ()):
            # over several links: a start is the first of them, a finish the last
            at_end = nth == (0 if phase == START else len(places) - 1)
            bind = ',"bp":"e"' if phase == FINISH and at_end else ""
            yield (
                f'{{"ph":"{phase if at_end else STEP}","id":{first_flow + chunk},"pid":{pid},"tid":{tid},"ts":{ts},'
                f'"name":"{flow}","cat":"trajectory"{bind}}}'
            )


def _rows(columns: tuple[NDArray[Any], ...]) -> Iterator[tuple[Any, ...]]:
    """Rows of equally long columns as Python values; only some at a time, because these take much memory."""
    for first in range(0, columns[0].size, EVENTS_AT_ONCE):
        yield from zip(*(column[first : first + EVENTS_AT_ONCE].tolist() for column in columns), strict=True)


def _flow_phases(timeline: Timeline) -> NDArray[np.str_]:
    """Phase of each row in the flow of its micro-slice, "" where it has none; str [rows]."""
    out = np.full(len(timeline), "", dtype="<U1")
    rows = np.flatnonzero(timeline.tag >= 0)
    if rows.size == 0:
        return out
    rows = rows[np.argsort(timeline.chunk[rows], kind="stable")]
    chunk = timeline.chunk[rows]
    differs = chunk[1:] != chunk[:-1]
    first, last = np.concatenate(([True], differs)), np.concatenate((differs, [True]))
    out[rows] = STEP
    out[rows[first]] = START
    out[rows[last]] = FINISH
    out[rows[first & last]] = ""
    return out


def buffers(timeline: Timeline, *, at_ps: int = 0) -> Iterator[str]:
    """Counters of the bytes in every buffer; ``at_ps``: time of the timeline's start."""
    for die in range(timeline.network.n_dies):
        for pool, counter in enumerate(POOLS):
            for time, held in zip(*(values.tolist() for values in occupancy(timeline, die, pool)), strict=True):
                ts = us(at_ps + time)
                yield f'{{"ph":"C","pid":{die + 1},"ts":{ts},"name":"{counter}","args":{{"bytes":{held}}}}}'


def link_counters(
    timeline: Timeline, tracks: Tracks, *, at_ps: int = 0, windows_of: int = LINK_WINDOWS
) -> Iterator[str]:
    """Share of each of ``windows_of`` windows for which a link is busy, per cent with one decimal."""
    windows = busy_in_windows(timeline, windows_of)
    length = np.maximum(np.diff(windows.edges_ps), 1)
    # Rounded down in integers: the product stays within int64 for windows of up to 2.5 hours.
    tenths = windows.link_ps * 1000 // length
    times = [us(at_ps + edge) for edge in windows.edges_ps.tolist()]
    for (pid, _), (_, to), shares in zip(tracks.link, tracks.links, tenths.tolist(), strict=True):
        for ts, share in zip(times, [*shares, 0], strict=True):
            yield (
                f'{{"ph":"C","pid":{pid},"ts":{ts},"name":"link to die {tracks.dies[to]}, % busy",'
                f'"args":{{"busy":{share // 10}.{share % 10}}}}}'
            )


def expert_names(workload: LayerWorkload) -> list[str]:
    """Names of the routed and the shared experts."""
    routed = workload.model.n_experts
    return [f"expert {e}" if e < routed else f"shared expert {e - routed}" for e in range(workload.columns.size)]


def us(time_ps: int) -> str:
    """Picoseconds as microseconds, exactly."""
    return f"{time_ps // 10**6}.{time_ps % 10**6:06d}"
