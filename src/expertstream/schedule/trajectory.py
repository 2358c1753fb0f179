"""Algorithm 1 of the paper (section V-A): which expert streams next."""

from __future__ import annotations

from collections.abc import Sequence


def next_expert(remaining: Sequence[int], trajectories: Sequence[int], idle: int) -> tuple[int, bool]:
    """Pick the next expert to load.

    Args:
        remaining: experts not yet loaded, in pair order; not empty.
        trajectories: T(e) of every expert as a bit mask, bit d for die d.
        idle: dies that no running expert uses, as a bit mask (the hardware's Idle Chiplet Vector).

    Returns:
        (expert, streams): the first expert whose trajectory meets the idle dies, True; where none does, the first
        remaining one, False: it is pre-loaded into whatever room there is (rule 4).
    """
    if idle:
        for expert in remaining:
            if trajectories[expert] & idle:
                return expert, True
    return remaining[0], False


def load_die(trajectory: int, idle: int, room: int) -> int:
    """The die at which an expert's micro-slices enter; of several the one with the lowest number.

    Args:
        trajectory: T(e) as a bit mask, not 0.
        idle: idle dies, as a bit mask; 0 for a pre-load.
        room: dies whose weight buffer has room, as a bit mask.

    Returns:
        An idle die of the trajectory; else one of it with room; else any with room; else one of the trajectory, where
        the micro-slices wait for room (rule 4).
    """
    choice = trajectory & idle or trajectory & room or room or trajectory
    return (choice & -choice).bit_length() - 1
