"""Looking keys up in a Hugging Face configuration whose families name the same thing differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expertstream.errors import ConfigError

# One row per meaning: what it is called in messages, then every key that means it.
ALIASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "d_model": ("the hidden size", ("hidden_size", "d_model", "n_embd")),
    "n_layers": ("the number of layers", ("num_hidden_layers", "num_layers", "n_layers", "n_layer")),
    "n_experts": (
        "the number of experts",
        ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_moe_experts"),
    ),
    "top_k": (
        "the number of experts per token",
        (
            "num_experts_per_tok",
            "num_experts_per_token",
            "experts_per_token",
            "moe_top_k",
            "moe_topk",
            "moe_k",
            "top_k_experts",
            "num_activated_experts",
        ),
    ),
    "expert_width": (
        "the width of an expert",
        ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    ),
    "ffn_width": ("the feed-forward width", ("intermediate_size", "ffn_hidden_size")),
    "dense_width": (
        "the width of a dense layer",
        ("intermediate_size_mlp", "dense_intermediate_size", "prefix_dense_intermediate_size"),
    ),
    "n_shared": (
        "the number of shared experts",
        ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    ),
    "shared_width": (
        "the width of a shared expert",
        (
            "shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "shared_intermediate_size",
            "share_expert_dim",
            "share_expert_dims",
        ),
    ),
    "n_heads": ("the number of attention heads", ("num_attention_heads", "n_heads", "n_head")),
    "n_kv_heads": (
        "the number of key-value heads",
        ("num_key_value_heads", "kv_n_heads", "num_attention_groups", "n_kv_heads"),
    ),
    "head_dim": ("the head dimension", ("head_dim", "kv_channels", "attention_head_dim")),
    "vocab_size": ("the vocabulary size", ("vocab_size",)),
    "first_dense": (
        "the number of leading dense layers",
        ("first_k_dense_replace", "num_dense_layers"),
    ),
}

_INNER = ("moe_config", "ffn_config", "attn_config", "moe")
_OUTER = ("thinker_config", "text_config", "language_config", "llm_config")


def nested_sections(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the configuration and its text parts, innermost first."""
    found: list[Mapping[str, Any]] = [config]
    while inner := next((found[0][key] for key in _OUTER if isinstance(found[0].get(key), Mapping)), None):
        found.insert(0, inner)
    return found


class HfKeys:
    """The keys of one model, with ``moe_config`` and the like spread out; ``where`` opens every message."""

    def __init__(self, section: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.values: dict[str, Any] = {k: v for k, v in section.items() if v is not None}
        for name in _INNER:
            inner = section.get(name)
            if not isinstance(inner, Mapping):
                continue
            for key, value in inner.items():
                if value is None or key == "model_type":
                    continue
                if any(key in keys for _, keys in ALIASES.values()) and self.values.get(key, value) != value:
                    raise ConfigError(
                        f"{where}: {key} = {self.values[key]} and {name}.{key} = {value} disagree; keep one"
                    )
                self.values.setdefault(key, value)

    @property
    def model_type(self) -> str:
        """The family's name, or 'unknown'."""
        return str(self.values.get("model_type") or "unknown")

    def text(self, key: str) -> str:
        """Return a key's value as lower-case text, '' where it is missing."""
        return str(self.values.get(key, "")).lower()

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a key's truth value."""
        return bool(self.values.get(key, default))

    def integer(self, key: str, default: int = 0) -> int:
        """Return a whole number; a list of equal numbers (one per layer) counts as that number."""
        return self._number(key, self.values[key]) if key in self.values else default

    def find(self, meaning: str) -> int | None:
        """Return the value under any of a meaning's keys, None where no key is there.

        Raises ConfigError if two keys disagree or the value is no whole number.
        """
        what, keys = ALIASES[meaning]
        found = {key: self._number(key, self.values[key]) for key in keys if key in self.values}
        if len(set(found.values())) > 1:
            listed = " and ".join(f"{key} = {value}" for key, value in found.items())
            raise ConfigError(f"{self.where}: {listed} disagree on {what}; keep one")
        return next(iter(found.values()), None)

    def need(self, meaning: str) -> int:
        """Return the value under any of a meaning's keys. Raises ConfigError where there is none."""
        value = self.find(meaning)
        if value is None:
            what, keys = ALIASES[meaning]
            raise ConfigError(f"{self.where}: {what} is missing; expected one of {', '.join(keys)}")
        return value

    def _number(self, key: str, value: Any) -> int:
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
            raise ConfigError(f"{self.where}: {key} = {shown}; expected one whole number of at least 0")
        return value
