"""What the engine needs to know of the hardware: resources and paths, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertstream.units import counted


@dataclass(frozen=True, eq=False)
class Network:
    """Resources of a package.

    Attributes:
        buffer_bytes: int64 [dies, 2], capacity of each die's weight buffer and token buffer.
        channel_bandwidth: int64 [channels], bytes/s, efficiency included.
        channel_latency_ps: int64 [channels], time from the end of a load to the arrival of its data.
        path_ptr, path_links: links of the path from die a to die b are
            ``path_links[path_ptr[a * dies + b] : path_ptr[a * dies + b + 1]]``, int64.
        path_bandwidth: int64 [dies * dies], bytes/s of the slowest link (1 where there is no path to take).
        path_latency_ps: int64 [dies * dies].
        header_bytes: bytes added to each transfer between dies.
        links: int64 [links, 2], source and destination die.
        transit_bytes: None: cut-through, a transfer takes all links of its path at once and no buffer on the way. Else
            store-and-forward, and so much of each weight and token buffer is kept for what passes (forwarding.py),
            int64 [2].
        channel_dies: bool [channels, dies], whether a channel loads into a die; None: into any.
    """

    buffer_bytes: NDArray[np.int64]
    channel_bandwidth: NDArray[np.int64]
    channel_latency_ps: NDArray[np.int64]
    path_ptr: NDArray[np.int64]
    path_links: NDArray[np.int64]
    path_bandwidth: NDArray[np.int64]
    path_latency_ps: NDArray[np.int64]
    header_bytes: int
    links: NDArray[np.int64]
    transit_bytes: NDArray[np.int64] | None = None
    channel_dies: NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        """How much there is, in one line."""
        return (
            f"Network({counted(self.n_dies, 'die')}, {counted(self.n_channels, 'DDR channel')}, "
            f"{counted(len(self.links), 'directed link')})"
        )

    @property
    def n_dies(self) -> int:
        """Number of dies."""
        return int(self.buffer_bytes.shape[0])

    @property
    def n_links(self) -> int:
        """Number of directed links."""
        return int(self.links.shape[0])

    @property
    def n_channels(self) -> int:
        """Number of DDR channels."""
        return int(self.channel_bandwidth.shape[0])
