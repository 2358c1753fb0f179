"""How fields and results are called in pictures, and in which unit."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from expertstream.errors import ConfigError, nearest
from expertstream.explore.fields import Value, text_of
from expertstream.explore.results import Results
from expertstream.explore.rows import result_columns
from expertstream.units import counted

BLUE, ORANGE, GREY, GREEN, RED = "#0072B2", "#E69F00", "#B8B8B8", "#009E73", "#D55E00"  # Okabe and Ito
SCALE: Final = "viridis"

_NAMES: Final[Mapping[str, tuple[str, float]]] = {
    "latency_ps": ("latency (ms)", 1e-9),
    "bound_ps": ("lower bound (ms)", 1e-9),
    "energy_pj": ("energy (mJ)", 1e-9),
    "energy_per_token_pj": ("energy per token (mJ)", 1e-9),
    "die_area_mm2": ("die area (mm2)", 1),
    "rated_power_w": ("rated power (W)", 1),
    "average_power_w": ("average power (W)", 1),
    "peak_power_w": ("peak power (W)", 1),
    "utilisation": ("MAC utilisation (%)", 100),
    "overhead": ("overhead of MAC arrays (%)", 100),
    "gap": ("latency / lower bound", 1),
    "sram_bytes": ("SRAM (MiB)", 2**-20),
    "peak_package_bytes": ("peak SRAM in use (MiB)", 2**-20),
    "ddr_bytes": ("bytes from DDR (MB)", 1e-6),
    "d2d_bytes": ("bytes over D2D (MB)", 1e-6),
    "model_tokens_per_s": ("tokens/s of all MoE layers", 1),
    "layer_tokens_per_s": ("tokens/s of the layer", 1),
    "ddr_busy": ("DDR busy (%)", 100),
    "d2d_busy": ("busiest link busy (%)", 100),
}
_MORE_IS_BETTER: Final = {"utilisation", "model_tokens_per_s", "layer_tokens_per_s"}


def column_label(column: str) -> tuple[str, float]:
    """The name of a result with the unit in which it is drawn, and the factor to that unit."""
    return _NAMES.get(column, (column, 1))


def field_label(path: str) -> str:
    """A short name of a field, such as "channels bandwidth"."""
    parts = path.split(".")
    return " ".join(parts[-2:] if len(parts) > 2 else parts[-1:]).replace("_", " ")


def field_text(path: str, value: Value) -> str:
    """A value as a tick or the name of a panel; of a file its name."""
    return text_of(path, Path(value).name if isinstance(value, str) else value)


def better_is_more(column: str) -> bool:
    """Whether a larger result is the better one."""
    return column in _MORE_IS_BETTER


def check_column(column: str) -> str:
    """``column``, if it is a result. Raises ConfigError."""
    if column not in result_columns():
        raise ConfigError(
            f"--value '{column}' is no result{nearest(column, result_columns()) or '.'} "
            f"Results: {', '.join(result_columns())}"
        )
    return column


def put_title(figure: Figure, text: str) -> None:
    """Write a title over a figure, in lines that fit its width."""
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, int(13 * figure.get_figwidth()))]
    figure.suptitle("\n".join(lines), fontsize=9)


def headline(results: Results) -> str:
    """What was explored; synthetic routing is called so."""
    spec = results.spec
    rows = results.rows
    tokens = "" if "tokens" in spec.fields else f", {counted(spec.tokens, 'token')}"
    strategy = "" if "strategy" in spec.fields else f", {spec.strategy}"
    synthetic = "SYNTHETIC routing, " if any(row.get("synthetic") for row in rows) else ""
    return f"{spec.model} on {spec.package}{strategy}{tokens}; {synthetic}{counted(len(rows), 'point')}"
