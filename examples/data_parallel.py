"""Data parallelism as a strategy of your own: every die fetches, for itself, each expert that its tokens need.

    expertstream compare qwen3-30b-a3b --strategies ep,fse-dp-paired --strategy examples/data_parallel.py:DataParallel

No token and no partial sum ever leaves its die, but an expert that is needed on four dies is loaded four times. That is
the duplication that the paper's section I holds against data parallelism; this file puts a number on it.

How a strategy describes a layer (docs/extending.md has the whole list):

- a *chunk* is a piece of weights. It is loaded from a DDR channel and visits its *stops*, dies, in order; at a stop it
  takes buffer space, may be computed with some tokens, and is sent on;
- a *group* is a set of chunks that start together: here, one expert on one die. The *dispatcher* admits groups;
- a *gate* opens after a number of signals: here, a pass is done when each of its chunks has been computed.

The engine decides when each load, send and compute happens. A strategy never computes a latency.
"""

import itertools

import numpy as np

from expertstream.engine.work import Work
from expertstream.package.timing import compute_ps
from expertstream.strategy import Options, Plan
from expertstream.strategy.buffers import package_buffers
from expertstream.strategy.plan import InOrder, cut
from expertstream.strategy.tokens import add_residents, token_batches
from expertstream.workload import LayerWorkload


class DataParallel:
    """Tokens stay, and weights come to every die that needs them; nothing is shared between dies."""

    name = "data-parallel"
    summary = "every die fetches each expert that its tokens need"

    def plan(self, workload: LayerWorkload, options: Options) -> Plan:
        """Lay out one layer."""
        n_dies, n_experts = workload.package.n_dies, workload.columns.size
        slices, pieces = self._cut_experts(workload, options)

        # Tokens that do not fit the token buffers go in passes. Their activations and accumulators are chunks, too:
        # they are placed at the start, and given back when their pass is done.
        batches = token_batches(workload)
        work = Work()
        done = work.new_gates(np.zeros(batches.passes, dtype=np.int64))  # signals are filled in below
        residents, ready = add_residents(work, workload, batches, done)

        phases = []
        for p in range(batches.passes):
            queues: list[list[int]] = [[] for _ in range(n_dies)]  # of groups: each die goes through its own
            computes = 0
            for expert, die in np.argwhere(batches.load[p]).tolist():  # every expert on every die that needs it
                group = work.new_group()
                queues[die].append(group)
                computes += self._add_expert(
                    work,
                    workload,
                    group,
                    die,
                    slices[pieces[expert]],
                    tags=pieces[expert],
                    tokens=int(batches.load[p, expert, die]),
                    token_set=(p * n_experts + expert) * n_dies + die,  # as ``batches`` numbers its token sets
                    ready=int(ready[p]),
                    done=int(done[p]),
                )
            work.set_gate(int(done[p]), computes)
            phases.append(queues)

        return Plan(
            work=work,
            dispatcher=InOrder([residents], phases, window=2),  # one expert runs on a die, the next one loads
            slices=slices,
            set_ptr=batches.ptr,
            set_ids=batches.ids,
            buffer_bytes=package_buffers(workload.package),
            passes=batches.passes,
            ddr_layout="each die reads its experts from the DDR channel nearest to it (a copy in every channel)",
            notes=("weights that several dies need are loaded by each of them",),
        )

    def _cut_experts(self, workload: LayerWorkload, options: Options) -> tuple[np.ndarray, list[np.ndarray]]:
        """The table of pieces, int64 [pieces, 3] (expert, first and last + 1 column), and the rows of each expert."""
        widest = int(workload.columns.max())
        parts = (options.micro_slices or 2) * workload.package.n_dies
        # A piece that passes through another die needs two places, and loading should run ahead of computing.
        while parts < widest and 4 * -(-widest // parts) * workload.column_bytes > min(
            package_buffers(workload.package)[:, 0]
        ):
            parts += 1
        table: list[tuple[int, int, int]] = []
        rows = []
        for expert, columns in enumerate(workload.columns.tolist()):
            bounds = cut(columns, parts).tolist()
            rows.append(np.arange(len(table), len(table) + len(bounds) - 1))
            table += [(expert, first, last) for first, last in itertools.pairwise(bounds)]
        return np.array(table, dtype=np.int64), rows

    def _add_expert(
        self,
        work: Work,
        workload: LayerWorkload,
        group: int,
        die: int,
        slices: np.ndarray,
        *,
        tags: np.ndarray,
        tokens: int,
        token_set: int,
        ready: int,
        done: int,
    ) -> int:
        """Add the pieces of one expert for one die; return how many computes they are."""
        topology, model = workload.topology, workload.model
        width = slices[:, 2] - slices[:, 1]
        channel = int(topology.nearest_channel[die])
        entry = topology.entry_die(channel, die)  # the die that the channel loads into; another one on some meshes
        stops = [entry, die] if entry != die else [die]
        time = compute_ps(workload.package.die, np.full(width.size, tokens), model.d_model, width, model.weight_bits)
        nothing = [0] * (len(stops) - 1)  # a die that is passed through computes nothing
        work.add_chunks(
            group=group,
            bytes=width * workload.column_bytes,
            channel=channel,
            tag=tags,  # which weights: rows of the plan's slices
            die=np.tile(stops, (width.size, 1)),
            compute_ps=np.column_stack([*[np.zeros_like(time) for _ in nothing], time]),
            tokens=[*nothing, tokens],
            stop_gate=[*[-1 for _ in nothing], ready],  # not before this pass's accumulators are in place
            done=[*[-1 for _ in nothing], done],
            stop_tag=[*[-1 for _ in nothing], token_set],  # which tokens, for the proof
        )
        return int(width.size)
