"""Reader of NumPy ``.npz`` captures.

Arrays: experts int16 [tokens, layers, k]; optional weights float16 of the same shape, request and position int32
[tokens], phase int8 [tokens]; num_experts; layer_index [layers].
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from expertstream.errors import TraceError


def read(path: Path) -> dict[str, Any]:
    """Fields of a RoutingTrace. Raises TraceError for a damaged file or one that is not a trace."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TraceError(f"'{path}' is not a readable .npz file (cut off or damaged?): {error}") from None
    if "counts" in arrays and "experts" not in arrays:
        raise TraceError(
            f"'{path}' holds expert counts only; a schedule needs the experts of each token: use a per-token capture"
        )
    missing = [name for name in ("experts", "num_experts") if name not in arrays]
    if missing:
        raise TraceError(f"'{path}' is not a trace: it has no '{missing[0]}' (found: {', '.join(sorted(arrays))})")
    experts = arrays["experts"]
    if experts.ndim != 3:
        raise TraceError(f"'{path}': experts has shape {experts.shape}, [tokens, layers, k] needed")
    tokens, layers, _ = experts.shape
    unknown = np.full(tokens, -1)
    weights = arrays.get("weights")
    phase = arrays.get("phase", unknown)
    return {
        "experts": experts.astype(np.int16),
        "weights": None if weights is None else weights.astype(np.float32),
        "request": arrays.get("request", unknown).astype(np.int32),
        "position": arrays.get("position", unknown).astype(np.int32),
        "phase": (phase if phase.shape == (tokens,) else unknown).astype(np.int8),
        "layer_index": arrays.get("layer_index", np.arange(layers)).astype(np.int32),
        "n_experts": int(arrays["num_experts"]),
        "model": path.name.split("__")[0],
        "source": path.name,
    }
