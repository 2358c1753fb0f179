"""The buffers that a strategy is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expertstream.package import Package


def package_buffers(package: Package) -> NDArray[np.int64]:
    """Weight and token buffer of every die as the package has them, bytes, int64 [dies, 2]."""
    die = package.die
    return np.tile(np.array([die.weight_buffer_bytes, die.token_buffer_bytes], dtype=np.int64), (package.n_dies, 1))
