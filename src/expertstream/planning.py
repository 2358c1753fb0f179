"""From a package and a plan to the engine's network; plans of packages that store and forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.forwarding import transit_bytes
from expertstream.engine.network import Network
from expertstream.errors import BufferTooSmallError
from expertstream.package import Package, Topology
from expertstream.strategy import Plan
from expertstream.units import format_bytes

ATTEMPTS = 8


def network_of(package: Package, plan: Plan) -> Network:
    """Resources of a package (without faults, or of what survives them) with the buffers that the plan was given."""
    topology = Topology.of(package)
    return Network(
        buffer_bytes=plan.buffer_bytes,
        channel_bandwidth=np.array([c.effective_bytes_per_s for c in package.channels], dtype=np.int64),
        channel_latency_ps=np.array([c.latency_ps for c in package.channels], dtype=np.int64),
        header_bytes=package.d2d.header_bytes,
        links=topology.links,
        channel_dies=np.array([[die in c.dies for die in range(package.n_dies)] for c in package.channels]),
        **topology.network_arrays(),
    )


def plan_on(package: Package, make: Callable[[Package], Plan]) -> tuple[Plan, Network]:
    """A plan for a package, and the network to run it on.

    Where dies store and forward, part of each buffer is kept for what passes through. How much follows from the plan's
    chunks (``engine.forwarding``), so the plan is made again for buffers that are smaller by that, until it fits.

    Args:
        make: plans for the package that it is given, which differs from ``package`` in its buffers only.

    Raises:
        BufferTooSmallError: nothing would be left of a buffer; and whatever ``make`` raises.
    """
    if package.d2d.switching == "cut-through":
        plan = make(package)
        return plan, network_of(package, plan)
    kept = np.zeros(2, dtype=np.int64)
    plan = _made(make, package, kept)
    for _ in range(ATTEMPTS):
        needed = transit_bytes(plan.work, network_of(package, plan))
        if (needed <= kept).all():
            plan = replace(plan, buffer_bytes=plan.buffer_bytes + kept, notes=(*plan.notes, _in_words(kept)))
            return plan, replace(network_of(package, plan), transit_bytes=kept)
        kept = np.maximum(kept, needed)
        plan = _made(make, package, kept)
    raise BufferTooSmallError(
        f"{_in_words(needed)}, and more the less is left for the rest; use larger buffers, more micro-slices, or "
        "cut-through"
    )


def _made(make: Callable[[Package], Plan], package: Package, kept: NDArray[np.int64]) -> Plan:
    try:
        return make(_smaller(package, kept))
    except BufferTooSmallError as error:
        raise BufferTooSmallError(f"{error} ({_in_words(kept)})" if kept.any() else str(error)) from None


def _smaller(package: Package, kept: NDArray[np.int64]) -> Package:
    die = package.die
    left = (die.weight_buffer_bytes - int(kept[0]), die.token_buffer_bytes - int(kept[1]))
    if min(left) < 1:
        raise BufferTooSmallError(
            f"the buffers of a die are {format_bytes(die.weight_buffer_bytes)} for weights and "
            f"{format_bytes(die.token_buffer_bytes)} for tokens; use larger ones, more micro-slices, or cut-through"
        )
    smaller = die.model_copy(update={"weight_buffer_bytes": left[0], "token_buffer_bytes": left[1]})
    return package.model_copy(update={"die": smaller})


def _in_words(kept: NDArray[np.int64]) -> str:
    return (
        f"store-and-forward keeps {format_bytes(int(kept[0]))} of each weight buffer and "
        f"{format_bytes(int(kept[1]))} of each token buffer for what passes through a die"
    )
