"""Finds the studies: every module of ``reproduce/studies`` has one, called ``STUDY``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from expertstream.errors import ConfigError, nearest
from expertstream.reproduce import studies
from expertstream.reproduce.study import Study


@cache
def all_studies() -> dict[str, Study]:
    """All studies by name: the paper's figures in their order, then the others."""
    found: list[Study] = [
        import_module(f"{studies.__name__}.{module.name}").STUDY for module in iter_modules(studies.__path__)
    ]
    return {study.name: study for study in sorted(found, key=_place)}


def chosen_studies(names: Sequence[str]) -> list[Study]:
    """The studies of these names, each once; "all": every figure of the paper; "everything": our own studies, too.

    Raises:
        ConfigError: an unknown name.
    """
    known = all_studies()
    chosen: dict[str, Study] = {}
    for name in names:
        if name in ("all", "everything"):
            chosen |= {study.name: study for study in known.values() if name == "everything" or _figure(study)}
        elif name in known:
            chosen[name] = known[name]
        else:
            hint = nearest(name, [*known, "all", "everything", "list"]) or "."
            raise ConfigError(f"there is no study '{name}'{hint} Available: {', '.join(known)}, all or everything")
    return list(chosen.values())


def _place(study: Study) -> tuple[int, str]:
    return (_figure(study) or 10**6, study.name)


def _figure(study: Study) -> int:
    """Number of a figure of the paper, 0 for a study of our own."""
    figure = re.fullmatch(r"fig(\d+)", study.name)
    return int(figure[1]) if figure else 0
