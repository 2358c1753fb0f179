"""Routing traces: captures of a router, or calibrated synthetic ones."""

from expertstream.trace.routing import Mix, Routing, RoutingTrace

__all__ = ["Mix", "Routing", "RoutingTrace"]
