"""The Python reference is whole: every public name is on the page, every field and parameter is explained."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest

import expertstream
from docs.generate.blocks import ROOT

PATHS = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)


def _object(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_there() -> None:
    assert [name for name in expertstream.__all__ if f"expertstream.{name}" not in PATHS] == []


@pytest.mark.parametrize("path", PATHS)
def test_fields_and_parameters_are_explained(path: str) -> None:
    found = _object(path)
    named = inspect.signature(found).parameters if inspect.isfunction(found) else {}
    named = getattr(found, "__dataclass_fields__", getattr(found, "model_fields", named))
    said = " ".join(doc for doc in (found.__doc__, *_doc_of_members(found)) if doc)
    assert [name for name in named if not re.search(rf"\b{name}\b", said)] == []


@pytest.mark.parametrize("path", PATHS)
def test_errors_are_named(path: str) -> None:
    found = _object(path)
    members = [m for m in vars(found).values() if not getattr(m, "__name__", "_").startswith("_")]
    functions = [getattr(m, "__func__", m) for m in members] if inspect.isclass(found) else [found]
    silent = [
        function.__name__
        for function in functions
        if inspect.isfunction(function)
        and "raise " in inspect.getsource(function)
        and "aise" not in (function.__doc__ or "")
    ]
    assert silent == []


def _doc_of_members(found: Any) -> list[str]:
    return [m.__doc__ or "" for m in vars(found).values() if isinstance(m, property)] if inspect.isclass(found) else []
