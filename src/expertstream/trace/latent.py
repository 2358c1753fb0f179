"""Gaussian scores behind a router's choices: the k largest are chosen, and covariances must stay valid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
KEPT_AT_MOST = 0.95  # share of the variance of any direction that a request may keep
_LEAST = 1e-4  # frequencies nearer to 0 or 1 are not told apart
_SMALLEST = 0.02  # eigenvalue of a correlation matrix


def choose(score: NDArray[np.floating[Any]], k: int) -> NDArray[np.bool_]:
    """Whether each is one of the k largest of its row of score [tokens, E]; faster than naming them."""
    e = score.shape[1]
    return np.asarray(score >= np.partition(score, e - k, axis=1)[:, e - k : e - k + 1])


def corrected(mean: Floats, measured: Floats, simulated: Floats) -> Floats:
    """Mean scores [E] moved so that the simulated frequencies of the experts come nearer to the measured ones."""
    step = ndtri(np.clip(measured, _LEAST, 1 - _LEAST)) - ndtri(np.clip(simulated, _LEAST, 1 - _LEAST))
    return np.asarray(mean + 0.8 * step)


def slope(p: Floats, q: Floats) -> Floats:
    """How the frequency of a pair rises with its latent correlation, [E, E], at zero correlation."""
    density = [np.exp(-(ndtri(np.clip(x, 2e-3, 1 - 2e-3)) ** 2) / 2) / np.sqrt(2 * np.pi) for x in (p, q)]
    return np.outer(*density)


def root(matrix: Floats) -> Floats:
    """Symmetric square root of the nearest positive semidefinite matrix, [E, E]."""
    value, vector = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vector * np.sqrt(np.maximum(value, 0))) @ vector.T)


def inverse_root(matrix: Floats) -> Floats:
    """Inverse of the symmetric square root, [E, E]; small eigenvalues are raised."""
    value, vector = np.linalg.eigh(matrix)
    return np.asarray((vector / np.sqrt(np.maximum(value, _SMALLEST))) @ vector.T)


def correlation(matrix: Floats) -> Floats:
    """The nearest matrix without small eigenvalues, scaled to a unit diagonal, [E, E]."""
    value, vector = np.linalg.eigh((matrix + matrix.T) / 2)
    positive = (vector * np.maximum(value, _SMALLEST)) @ vector.T
    scale = np.sqrt(np.diag(positive))
    return np.asarray(positive / np.outer(scale, scale))


def within(part: Floats, whole: Floats) -> Floats:
    """The matrix nearest to ``part`` that keeps at most KEPT_AT_MOST of ``whole`` in every direction, [E, E]."""
    outer, inner = root(whole), inverse_root(whole)
    value, vector = np.linalg.eigh(inner @ ((part + part.T) / 2) @ inner)
    return np.asarray(outer @ ((vector * np.clip(value, 0, KEPT_AT_MOST)) @ vector.T) @ outer)
