"""Numba compilation with an on-disk cache that never breaks an import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile lazily in nopython mode; cached on disk where Numba finds a writable directory, in memory otherwise.

    Numba looks for the cache directory when the decorator runs and raises RuntimeError if there is none.
    """
    try:
        compiled: Any = numba.njit(cache=True)(function)
    except RuntimeError:
        compiled = numba.njit(function)
    return cast(F, compiled)
