"""Reader of NumPy ``.npz`` captures.

Arrays: experts int16 [tokens, layers, k]; optional weights float16 of the same shape, request and position int32
[tokens], phase int8 [tokens]; num_experts; layer_index [layers].
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from expertstream.errors import TraceError


def read(path: Path) -> dict[str, Any]:
    """Fields of a RoutingTrace. Raises TraceError for a damaged file or one that is not a trace."""
    if not zipfile.is_zipfile(path):
        raise _unreadable(path)
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise _unreadable(path) from None
    if "counts" in arrays and "experts" not in arrays:
        raise TraceError(
            f"'{path}' holds expert counts only; a schedule needs the experts of each token: use a per-token capture"
        )
    missing = [name for name in ("experts", "num_experts") if name not in arrays]
    if missing:
        raise TraceError(f"'{path}' is not a trace: it has no '{missing[0]}' (found: {', '.join(sorted(arrays))})")
    experts, number = arrays["experts"], arrays["num_experts"]
    if experts.ndim != 3:
        raise TraceError(f"'{path}': experts has shape {experts.shape}, [tokens, layers, k] needed")
    if number.size != 1 or number.dtype.kind not in "iu":
        raise TraceError(f"'{path}': num_experts has shape {number.shape} and type {number.dtype}, one integer needed")
    tokens, layers, _ = experts.shape
    unknown = np.full(tokens, -1)
    return {
        "experts": experts,
        "weights": arrays.get("weights"),
        "request": arrays.get("request", unknown),
        "position": arrays.get("position", unknown),
        "phase": arrays.get("phase", unknown),
        "layer_index": arrays.get("layer_index", np.arange(layers)),
        "n_experts": int(number.reshape(-1)[0]),
        "model": path.name.split("__")[0].removesuffix(".npz"),
        "source": path.name,
    }


def _unreadable(path: Path) -> TraceError:
    return TraceError(f"'{path}' is not a readable .npz file; it may be cut off or damaged: copy or write it again")
