"""The paper's scheduling decisions as pure functions."""

from expertstream.schedule.adaptive import (
    by_expert,
    copies_to_wait_for,
    ddr_binds,
    enough_in_flight,
    experts_in_flight,
    fifo,
    hot_next,
    least_ahead,
    least_in_flight,
    least_traffic,
    links_are_free,
    passes,
    tile_size,
    token_turns,
    weights_stay,
)
from expertstream.schedule.cycles import CYCLE_PS
from expertstream.schedule.order import ORDERS, OrderName, id_order, paired_order
from expertstream.schedule.placing import place
from expertstream.schedule.scheduler import Decision, LayerScheduler, SchedulerFactory, SoftwareScheduler
from expertstream.schedule.token_buffering import Qos, Slack, defer, pass_done, token_counts
from expertstream.schedule.trajectory import load_die, next_expert

__all__ = [
    "CYCLE_PS",
    "ORDERS",
    "Decision",
    "LayerScheduler",
    "OrderName",
    "Qos",
    "SchedulerFactory",
    "Slack",
    "SoftwareScheduler",
    "by_expert",
    "copies_to_wait_for",
    "ddr_binds",
    "defer",
    "enough_in_flight",
    "experts_in_flight",
    "fifo",
    "hot_next",
    "id_order",
    "least_ahead",
    "least_in_flight",
    "least_traffic",
    "links_are_free",
    "load_die",
    "next_expert",
    "paired_order",
    "pass_done",
    "passes",
    "place",
    "tile_size",
    "token_counts",
    "token_turns",
    "weights_stay",
]
