"""The shape of an MoE model and every number that follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expertstream.config import load_config, preset_names, preset_path
from expertstream.errors import ConfigError, nearest
from expertstream.model.attention import AttentionSpec
from expertstream.model.hf import read_hf_config

_NOT_SHAPE = {"name", "source", "notes", "weight_bits", "activation_bits", "partial_sum_bits"}


class MoEModel(BaseModel):
    """Shape of a Mixture-of-Experts decoder; frozen. Counts are plain integers, widths are numbers of columns.

    Attributes:
        name: what results call it. source: where the figures are from. notes: what of the original is left out.
        d_model: width of the residual stream.
        d_ffn: columns of a routed expert, a gated MLP: gate and up [d_model, d_ffn], down [d_ffn, d_model].
        n_experts: routed experts of an MoE layer; top_k: how many of them each token chooses.
        n_shared_experts: experts that every token visits; shared_d_ffn: columns of *one* of them.
        n_layers: all layers. The dense ones are the first ``first_dense_layers``, or all those not in
            ``moe_layer_ids`` where that is given; dense_d_ffn: their columns.
        attention: heads and kind of attention. vocab_size, tied_embeddings, lm_head_bias: embedding and output head.
        norm, router, router_bias, expert_bias, shared_expert_gate: what else has parameters.
        weight_bits, activation_bits, partial_sum_bits: bits per value.
        published_total_params, published_active_params: figures of ``source``, kept for comparison only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    source: str
    notes: tuple[str, ...] = ()

    d_model: int = Field(ge=1)
    d_ffn: int = Field(ge=1)
    n_experts: int = Field(ge=1, le=32767)
    top_k: int = Field(ge=1)
    n_shared_experts: int = Field(default=0, ge=0)
    shared_d_ffn: int = Field(default=0, ge=0)

    n_layers: int = Field(ge=1, le=10_000)
    first_dense_layers: int = Field(default=0, ge=0)
    moe_layer_ids: tuple[int, ...] | None = None
    dense_d_ffn: int = Field(default=0, ge=0)

    attention: AttentionSpec
    vocab_size: int = Field(ge=1)
    tied_embeddings: bool = False
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    router: Literal["linear", "attention"] = "linear"
    router_bias: bool = False
    expert_bias: bool = False
    shared_expert_gate: bool = False
    lm_head_bias: bool = False

    weight_bits: int = Field(default=8, ge=1)
    activation_bits: int = Field(default=16, ge=1)
    partial_sum_bits: int = Field(default=32, ge=1)

    published_total_params: int | None = Field(default=None, ge=1)
    published_active_params: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> MoEModel:
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k = {self.top_k} must not exceed n_experts = {self.n_experts}")
        if (self.n_shared_experts > 0) != (self.shared_d_ffn > 0):
            raise ValueError(
                f"n_shared_experts = {self.n_shared_experts} and shared_d_ffn = {self.shared_d_ffn}: "
                "give both above 0, or neither"
            )
        if self.moe_layer_ids is not None:
            ids = self.moe_layer_ids
            if self.first_dense_layers:
                raise ValueError("give first_dense_layers or moe_layer_ids, not both")
            if list(ids) != sorted(set(ids)) or not ids or ids[0] < 0 or ids[-1] >= self.n_layers:
                raise ValueError(
                    f"moe_layer_ids must be ascending layer numbers within 0 to {self.n_layers - 1}, at least one"
                )
        elif self.first_dense_layers >= self.n_layers:
            raise ValueError(
                f"first_dense_layers = {self.first_dense_layers} leaves no MoE layer among n_layers = {self.n_layers}"
            )
        if len(self.moe_layers) < self.n_layers and self.dense_d_ffn < 1:
            raise ValueError("dense_d_ffn of at least 1 is needed where some layers are dense")
        return self

    @classmethod
    def preset(cls, name: str) -> MoEModel:
        """Return the packaged model ``name`` (one of ``preset_names``). Raises ConfigError for an unknown name."""
        return load_config(preset_path("model", name), cls)

    @classmethod
    def preset_names(cls) -> list[str]:
        """Return the names of all packaged models, sorted."""
        return preset_names("model")

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> MoEModel:
        """Read a model from a YAML file whose keys are this class's fields. Raises ConfigError."""
        return load_config(path, cls)

    @classmethod
    def from_hf_config(cls, path: str | os.PathLike[str], *, name: str | None = None) -> MoEModel:
        """Read a Hugging Face ``config.json`` (or the folder that holds one) of an MoE model.

        Raises ConfigError if the file is missing or broken, the model has no routed experts that are gated MLPs, a
        needed key is missing, or two keys that mean the same thing disagree.
        """
        values, where = read_hf_config(path)
        if name is not None:
            values["name"] = name
        return cls._build(values, where)

    @classmethod
    def one_layer(
        cls,
        *,
        d_model: int,
        d_ffn: int,
        n_experts: int,
        top_k: int,
        n_shared_experts: int = 0,
        shared_d_ffn: int = 0,
        **more: Any,
    ) -> MoEModel:
        """Return a model of one MoE layer, for work that never leaves the layer; ``more`` sets other fields.

        Its attention and vocabulary are placeholders, so its parameter totals mean nothing. Raises ConfigError.
        """
        values: dict[str, Any] = {
            "name": "one-layer",
            "source": "given by the caller",
            "d_model": d_model,
            "d_ffn": d_ffn,
            "n_experts": n_experts,
            "top_k": top_k,
            "n_shared_experts": n_shared_experts,
            "shared_d_ffn": shared_d_ffn,
            "n_layers": 1,
            "attention": {"n_heads": 1, "n_kv_heads": 1, "head_dim": d_model},
            "vocab_size": 1,
        }
        return cls._build(values | more, "MoEModel.one_layer")

    @classmethod
    def _build(cls, values: Mapping[str, Any], where: str) -> MoEModel:
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            given = "" if first["type"] in ("value_error", "missing") else f" (given: {first['input']!r})"
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where}: {key + ': ' if key else ''}{message}{given}") from None

    def replace(self, **changes: Any) -> MoEModel:
        """Return a copy with fields changed; ``attention.head_dim`` and the like reach into the attention block.

        Published figures go when the shape changes. Raises ConfigError for an unknown field or a value refused.
        """
        values = self.model_dump()
        if not set(changes) <= _NOT_SHAPE:
            values["published_total_params"] = values["published_active_params"] = None
        for field, value in changes.items():
            target, key = values, field
            allowed = list(type(self).model_fields)
            if field.startswith("attention."):
                target, key = values["attention"], field.removeprefix("attention.")
                allowed = list(AttentionSpec.model_fields)
            if key not in allowed:
                raise ConfigError(
                    f"replace: the model has no field '{field}'{nearest(key, allowed) or '.'} "
                    f"Allowed: {', '.join(allowed)}."
                )
            target[key] = value
        return self._build(values, f"replace: {self.name}")

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The numbers of the layers with routed experts, ascending."""
        if self.moe_layer_ids is not None:
            return self.moe_layer_ids
        return tuple(range(self.first_dense_layers, self.n_layers))

    @property
    def expert_weights(self) -> int:
        """The weights of one routed expert: 3 * d_model * d_ffn (biases, where there are any, not counted)."""
        return 3 * self.d_model * self.d_ffn

    @property
    def expert_bytes(self) -> int:
        """The bytes of one routed expert's weights at ``weight_bits``."""
        return -(-self.expert_weights * self.weight_bits // 8)

    @property
    def shared_expert_weights(self) -> int:
        """The weights of one shared expert: 3 * d_model * shared_d_ffn."""
        return 3 * self.d_model * self.shared_d_ffn

    @property
    def shared_expert_bytes(self) -> int:
        """The bytes of one shared expert's weights at ``weight_bits``."""
        return -(-self.shared_expert_weights * self.weight_bits // 8)

    @property
    def router_params(self) -> int:
        """The parameters of one layer's router; Yuan's attention router has three projections (arXiv 2405.17976)."""
        projections = 3 if self.router == "attention" else 1
        return projections * self.n_experts * self.d_model + (self.n_experts if self.router_bias else 0)

    def _params(self, routed: int) -> int:
        norm = self.d_model * (2 if self.norm == "layernorm" else 1)
        expert = self.expert_weights + (2 * self.d_ffn + self.d_model if self.expert_bias else 0)
        moe = routed * expert + self.n_shared_experts * self.shared_expert_weights + self.router_params
        moe += self.d_model if self.shared_expert_gate else 0
        n_moe = len(self.moe_layers)
        total = n_moe * moe + (self.n_layers - n_moe) * 3 * self.d_model * self.dense_d_ffn
        total += self.n_layers * (self.attention.params(self.d_model) + 2 * norm) + norm
        total += self.vocab_size * self.d_model * (1 if self.tied_embeddings else 2)
        return total + (self.vocab_size if self.lm_head_bias else 0)

    @property
    def total_params(self) -> int:
        """All parameters: embeddings, attention, norms, routers, experts, dense layers, output head."""
        return self._params(self.n_experts)

    @property
    def active_params(self) -> int:
        """The parameters that one token meets; the embedding table and the output head count whole."""
        return self._params(self.top_k)

    def summary(self) -> str:
        """Return the model in a few lines of text."""
        n_moe = len(self.moe_layers)
        shared = f" + {self.n_shared_experts} shared of {self.shared_d_ffn} columns" if self.n_shared_experts else ""
        dense = f", {self.n_layers - n_moe} dense of {self.dense_d_ffn} columns" if n_moe < self.n_layers else ""
        published = f" (published: {self.published_total_params / 1e9:g} B)" if self.published_total_params else ""
        heads = f"{self.attention.kind}, {self.attention.n_heads} heads, {self.attention.n_kv_heads} key-value heads"
        lines = [
            f"{self.name}: {self.n_experts} experts, {self.top_k} per token{shared}",
            f"d_model {self.d_model}, d_ffn {self.d_ffn}, {self.n_layers} layers: {n_moe} MoE{dense}",
            f"one expert {self.expert_bytes / 1e6:.2f} MB at {self.weight_bits} bits per weight",
            f"attention {heads}",
            f"parameters {self.total_params / 1e9:.2f} B{published}, active {self.active_params / 1e9:.2f} B",
            f"source {self.source}",
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
