"""How many micro-slices an expert is cut into (paper, section IV), and how large they may be where a die holds them."""

from __future__ import annotations

import numpy as np

from expertstream.errors import BufferTooSmallError
from expertstream.package.timing import compute_ps
from expertstream.units import counted, format_bytes, format_time
from expertstream.workload import LayerWorkload

SHARED_WINDOW = 2  # turns of shared experts per die: one runs, the next is on its way
TRANSIT = 2  # pieces for other dies that a die has room to pass on
OVERHEAD_SHARE = 10  # a micro-slice's time over a link should be at least this many control overheads


def slot_bytes(workload: LayerWorkload, parts: int) -> int:
    """Bytes of the largest micro-slice with ``parts`` of them per expert and die."""
    columns = int(workload.columns[workload.activated].max(initial=1))
    return -(-columns // max(1, min(parts * workload.package.n_dies, columns))) * workload.column_bytes


def micro_slices(workload: LayerWorkload, given: int | None) -> tuple[int, str]:
    """Micro-slices per expert and die, and why so many.

    The paper wants a micro-slice's compute time to be about its D2D time. Both grow with its size, so that their ratio
    hangs on the tokens alone; what the size decides is the share of the control overhead (too fine) and how much of
    the flow fits the buffer (too coarse). Chosen are the fewest, 2 or more (1 where half an expert's share takes less
    than ten control overheads on a link), of which two full trajectories fit a weight buffer: one flows while the
    next comes in. That is also at least three slots.

    Raises:
        BufferTooSmallError: even micro-slices of one column cannot circulate.
    """
    if given is not None:
        most = -(-int(workload.columns.max()) // workload.package.n_dies)
        why = "as given" if given <= most else f"of a column each, as {given} are more than there are columns"
        return min(given, most), f"{why}; {_times(workload, min(given, most))}"
    stops = workload.package.n_dies + 1
    buffer = workload.package.die.weight_buffer_bytes
    columns = int(workload.columns.max())
    overhead = int(compute_ps(workload.package.die, 0, workload.model.d_model, 0, workload.model.weight_bits))
    parts = 2 if _link_ps(workload, 2) >= OVERHEAD_SHARE * overhead else 1
    why = "the fewest" if parts == 2 else "the fewest, as the control overhead would tell"
    while parts * workload.package.n_dies < columns and slot_bytes(workload, parts) * 2 * stops > buffer:
        parts += 1
        why = "the fewest of which two trajectories fit the weight buffer"
    if slot_bytes(workload, parts) * stops > buffer:
        raise BufferTooSmallError(
            f"the weight buffer of a die is {format_bytes(buffer)}, but even micro-slices of one column need "
            f"{format_bytes(slot_bytes(workload, parts) * stops)} to circulate over {counted(stops - 1, 'die')}; "
            "enlarge it"
        )
    return parts, f"{why}; {_times(workload, parts)}"


def _link_ps(workload: LayerWorkload, parts: int) -> int:
    return slot_bytes(workload, parts) * 10**12 // workload.package.d2d.bandwidth_bytes_per_s


def _times(workload: LayerWorkload, parts: int) -> str:
    """What the largest micro-slice costs."""
    load = workload.in_passes(1).load[0]
    tokens = max(1, round(float(load[load > 0].mean()))) if load.any() else 0
    columns = np.int64(slot_bytes(workload, parts) // workload.column_bytes)
    model, die = workload.model, workload.package.die
    full = int(compute_ps(die, tokens, model.d_model, columns, model.weight_bits))
    overhead = int(compute_ps(die, 0, model.d_model, 0, model.weight_bits))
    return (
        f"one takes {format_time(_link_ps(workload, parts))} over a link and {format_time(full)} to compute with "
        f"{counted(tokens, 'token')}, {format_time(overhead)} of it control"
    )


def passes_on(workload: LayerWorkload) -> bool:
    """Whether some die has no channel of its own, so that its weights come through another die."""
    topology = workload.topology
    dies = range(workload.package.n_dies)
    return any(topology.entry_die(int(topology.nearest_channel[d]), d) != d for d in dies)


def most_columns(strategy: str, workload: LayerWorkload, has_shared: bool) -> int:
    """Columns of what a die holds and of a micro-slice: two of routed and two of shared experts fit, and what passes.

    Args:
        strategy: its name, for the message.

    Raises:
        BufferTooSmallError: not even one of each fits with micro-slices of one column.
    """
    transit = TRANSIT if passes_on(workload) else 0
    buffer, column = workload.package.die.weight_buffer_bytes, workload.column_bytes
    smallest = (1 + SHARED_WINDOW * has_shared + transit) * column
    if buffer < smallest:
        raise BufferTooSmallError(
            f"the weight buffer of a die is {format_bytes(buffer)}, but {strategy} needs at least "
            f"{format_bytes(smallest)} ({smallest} bytes) even with micro-slices of one column; enlarge the buffer"
        )
    return max(1, buffer // ((2 + SHARED_WINDOW * has_shared + transit) * column))
