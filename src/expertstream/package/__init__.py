"""Multi-chiplet packages: dies, D2D links, DDR channels, topology and compute times."""

from expertstream.package.package import ChannelSpec, D2DSpec, DieSpec, Package
from expertstream.package.topology import Topology

__all__ = ["ChannelSpec", "D2DSpec", "DieSpec", "Package", "Topology"]
