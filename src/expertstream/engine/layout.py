"""Column numbers of the engine's state tables (int64, one row per stop, chunk, gate, ...).

Plain integers so that the compiled kernel folds them into constants.
"""

from __future__ import annotations

from typing import Final

# --- stops: one row for each place that a chunk visits -------------------------------------------------------------
S_CHUNK: Final = 0  # chunk that stops here
S_DIE: Final = 1  # die
S_SPACE: Final = 2  # buffer bytes taken while the chunk is here
S_COMPUTE: Final = 3  # compute time in ps, 0 for none
S_GATE: Final = 4  # gate that must be open before the compute (or the onward transfer) starts, -1 for none
S_CLASS: Final = 5  # rank of the stop's pick order at its die: lower classes are computed first
S_LIFO: Final = 6  # 1: the most recently arrived of a class is picked first
S_ARRIVE: Final = 7  # gate signalled on arrival, -1 for none
S_DONE: Final = 8  # gate signalled when the compute has ended, -1 for none
S_HOLD: Final = 9  # gate that must be open before the buffer space is given back, -1 for none
S_TOKENS: Final = 10  # tokens computed here (for the timeline)
S_LAST: Final = 11  # 1 for the chunk's last stop
S_NEED: Final = 12  # free bytes required before the chunk may come here (forward-count rule, see kernel.py)
S_REFS: Final = 13  # uses of the buffer space that have not ended
S_STATE: Final = 14  # 0 not here, 1 arrived and waiting for its gate, 2 ready or past
S_NEXT: Final = 15  # next stop in the wait list that this stop is in, -1 for none
S_TAKEN: Final = 16  # time at which the buffer space was taken, ps
S_FREED: Final = 17  # time at which it was given back, ps
S_READY: Final = 18  # time at which the pending request (send) was made, ps
S_BLOCKED: Final = 19  # time since which the send has waited for buffer space, -1 while it does not
S_SPACE_WAIT: Final = 20  # total time that the send has waited for buffer space, ps
S_POOL: Final = 21  # pool that the space is taken of
S_TO: Final = 22  # stop for which the send from here takes space: where the chunk goes; -1: it was taken before
S_VIA: Final = 23  # another one: the next stop on the way there (forwarding.py), -1 for none
S_COLS: Final = 24

# --- chunks --------------------------------------------------------------------------------------------------------
C_BYTES: Final = 0
C_POOL: Final = 1  # 0 weight buffer, 1 token buffer
C_GROUP: Final = 2
C_CHANNEL: Final = 3  # DDR channel that loads it, -1 if it starts in the package
C_GATE: Final = 4  # gate that must be open before it starts, -1 for none
C_FLOW: Final = 5  # 1: sent on when its compute starts; 0: when its compute has ended
C_FIRST: Final = 6  # first stop
C_LEFT: Final = 7  # stops whose buffer space is not given back yet
C_NEXT: Final = 8  # next chunk in the wait list that this chunk is in
C_LOAD: Final = 9  # duration of its load, ps
C_OTHER: Final = 10  # next of the chunks of which only one is loaded (Work.add_alternatives), -1 for none
C_TARGET: Final = 11  # die whose free space decides which of them that is
C_ASK: Final = 12  # 1: the end of its load is a decision point
C_COLS: Final = 13

# --- control scalars -----------------------------------------------------------------------------------------------
K_NOW: Final = 0
K_SEQ: Final = 1
K_EVENTS: Final = 2  # events in the heap
K_ROWS: Final = 3  # timeline rows written
K_DECIDE: Final = 4  # 1: a decision point has been reached
K_OPENED: Final = 5  # gates opened and not yet handled (queue tail)
K_HANDLED: Final = 6  # queue head
K_POPPED: Final = 7  # events processed in all
K_DIRTY: Final = 8  # number of dirty pools
K_DIES: Final = 9
K_CHANNELS: Final = 10
K_FREE: Final = 11  # free bytes of all buffers together
K_WATERMARK: Final = 12  # as soon as so many are free, a decision point is reached; 0: never

