"""Multi-chiplet packages: dies, D2D links, DDR channels, topology and compute times."""

from expertstream.package.faults import ChannelFault, Faults, LinkFault
from expertstream.package.package import ChannelSpec, D2DSpec, DieSpec, Package
from expertstream.package.surviving import SurvivingPackage, surviving
from expertstream.package.topology import Topology

__all__ = [
    "ChannelFault",
    "ChannelSpec",
    "D2DSpec",
    "DieSpec",
    "Faults",
    "LinkFault",
    "Package",
    "SurvivingPackage",
    "Topology",
    "surviving",
]
