"""Pictures of sweeps and searches: heat maps, Pareto plots, parallel coordinates, tornado charts."""

from expertstream.explore.pictures.draw import FORMATS, KINDS, Wishes, draw_pictures

__all__ = ["FORMATS", "KINDS", "Wishes", "draw_pictures"]