# --- where each table starts in the state vector; its shape -------------------------------------------------------
O_STOPS: Final = 13  # [stops, S_COLS]
O_CHUNKS: Final = 14  # [chunks, C_COLS]
O_GATES: Final = 15  # [gates] signals missing
O_GATE_PTR: Final = 16  # [gates + 1]
O_GATE_ITEMS: Final = 17  # waiters of each gate: 4 x index + (0 chunk, 1 compute, 2 hold)
O_OPENED: Final = 18  # [gates] queue of opened gates
O_GROUP_PTR: Final = 19  # [groups + 1]
O_GROUP_CHUNKS: Final = 20  # chunks of each group, in load order
O_GROUP_LEFT: Final = 21  # [groups] unfinished chunks
O_GROUP_STATE: Final = 22  # [groups] WAITING, ADMITTED, STARTED or COMPLETE
O_EVENTS: Final = 23  # [capacity, 3] heap of (time, sequence, 8 x item + kind)
O_READY: Final = 24  # [computes, 2] one heap a die of (key, stop)
O_READY_BASE: Final = 25  # [dies]
O_READY_SIZE: Final = 26  # [dies]
O_DIE_BUSY: Final = 27  # [dies]
O_CHANNEL_BUSY: Final = 28  # [channels]
O_CHANNEL_HEAD: Final = 29  # [channels, 3] first and last queued chunk; since when the first could have started
O_CHANNEL_LATENCY: Final = 30  # [channels]
O_LINK_BUSY: Final = 31  # [links]
O_LINK_WAIT: Final = 32  # [links, 2] first and last waiting stop
O_POOL_FREE: Final = 33  # [pools] free bytes; pool = 2 x die + kind; behind all dies, what they keep for what passes
O_POOL_WAIT: Final = 34  # [pools, 4] sends: first, last; placements: first, last
O_DIRTY: Final = 35  # [pools] stack of pools that gave space back
O_IS_DIRTY: Final = 36  # [pools]
O_PATH_PTR: Final = 37  # [dies * dies + 1]
O_PATH_LINKS: Final = 38
O_PATH_CLASS: Final = 39  # [dies * dies, 3] bandwidth bytes/s, latency ps, header bytes
O_ROWS: Final = 40  # [rows, T_COLS] the timeline
O_LINK_TO: Final = 41  # [links] die at the end of the link
K_COLS: Final = 42
TABLES: Final = (
    "stops",
    "chunks",
    "gates",
    "gate_ptr",
    "gate_items",
    "opened",
    "group_ptr",
    "group_chunks",
    "group_left",
    "group_state",
    "events",
    "ready",
    "ready_base",
    "ready_size",
    "die_busy",
    "channel_busy",
    "channel_head",
    "channel_latency",
    "link_busy",
    "link_wait",
    "pool_free",
    "pool_wait",
    "dirty",
    "is_dirty",
    "path_ptr",
    "path_links",
    "path_class",
    "rows",
    "link_to",
)

# --- timeline rows -------------------------------------------------------------------------------------------------
T_START: Final = 0
T_END: Final = 1
T_KIND: Final = 2
T_RESOURCE: Final = 3
T_STOP: Final = 4
T_READY: Final = 5
T_SPACE: Final = 6
T_COLS: Final = 7

LOAD: Final = 0
SEND: Final = 1
COMPUTE: Final = 2

EV_LOAD_END: Final = 0
EV_SEND_END: Final = 1
EV_COMPUTE_END: Final = 2
EV_ARRIVE: Final = 3
EV_ADMIT: Final = 4

DONE: Final = 0
DECIDE: Final = 1

WEIGHTS: Final = 0
TOKENS: Final = 1

WAITING: Final = 0
ADMITTED: Final = 1  # decided; its chunks start when the decision time has passed
STARTED: Final = 2
COMPLETE: Final = 3
