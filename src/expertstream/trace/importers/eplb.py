"""Weight matrices of DeepSeek's expert-parallel load balancer: the load of each logical expert, [layers, experts].

Layout: the argument ``weight`` of ``rebalance_experts`` (github.com/deepseek-ai/EPLB, eplb.py and the example of its
README), here as nested lists in JSON, ``numpy.save`` or ``torch.save``.
"""

from __future__ import annotations

from expertstream.trace.importers.contents import Content, as_array
from expertstream.trace.importers.counts import Counts, count_matrix
from expertstream.trace.importers.found import Hints

NAME, ABOUT = "eplb", "EPLB weight matrix, [layers, experts]: counts"


def matches(content: Content) -> bool:
    """Whether this importer reads it."""
    value = content.value
    if content.kind == "json":
        rows = isinstance(value, list) and bool(value) and isinstance(value[0], list) and bool(value[0])
        return rows and isinstance(value[0][0], (int, float))
    return content.kind in ("npy", "pt") and getattr(value, "ndim", 0) == 2


def read(content: Content, hints: Hints) -> Counts:
    """The counts. Raises TraceError for anything but a matrix of numbers from 0 on."""
    return Counts(count_matrix(as_array(content.value), "the matrix"), top_k=hints.top_k)
