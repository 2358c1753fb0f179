"""Models, packages and technologies by the name of a preset or of a file."""

from __future__ import annotations

import os
from pathlib import Path

from expertstream.config import preset_names, preset_path
from expertstream.errors import ConfigError
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


def config_text(room: str, text: str) -> str:
    """The YAML of a preset or file that has been loaded, comments included.

    Args:
        room: "model", "package" or "package/technology". text: as for the functions above.

    Raises:
        ConfigError: it is no YAML.
    """
    path = preset_path(room, text) if text in preset_names(room) else Path(text)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"'{text}' is no YAML file; --yaml shows a preset or a file that ends in .yaml or .yml")
    return path.read_text(encoding="utf-8")


def _is_path(text: str, suffixes: tuple[str, ...]) -> bool:
    return text.endswith(suffixes) or os.sep in text or (text != "" and Path(text).exists())
