"""What kind of file a set of keys is, so that a file given in the wrong place is one message."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, what to do with it, and keys that all of its files have and earlier kinds lack."""

    name: str
    advice: str
    keys: tuple[str, ...]


KINDS: Final = (
    Kind("a search", "run it with 'expertstream search'", ("fields", "objectives")),
    Kind("a sweep", "run it with 'expertstream sweep'", ("fields",)),
    Kind("a serving run", "run it with 'expertstream serve-sim'", ("requests",)),
    Kind("a package", "give it as --package", ("rows", "cols")),
    Kind("a technology profile", "give it as --technology", ("mac_int8", "sram_read")),
    Kind("a model", "give it as MODEL", ("d_model", "n_experts")),
    Kind("a Hugging Face configuration", "give it as MODEL, in a file whose name ends in .json", ("model_type",)),
)


def misplaced(given: Collection[str], known: Collection[str], required: Collection[str]) -> str | None:
    """Say that a file is in the wrong place, by the keys of its outermost level; None: it is not, as far as is known.

    Args:
        given: its keys. known, required: the keys that are allowed, and that are needed, in its place.
    """
    found, wanted = _kind_of(given), _kind_of(known)
    if found is None or wanted is None or found == wanted:
        return None
    if set(wanted.keys) <= set(given) and not set(wanted.keys) <= set(found.keys):
        return None
    has = " and ".join(f"'{key}'" for key in found.keys)
    return (
        f"it has {has}, so it seems to be {found.name}: {found.advice}. "
        f"Needed here is {wanted.name}, with the keys {', '.join(required)}"
    )


def _kind_of(keys: Collection[str]) -> Kind | None:
    return next((kind for kind in KINDS if set(kind.keys) <= set(keys)), None)
