"""From the numbers of the surviving package, on which a layer is planned and run, to those of the damaged one."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from expertstream.engine.layout import COMPUTE, LOAD, SEND
from expertstream.engine.network import Network
from expertstream.engine.timeline import Timeline
from expertstream.package import Package, SurvivingPackage, Topology
from expertstream.strategy import Plan
from expertstream.workload import LayerWorkload

Ints = NDArray[np.int64]


def on_the_damaged_package(
    workload: LayerWorkload, plan: Plan, timeline: Timeline
) -> tuple[LayerWorkload, Plan, Timeline]:
    """The same run in the numbers that the user knows: dies, DDR channels and links as without faults.

    Dead dies have buffers of no size, and what is dead is never used. Where nothing is broken nothing changes.
    """
    survivor = workload.package
    if not isinstance(survivor, SurvivingPackage):
        return workload, plan, timeline
    package = survivor.damaged
    dies = np.array(survivor.dies, dtype=np.int64)
    buffers = np.zeros((package.n_dies, 2), dtype=np.int64)
    buffers[dies] = plan.buffer_bytes
    network = _network(package, survivor, buffers)
    numbers = {LOAD: np.array(survivor.channel_numbers), SEND: _link_numbers(survivor), COMPUTE: dies}
    resource = timeline.resource.copy()
    for kind, number in numbers.items():
        mine = timeline.kind == kind
        resource[mine] = number[resource[mine]]
    moved = replace(
        timeline,
        resource=resource,
        die=dies[timeline.die],
        source=np.where(timeline.source >= 0, dies[timeline.source], -1),
        hold_die=dies[timeline.hold_die],
        network=network,
    )
    notes = (*plan.notes, *(f"fault: {fault}" for fault in package.faults.in_words))
    return (
        replace(
            workload, package=package, topology=Topology.of(package.healthy), die_of_token=dies[workload.die_of_token]
        ),
        replace(plan, buffer_bytes=buffers, notes=notes),
        moved,
    )


def _link_numbers(survivor: SurvivingPackage) -> Ints:
    """Number of each surviving link on the mesh, int64 [links]."""
    mesh = Topology.of(survivor.damaged.healthy).links.tolist()
    number = {(a, b): i for i, (a, b) in enumerate(mesh)}
    return np.array([number[survivor.dies[a], survivor.dies[b]] for a, b, _ in survivor.links], dtype=np.int64)


def _network(package: Package, survivor: SurvivingPackage, buffers: Ints) -> Network:
    channels = range(len(package.channels))
    path_ptr, path_links, path_bandwidth, path_latency_ps = _paths(survivor)
    return Network(
        buffer_bytes=buffers,
        channel_bandwidth=np.array([package.channel_bytes_per_s(c) for c in channels], dtype=np.int64),
        channel_latency_ps=np.array([c.latency_ps for c in package.channels], dtype=np.int64),
        header_bytes=package.d2d.header_bytes,
        links=Topology.of(package.healthy).links,
        path_ptr=path_ptr,
        path_links=path_links,
        path_bandwidth=path_bandwidth,
        path_latency_ps=path_latency_ps,
    )


@lru_cache(maxsize=64)
def _paths(survivor: SurvivingPackage) -> tuple[Ints, Ints, Ints, Ints]:
    """Path tables of the damaged package; no path from or to a dead die."""
    n = survivor.damaged.n_dies
    arrays = Topology.of(survivor).network_arrays()
    dies = np.array(survivor.dies, dtype=np.int64)
    pair = (dies[:, None] * n + dies).reshape(-1)  # ascending, as the dies are
    length = np.zeros(n * n, dtype=np.int64)
    length[pair] = np.diff(arrays["path_ptr"])
    bandwidth, latency = np.ones(n * n, dtype=np.int64), np.zeros(n * n, dtype=np.int64)
    bandwidth[pair], latency[pair] = arrays["path_bandwidth"], arrays["path_latency_ps"]
    links = _link_numbers(survivor)[arrays["path_links"]] if arrays["path_links"].size else arrays["path_links"]
    return np.concatenate(([0], np.cumsum(length))).astype(np.int64), links, bandwidth, latency
