"""Models, packages and technologies by the name of a preset or of a file."""

from __future__ import annotations

import os
from pathlib import Path

from expertstream.model import MoEModel
from expertstream.package import Package
from expertstream.package.technology import DEFAULT_TECHNOLOGY, Technology


def load_model(text: str) -> MoEModel:
    """A preset's name, a config.json (or its folder), or a YAML file. Raises ConfigError."""
    if text not in MoEModel.preset_names() and _is_path(text, (".json", ".yaml", ".yml")):
        return MoEModel.from_yaml(text) if text.endswith((".yaml", ".yml")) else MoEModel.from_hf_config(text)
    return MoEModel.preset(text)


def load_package(text: str) -> Package:
    """A preset's name or a YAML file. Raises ConfigError."""
    if text not in Package.preset_names() and _is_path(text, (".yaml", ".yml")):
        return Package.from_yaml(text)
    return Package.preset(text)


def load_technology(text: str = DEFAULT_TECHNOLOGY) -> Technology:
    """A preset's name or a YAML file. Raises ConfigError."""
    if text not in Technology.preset_names() and _is_path(text, (".yaml", ".yml")):
        return Technology.from_yaml(text)
    return Technology.preset(text)


def _is_path(text: str, suffixes: tuple[str, ...]) -> bool:
    return text.endswith(suffixes) or os.sep in text or (text != "" and Path(text).exists())
