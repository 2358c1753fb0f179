"""Numba compilation with an on-disk cache that never breaks an import."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_STAMP = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile lazily in nopython mode; cached on disk where Numba finds a writable directory, in memory otherwise.

    Numba looks for the cache directory when the decorator runs and raises RuntimeError if there is none.
    """
    try:
        compiled: Any = numba.njit(cache=True)(function)
    except RuntimeError:
        return cast(F, numba.njit(function))
    # Numba looks only at a function's own file, so a change of layout.py or of a callee would go unnoticed.
    file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = _STAMP
    return cast(F, compiled)
