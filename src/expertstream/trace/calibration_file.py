"""Calibrations as small ``.npz`` files: fixed-point numbers, nothing that could be executed.

Scores, roots of covariances, depths and shares are rounded to thousandths (int16), so that the same file gives the
same trace everywhere and packs well; of symmetric matrices the upper half is kept. ``about``: the rest, JSON in bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expertstream.errors import TraceError
from expertstream.files import replacing
from expertstream.trace import npz
from expertstream.trace.calibration import MEMORIES, Calibration, LayerCalibration
from expertstream.trace.checks import MAX_EXPERTS
from expertstream.trace.latent import Floats, root

SUFFIX = ".npz"
_UNIT = 1000  # of fixed-point numbers
_ARRAYS = ("popularity", "request_root", "token_root", "shares", "depth")


class _About(BaseModel):
    """What is not an array of fixed-point numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    source: str
    notes: tuple[str, ...]
    n_experts: Annotated[int, Field(ge=2, le=MAX_EXPERTS)]
    top_k: Annotated[int, Field(ge=1)]
    layer_index: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    has_weights: bool
    gate_scale: tuple[Annotated[float, Field(ge=0, le=1e3)], ...]
    gate_sum: tuple[Annotated[float, Field(ge=0, le=1e3)], ...]


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a ``calibration`` to ``path``; the file appears whole or not at all.

    Raises:
        TraceError: the name does not end in .npz, or the file cannot be written.
    """
    check_name(path)
    layers = calibration.layers
    upper = np.triu_indices(calibration.n_experts)
    about = _About(
        model=calibration.model,
        source=calibration.source,
        notes=calibration.notes,
        n_experts=calibration.n_experts,
        top_k=calibration.top_k,
        layer_index=calibration.layer_index,
        has_weights=calibration.has_weights,
        gate_scale=tuple(round(layer.gate_scale, 4) for layer in layers),
        gate_sum=tuple(round(layer.gate_sum, 4) for layer in layers),
    )
    arrays = {
        "popularity": _fixed([layer.popularity for layer in layers]),
        "request_root": _fixed([layer.request_root[upper] for layer in layers]),
        "token_root": _fixed([layer.token_root[upper] for layer in layers]),
        "shares": _summing(_fixed([layer.shares for layer in layers])),
        "depth": _fixed([layer.depth for layer in layers]),
        "about": np.frombuffer(json.dumps(about.model_dump(mode="json")).encode(), dtype=np.uint8),
    }
    with replacing(path, TraceError) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_calibration(path: Path) -> Calibration:
    """Read a calibration from ``path``; the numbers are those saved, rounded to thousandths.

    Raises:
        TraceError: the file is missing, damaged, or no calibration.
    """
    check_name(path)
    if not path.is_file():
        raise TraceError(f"there is no calibration '{path}'")
    arrays = npz.read_arrays(path, (*_ARRAYS, "about"))
    missing = [name for name in (*_ARRAYS, "about") if name not in arrays]
    if missing:
        raise TraceError(
            f"'{path}' is no calibration: it has no '{missing[0]}'; trace synthesize --like FILE --save-calibration "
            "writes one"
        )
    about = _about(path, arrays["about"])
    e, n = about.n_experts, len(about.layer_index)
    half = e * (e + 1) // 2
    shapes = {
        "popularity": (n, e),
        "request_root": (n, half),
        "token_root": (n, half),
        "shares": (n, len(MEMORIES)),
        "depth": (n, e, e),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.int16:
            raise TraceError(
                f"'{path}': {name} is {arrays[name].dtype} {arrays[name].shape}, int16 {shape} needed "
                f"for {n} layers of {e} experts"
            )
    numbers = {name: arrays[name].astype(np.float64) / _UNIT for name in shapes}
    layers = []
    for at in range(n):
        depth, shares = numbers["depth"][at], numbers["shares"][at]
        if np.linalg.norm(depth, 2) >= 1 or shares.min() < 0 or round(_UNIT * shares.sum()) != _UNIT:
            raise TraceError(
                f"'{path}': layer {about.layer_index[at]} follows the layer before by a factor of 1 or more, or its "
                "shares do not add up to 1; write the calibration again"
            )
        layers.append(
            LayerCalibration(
                popularity=numbers["popularity"][at],
                request_root=_symmetric(numbers["request_root"][at], e),
                token_root=_symmetric(numbers["token_root"][at], e),
                shares=shares,
                depth=depth,
                rest=root(np.eye(e) - depth @ depth.T),
                gate_scale=about.gate_scale[at],
                gate_sum=about.gate_sum[at],
            )
        )
    return Calibration(
        layers=tuple(layers),
        layer_index=about.layer_index,
        n_experts=e,
        top_k=about.top_k,
        model=about.model,
        source=about.source,
        has_weights=about.has_weights,
        notes=about.notes,
    )


def check_name(path: Path) -> None:
    """Raise TraceError unless the file's name is one for a calibration."""
    if path.suffix != SUFFIX:
        raise TraceError(f"'{path}' is not a name for a calibration; it must end in {SUFFIX}")


def _about(path: Path, text: NDArray[Any]) -> _About:
    try:
        about = _About.model_validate_json(text.astype(np.uint8).tobytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise TraceError(f"'{path}' is no calibration: about: {where}: {first['msg']}") from None
    n = len(about.layer_index)
    if len(set(about.layer_index)) < n or list(about.layer_index) != sorted(about.layer_index):
        raise TraceError(f"'{path}': layer_index is {list(about.layer_index)}; layers must rise")
    if not about.top_k < about.n_experts or {len(about.gate_scale), len(about.gate_sum)} != {n}:
        raise TraceError(
            f"'{path}': k is {about.top_k} of {about.n_experts} experts, with {len(about.gate_scale)} and "
            f"{len(about.gate_sum)} gate figures for {n} layers; k must be below the experts, with one of each a layer"
        )
    return about


def _fixed(values: list[Floats]) -> NDArray[np.int16]:
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(_UNIT * np.stack(values)), limits.min, limits.max).astype(np.int16)


def _summing(shares: NDArray[np.int16]) -> NDArray[np.int16]:
    """Rounded shares [layers, n] that add up again: the largest gives or takes what rounding changed."""
    shares[np.arange(len(shares)), shares.argmax(axis=1)] += _UNIT - shares.sum(axis=1, dtype=np.int16)
    return shares


def _symmetric(upper: Floats, e: int) -> Floats:
    matrix = np.zeros((e, e))
    matrix[np.triu_indices(e)] = upper
    return np.asarray(matrix + np.triu(matrix, 1).T)
