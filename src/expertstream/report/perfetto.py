"""A timeline as Chrome trace events, for ui.perfetto.dev.

Tracks: each die is a process with its MAC array and a counter for each of its buffers; the DDR channels are one process
and the directed links another. Times are microseconds with six decimals: exact to the picosecond.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from expertstream.analysis import occupancy
from expertstream.engine.timeline import KINDS, Timeline
from expertstream.report.files import replacing

if TYPE_CHECKING:
    from expertstream.simulate import Result

POOLS = ("weight buffer", "token buffer")


def write_perfetto(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a run as a Chrome trace-event file; the same run gives the same bytes.

    An event's name says what is moved or computed, columns as half-open ranges; ``args`` hold bytes, tokens, the time
    waited since it was asked for, and the group. A transfer over several links appears on each of them.

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
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},"traceEvents":[\n')
        file.write(",\n".join(_events(result)))
        file.write("\n]}\n")


def _events(result: Result) -> Iterator[str]:
    timeline, n_dies = result.timeline, result.timeline.network.n_dies
    yield from _tracks(timeline)
    names = [_slice_name(result, *row) for row in result.plan.slices.tolist()]
    network = timeline.network
    columns = (
        timeline.start_ps,
        timeline.end_ps,
        timeline.kind,
        timeline.resource,
        timeline.die,
        timeline.source,
        timeline.tag,
        timeline.bytes,
        timeline.tokens,
        timeline.ready_ps,
        timeline.space_ps,
        timeline.group,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for start, end, kind, resource, die, source, tag, n_bytes, tokens, ready, space, group in rows:
        what = names[tag] if tag >= 0 else "tokens" if kind else "load"
        args = f'"wait_us":{_us(start - ready)},"group":{group}'
        if KINDS[kind] == "compute":
            places = [(die, 0)]
            name, args = f"{what}, {_count(tokens, 'token')}", f'"tokens":{tokens},{args}'
        elif KINDS[kind] == "load":
            places = [(n_dies, resource)]
            name, args = f"{what} to die {die}", f'"bytes":{n_bytes},"wait_for_space_us":{_us(space)},{args}'
        else:
            pair = source * n_dies + die
            links = network.path_links[network.path_ptr[pair] : network.path_ptr[pair + 1]]
            places = [(n_dies + 1, link) for link in links.tolist()]
            name = f"{what} from die {source} to die {die}"
            args = f'"bytes":{n_bytes},"wait_for_space_us":{_us(space)},{args}'
        for pid, tid in places:
            yield (
                f'{{"ph":"X","pid":{pid},"tid":{tid},"ts":{_us(start)},"dur":{_us(end - start)},'
                f'"name":"{name}","cat":"{KINDS[kind]}","args":{{{args}}}}}'
            )
    for die in range(n_dies):
        for pool, counter in enumerate(POOLS):
            for time, held in zip(*(values.tolist() for values in occupancy(timeline, die, pool)), strict=True):
                yield f'{{"ph":"C","pid":{die},"ts":{_us(time)},"name":"{counter}","args":{{"bytes":{held}}}}}'


def _tracks(timeline: Timeline) -> Iterator[str]:
    network = timeline.network
    links = [f"die {a} to die {b}" for a, b in network.links.tolist()]
    processes = [(f"die {die}", ["MAC array"]) for die in range(network.n_dies)]
    processes.append(("DDR", [f"channel {channel}" for channel in range(network.n_channels)]))
    processes.append(("D2D links", links))
    for pid, (process, threads) in enumerate(processes):
        yield f'{{"ph":"M","pid":{pid},"name":"process_name","args":{{"name":"{process}"}}}}'
        yield f'{{"ph":"M","pid":{pid},"name":"process_sort_index","args":{{"sort_index":{pid}}}}}'
        for tid, thread in enumerate(threads):
            yield f'{{"ph":"M","pid":{pid},"tid":{tid},"name":"thread_name","args":{{"name":"{thread}"}}}}'
            yield f'{{"ph":"M","pid":{pid},"tid":{tid},"name":"thread_sort_index","args":{{"sort_index":{tid}}}}}'


def _slice_name(result: Result, expert: int, first: int, end: int) -> str:
    routed = result.workload.model.n_experts
    who = f"expert {expert}" if expert < routed else f"shared expert {expert - routed}"
    return f"{who} columns {first}-{end}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _us(time_ps: int) -> str:
    return f"{time_ps // 10**6}.{time_ps % 10**6:06d}"
