"""The paper's scheduling decisions as pure functions."""

from expertstream.schedule.adaptive import hot_next, tokens_move
from expertstream.schedule.order import id_order, paired_order
from expertstream.schedule.token_buffering import Qos, Slack, defer, pass_done, token_counts
from expertstream.schedule.trajectory import next_expert

__all__ = [
    "Qos",
    "Slack",
    "defer",
    "hot_next",
    "id_order",
    "next_expert",
    "paired_order",
    "pass_done",
    "token_counts",
    "tokens_move",
]
