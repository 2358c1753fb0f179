"""The paper's scheduling decisions as pure functions."""

from expertstream.schedule.order import id_order, paired_order
from expertstream.schedule.trajectory import next_expert

__all__ = ["id_order", "next_expert", "paired_order"]
