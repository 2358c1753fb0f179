"""The experts of a trace in a file, read layer by layer when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from expertstream.trace.routing import RoutingTrace

Ints = NDArray[np.int64]
KEPT = 2  # layers in memory: prediction and placements look at one and the one before it


class Layers:
    """Layers of a file; keeps the last KEPT that were read and, of all that were read, the noted tokens.

    Gate weights, which are larger, are kept of one layer at most: ask for a layer's weights before its experts, which
    are read with them.

    Args:
        load: reads one layer, by the model's number, as a trace, with weights (if the file has any) or without.
    """

    def __init__(self, load: Callable[[int, bool], RoutingTrace]) -> None:
        self._load, self._kept = load, OrderedDict[int, NDArray[np.int16]]()
        self._weights: dict[int, NDArray[np.float32]] = {}
        self.noted: Ints = np.arange(0)
        self._noted_rows: dict[int, NDArray[np.int16]] = {}

    def note(self, tokens: Iterable[Ints]) -> None:
        """Keep the experts of these tokens (and of no others) of every layer that is read from now on."""
        self.noted = np.unique(np.concatenate([np.arange(0), *tokens]))
        self._noted_rows = {number: experts[self.noted] for number, experts in self._kept.items()}

    def experts(self, number: int) -> NDArray[np.int16]:
        """Experts of a layer, int16 [tokens, k]. Raises TraceError if the file is damaged."""
        if number not in self._kept:
            self._read(number, weights=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def weights(self, number: int) -> NDArray[np.float32]:
        """Gate weights of a layer, float32 [tokens, k]. Raises TraceError if the file is damaged."""
        if number not in self._weights:
            self._kept.pop(number, None)
            self._weights.clear()
            self._read(number, weights=True)
        return self._weights[number]

    def _read(self, number: int, *, weights: bool) -> None:
        while len(self._kept) >= KEPT:
            self._weights.pop(self._kept.popitem(last=False)[0], None)
        self.keep(number, self._load(number, weights))

    def keep(self, number: int, trace: RoutingTrace) -> None:
        """Take a trace of one layer that was read."""
        self._kept[number] = trace.experts[:, 0]
        if trace.weights is not None:
            self._weights = {number: trace.weights[:, 0]}
        if number not in self._noted_rows:
            self._noted_rows[number] = trace.experts[self.noted, 0]

    def experts_of_noted(self, number: int) -> NDArray[np.int16]:
        """Experts of the noted tokens, int16 [noted, k]."""
        if number not in self._noted_rows:
            self.experts(number)
        return self._noted_rows[number]


class LayerByLayer:
    """Stands in a RoutingTrace for the array experts (or weights) [tokens, layers, k].

    Arrays come of ``[tokens, i]`` and ``[:, i]``, layer i of some or all tokens, and of ``[tokens]``, all layers of
    some tokens by number. A mask of the tokens and ``[:, [i, ...]]`` give a part that has read nothing yet.
    """

    ndim = 3

    def __init__(
        self, source: Layers, name: str, numbers: list[int], rows: Ints | None, shape: tuple[int, int]
    ) -> None:
        self._source, self._name, self._numbers, self._rows = source, name, numbers, rows
        self.shape = (shape[0], len(numbers), shape[1])
        self.dtype = np.dtype(np.int16 if name == "experts" else np.float32)

    def note(self, tokens: Iterable[Ints]) -> None:
        """Tokens that are going to be asked for, arrays of numbers: the next reading of each layer keeps them."""
        self._source.note([self._in_file(part) for part in tokens])

    def __getitem__(self, key: Any) -> Any:
        tokens, layers = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(layers, (int, np.integer)):
            whole = self._whole(self._numbers[layers])
            return whole[tokens] if self._rows is None else whole[self._rows[tokens]]
        if isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu":
            return np.stack([self._some(tokens, number) for number in np.array(self._numbers)[layers].tolist()], axis=1)
        numbers = np.array(self._numbers)[layers].tolist()
        rows = self._rows if isinstance(tokens, slice) and tokens == slice(None) else self._in_file(tokens)
        return LayerByLayer(
            self._source, self._name, numbers, rows, (self.shape[0] if rows is None else rows.size, self.shape[2])
        )

    def _some(self, tokens: Ints, number: int) -> Any:
        where = self._in_file(tokens)
        if self._name == "experts" and self._source.noted.size:
            at = np.searchsorted(self._source.noted, where).clip(max=self._source.noted.size - 1)
            if np.array_equal(self._source.noted[at], where):
                return self._source.experts_of_noted(number)[at]
        return self._whole(number)[where]

    def _whole(self, number: int) -> Any:
        return self._source.experts(number) if self._name == "experts" else self._source.weights(number)

    def _in_file(self, tokens: Any) -> Ints:
        if self._rows is None and isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu":
            return tokens.astype(np.int64, copy=False)
        rows = np.arange(self.shape[0]) if self._rows is None else self._rows
        return np.asarray(rows[tokens])

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.stack([self[:, at] for at in range(self.shape[1])], axis=1).astype(dtype or self.dtype, copy=False)
