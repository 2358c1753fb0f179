"""Proof of a schedule: what it computes, and with real weights that the result is the dense layer's."""

from expertstream.numerics.coverage import check_coverage
from expertstream.numerics.layer import DenseLayer, dense_output
from expertstream.numerics.loads import check_loads
from expertstream.numerics.proof import TOLERANCE, prove
from expertstream.numerics.replay import replay
from expertstream.numerics.rows import ReplayError

__all__ = ["TOLERANCE", "DenseLayer", "ReplayError", "check_coverage", "check_loads", "dense_output", "prove", "replay"]
