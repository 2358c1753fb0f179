"""Reading Hugging Face ``config.json`` files of MoE models into the fields of :class:`MoEModel`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertstream.errors import ConfigError
from expertstream.model.hf_families import (
    BIASED_EXPERTS,
    CORRECTION_BIAS,
    COUNTED,
    FULL_NORM,
    HEAD_NORM,
    NOT_GATED,
    QKV_BIAS,
    QKV_ONLY,
)
from expertstream.model.hf_keys import ALIASES, HfKeys, nested_sections
from expertstream.model.hf_layers import moe_layers


def read_hf_config(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """Return the fields of a :class:`MoEModel` and the place to name in messages. Raises ConfigError."""
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    where = str(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{where}: no such file; give a Hugging Face config.json or the folder that holds it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"{where}: cannot be read ({reason})") from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}:{error.lineno}:{error.colno}: not valid JSON ({error.msg}); fetch the file again"
        ) from None
    except RecursionError:
        raise ConfigError(f"{where}: not a model configuration (nested too deeply)") from None
    if not isinstance(config, Mapping):
        raise ConfigError(f"{where}: expected a JSON object of settings, found {type(config).__name__}")
    folder = file.resolve().parent.name if file.name == "config.json" else file.stem
    return fields_from_hf(config, where=where, name=folder), where


def fields_from_hf(config: Mapping[str, Any], *, where: str, name: str) -> dict[str, Any]:
    """Return the fields of a :class:`MoEModel` from a configuration already parsed. Raises ConfigError."""
    sections = nested_sections(config)
    keys = HfKeys(_first_text(sections[0]), where)
    for outer in sections[1:]:
        for key in ("tie_word_embeddings", "vocab_size", "model_type"):
            if outer.get(key) is not None:
                keys.values.setdefault(key, outer[key])
    _check_is_moe(keys)

    n_layers = keys.need("n_layers")
    if not 1 <= n_layers <= 10_000:
        raise ConfigError(f"{where}: the number of layers is {n_layers}; expected 1 to 10000")
    n_experts, top_k = keys.need("n_experts"), keys.need("top_k")
    layers = moe_layers(keys, n_layers)
    d_ffn, dense_width = _widths(keys)
    n_shared, shared_width = _shared(keys, d_ffn)
    family = keys.model_type
    values: dict[str, Any] = {
        "name": str(config.get("_name_or_path") or "").rstrip("/").split("/")[-1] or name or family,
        "source": where,
        "d_model": keys.need("d_model"),
        "d_ffn": d_ffn,
        "n_experts": n_experts,
        "top_k": top_k,
        "n_shared_experts": n_shared,
        "shared_d_ffn": shared_width,
        "n_layers": n_layers,
        "attention": _attention(keys),
        "vocab_size": keys.need("vocab_size"),
        "tied_embeddings": keys.flag("tie_word_embeddings"),
        "norm": "layernorm" if family in {"phimoe", "dbrx"} else "rmsnorm",
        "router": "attention" if keys.text("router_type") == "attn_router" or family == "yuan" else "linear",
        "router_bias": family in BIASED_EXPERTS | CORRECTION_BIAS,
        "expert_bias": family in BIASED_EXPERTS,
        "shared_expert_gate": bool(n_shared) and family.startswith("qwen"),
        "lm_head_bias": keys.flag("lm_head_bias"),
        "notes": _notes(keys),
    }
    if layers == tuple(range(n_layers - len(layers), n_layers)):
        values["first_dense_layers"] = n_layers - len(layers)
    else:
        values["moe_layer_ids"] = layers
    if len(layers) < n_layers:
        if dense_width is None:
            dense_width = keys.need("ffn_width")
        values["dense_d_ffn"] = dense_width
    return values


def _first_text(section: Mapping[str, Any]) -> dict[str, Any]:
    # ERNIE-VL lists [text, image] values under one key; only the first set of experts sees text.
    values, family = dict(section), str(section.get("model_type", ""))
    if family.startswith("ernie") and "vl" in family:
        for key, value in section.items():
            if key.startswith("moe_") and isinstance(value, list) and value:
                values[key] = value[0]
    return values


def _check_is_moe(keys: HfKeys) -> None:
    family = keys.model_type
    experts = ALIASES["n_experts"][1]
    switched_off = any(keys.values.get(key) is False for key in ("enable_moe_block", "is_moe", "use_moe"))
    if switched_off or not keys.find("n_experts"):
        why = "its MoE blocks are switched off" if switched_off else f"none of {', '.join(experts)} is set above 0"
        raise ConfigError(
            f"{keys.where}: '{family}' is not a Mixture-of-Experts model: {why}; give the config.json of an MoE model"
        )
    reason = NOT_GATED.get(family)
    if reason is None and keys.text("mlp_hidden_act").startswith("relu2"):
        reason = "experts of two matrices (up, down)"
    if reason is not None:
        raise ConfigError(
            f"{keys.where}: '{family}' has {reason}; only gated experts (gate, up, down on the hidden size)"
            " are modelled: write a model YAML of nearly the same size instead"
        )


def _widths(keys: HfKeys) -> tuple[int, int | None]:
    """Return the columns of one routed expert and of a dense layer (None where nothing says)."""
    ffn, dense = keys.find("ffn_width"), keys.find("dense_width")
    expert = keys.find("expert_width")
    if expert is None:
        expert = keys.need("ffn_width")
    return expert, dense if dense is not None else ffn


def _shared(keys: HfKeys, d_ffn: int) -> tuple[int, int]:
    """Return the number of shared experts and the columns of one."""
    family = keys.model_type
    if family in {"gemma4_text", "diffusion_gemma_text"}:
        return 1, keys.need("ffn_width")
    if family == "llama4_text":
        return 1, d_ffn
    if family == "hunyuan_v1_moe":
        return keys.find("n_shared") or 1, d_ffn
    number, width = keys.find("n_shared"), keys.find("shared_width")
    if width is None:
        width = d_ffn
        number = number or 0
    elif number is None:
        number = 1
    return (number, width) if number and width else (0, 0)


def _attention(keys: HfKeys) -> dict[str, Any]:
    family, n_heads = keys.model_type, keys.need("n_heads")
    n_kv_heads = keys.find("n_kv_heads") or n_heads
    if keys.integer("kv_lora_rank"):
        rope = keys.integer("qk_rope_head_dim")
        return {
            "kind": "mla",
            "n_heads": n_heads,
            "n_kv_heads": n_heads,
            "q_lora_rank": keys.integer("q_lora_rank") or None,
            "kv_lora_rank": keys.integer("kv_lora_rank"),
            "qk_nope_head_dim": keys.integer("qk_nope_head_dim", 128),
            "qk_rope_head_dim": rope,
            "v_head_dim": keys.integer("v_head_dim", 128),
        }
    projection = keys.integer("attention_projection_size")
    head_dim = (
        projection // max(n_heads, 1)
        if projection
        else keys.find("head_dim") or keys.need("d_model") // max(n_heads, 1)
    )
    bias = "none"
    if family in QKV_BIAS and keys.flag("qkv_bias", True):
        bias = "qkv"
    elif keys.flag("attention_bias"):
        bias = "qkv" if family in QKV_ONLY else "qkvo"
    weighted = family in HEAD_NORM or (keys.flag("use_qk_norm") and family != "llama4_text")
    qk_norm = "head" if weighted else "none"
    return {
        "kind": "lfa" if family == "yuan" else "gqa",
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "head_dim": head_dim,
        "bias": bias,
        "qk_norm": "full" if family in FULL_NORM else qk_norm,
        "sinks": family in BIASED_EXPERTS,
    }


def _notes(keys: HfKeys) -> tuple[str, ...]:
    family, notes = keys.model_type, []
    if family not in COUNTED:
        notes.append(f"everything but the experts of '{family}' is counted in its plain form; the total is approximate")
    if keys.integer("zero_expert_num"):
        notes.append(
            f"{keys.integer('zero_expert_num')} experts without computation are left out: a token may take fewer than"
            " top_k experts"
        )
    if family == "longcat_flash":
        notes.append("of the two attention blocks per layer one is counted, of the two dense MLPs none")
    if "vl" in family and family.startswith("ernie"):
        notes.append("image experts are left out")
    return tuple(notes)
