"""What a piece of hardware costs in energy and area, with a source and a range for each constant."""

from expertstream.package.technology.technology import (
    DEFAULT_TECHNOLOGY,
    LEVELS,
    Constant,
    D2DKind,
    MemoryKind,
    Technology,
)

__all__ = ["DEFAULT_TECHNOLOGY", "LEVELS", "Constant", "D2DKind", "MemoryKind", "Technology"]
