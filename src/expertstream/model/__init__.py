"""MoE model shapes: presets, the numbers that follow from a shape, and import of Hugging Face configurations."""

from expertstream.model.attention import AttentionSpec
from expertstream.model.moe_model import MoEModel

__all__ = ["AttentionSpec", "MoEModel"]
