"""Small pictures as SVG text: the same input, the same bytes. They bring their own light ground, for dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from expertstream.files import replacing

INK, MUTED, GROUND = "#1b1f24", "#68717d", "#fbfaf7"
# Okabe and Ito's colours: told apart by readers with colour-blindness and in print
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")


class Canvas:
    """A picture of so many pixels; coordinates go right and down from the top left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self._title = width, height, title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "none") -> None:
        """A box."""
        self._parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="2" fill="{fill}" '
            f'stroke="{stroke}"/>'
        )

    def circle(self, x: float, y: float, radius: float, fill: str) -> None:
        """A dot."""
        self._parts.append(f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{fill}"/>')

    def line(
        self, points: Sequence[tuple[float, float]], colour: str = INK, *, width: float = 1.5, dash: str = "",
        arrow: bool = False,
    ) -> None:  # fmt: skip
        """A line through points."""
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        extra = (f' stroke-dasharray="{dash}"' if dash else "") + (' marker-end="url(#tip)"' if arrow else "")
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{_n(width)}"{extra}/>'
        )

    def area(self, points: Sequence[tuple[float, float]], fill: str) -> None:
        """A filled shape."""
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self._parts.append(f'<polygon points="{path}" fill="{fill}" fill-opacity="0.55"/>')

    def text(
        self, x: float, y: float, words: str, *, size: int = 12, colour: str = INK, anchor: str = "start",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """A line of text; ``y`` is its base line."""
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def write(self, file: Path) -> None:
        """Write it; the file appears whole or not at all."""
        body = "\n".join(self._parts)
        with replacing(file) as temporary:
            temporary.write_text(
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img" font-family="sans-serif">\n'
                f"<title>{escape(self._title)}</title>\n"
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>\n'
                f'<rect width="{self.width}" height="{self.height}" rx="6" fill="{GROUND}"/>\n{body}\n</svg>\n',
                encoding="utf-8",
            )


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
