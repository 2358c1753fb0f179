"""The attention block of one layer, as far as its weights go."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class AttentionSpec(BaseModel):
    """Shape of one attention block.

    ``kind``: ``gqa`` = query, key, value and output projections, keys and values shared by groups of heads
    (multi-head attention is ``n_kv_heads == n_heads``); ``mla`` = multi-head latent attention (DeepSeek-V2,
    arXiv 2405.04434, section 2.1); ``lfa`` = ``gqa`` behind two causal convolutions of length 2 (localized
    filtering attention, Yuan 2.0, arXiv 2311.15786).
    ``head_dim`` is the query and key width of ``gqa`` and ``lfa``; ``mla`` uses its own five widths instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["gqa", "mla", "lfa"] = "gqa"
    n_heads: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)
    head_dim: int = Field(default=0, ge=0)
    bias: Literal["none", "qkv", "qkvo"] = "none"
    qk_norm: Literal["none", "head", "full"] = "none"
    sinks: bool = False
    q_lora_rank: int | None = Field(default=None, ge=1)
    kv_lora_rank: int = Field(default=0, ge=0)
    qk_nope_head_dim: int = Field(default=0, ge=0)
    qk_rope_head_dim: int = Field(default=0, ge=0)
    v_head_dim: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> AttentionSpec:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads = {self.n_heads} must be a multiple of n_kv_heads = {self.n_kv_heads}")
        if self.kind == "mla":
            needed: tuple[str, ...] = ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
        else:
            needed = ("head_dim",)
        missing = [name for name in needed if getattr(self, name) < 1]
        if missing:
            raise ValueError(f"attention kind '{self.kind}' needs {', '.join(missing)} of at least 1")
        return self

    def params(self, d_model: int) -> int:
        """Return the parameters of one attention block, biases and inner norms included."""
        if self.kind == "mla":
            return self._mla_params(d_model)
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        total = 2 * d_model * (q + kv)
        total += {"none": 0, "qkv": q + 2 * kv, "qkvo": q + 2 * kv + d_model}[self.bias]
        total += {"none": 0, "head": 2 * self.head_dim, "full": q + kv}[self.qk_norm]
        total += self.n_heads if self.sinks else 0
        if self.kind == "lfa":
            half = d_model // 2
            total += 2 * (2 * d_model * half) + half + d_model + d_model
        return total

    def _mla_params(self, d_model: int) -> int:
        q = self.n_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        rank = self.q_lora_rank
        total = d_model * q if rank is None else d_model * rank + rank + rank * q
        total += d_model * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank
        total += self.kv_lora_rank * self.n_heads * (self.qk_nope_head_dim + self.v_head_dim)
        return total + self.n_heads * self.v_head_dim * d_model
