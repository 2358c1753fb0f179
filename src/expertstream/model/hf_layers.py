"""Which layers of a Hugging Face configuration have routed experts."""

from __future__ import annotations

from typing import Any

from expertstream.errors import ConfigError
from expertstream.model.hf_keys import HfKeys

_SPARSE = {"sparse", "moe", "hash_moe"}


def moe_layers(keys: HfKeys, n_layers: int) -> tuple[int, ...]:
    """Return the numbers of the MoE layers, ascending.

    Every rule that the configuration states is applied; two rules with different answers are an error, as is a
    configuration whose rules leave no MoE layer.
    """
    answers: dict[str, tuple[int, ...]] = {}
    for rule in (_by_type_list, _by_id_list, _by_dense_prefix, _by_step, _by_period, _by_range):
        answer = rule(keys, n_layers)
        if answer is not None:
            answers[answer[0]] = tuple(answer[1])
    if len(set(answers.values())) > 1:
        listed = " and ".join(f"{name} ({len(layers)} layers)" for name, layers in answers.items())
        raise ConfigError(f"{keys.where}: {listed} disagree on which layers have experts; keep one")
    layers = next(iter(answers.values()), tuple(range(n_layers)))
    if not layers:
        raise ConfigError(f"{keys.where}: {next(iter(answers))} leaves none of the {n_layers} layers with experts")
    return layers


Answer = tuple[str, list[int]] | None


def _by_type_list(keys: HfKeys, n_layers: int) -> Answer:
    types = keys.values.get("mlp_layer_types")
    if not isinstance(types, list):
        return None
    unknown = sorted({str(kind) for kind in types} - _SPARSE - {"dense"})
    if unknown or len(types) < n_layers:
        raise ConfigError(
            f"{keys.where}: mlp_layer_types must name 'dense' or 'sparse' for each of the {n_layers} layers"
            f" (given: {len(types)} entries{', among them ' + ', '.join(unknown) if unknown else ''})"
        )
    return "mlp_layer_types", [i for i in range(n_layers) if types[i] in _SPARSE]


def _by_id_list(keys: HfKeys, n_layers: int) -> Answer:
    for name in ("moe_layers", "moe_layers_enum"):
        ids: Any = keys.values.get(name)
        if isinstance(ids, str):
            ids = ids.replace(" ", "").split(",")
        if not isinstance(ids, list):
            continue
        try:
            numbers = sorted({int(i) for i in ids})
        except (TypeError, ValueError):
            raise ConfigError(f"{keys.where}: {name} must list layer numbers (given: {ids!r})") from None
        return name, [i for i in numbers if 0 <= i < n_layers]
    step = keys.integer("interleave_moe_layer_step")
    return ("interleave_moe_layer_step", list(range(step - 1, n_layers, step))) if step else None


def _by_dense_prefix(keys: HfKeys, n_layers: int) -> Answer:
    first = keys.find("first_dense")
    every = keys.values.get("moe_layer_freq")
    if isinstance(every, list):
        if len(every) < n_layers:
            raise ConfigError(f"{keys.where}: moe_layer_freq has {len(every)} entries for {n_layers} layers")
        return "moe_layer_freq", [i for i in range(n_layers) if every[i] and i >= (first or 0)]
    if first is None and every is None:
        return None
    step = keys.integer("moe_layer_freq", 1) or 1
    return "first_k_dense_replace", [i for i in range(first or 0, n_layers) if i % step == 0]


def _by_step(keys: HfKeys, n_layers: int) -> Answer:
    step = keys.integer("decoder_sparse_step")
    dense = keys.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise ConfigError(f"{keys.where}: mlp_only_layers must list layer numbers (given: {dense!r})")
    if not step and not dense:
        return None
    return "decoder_sparse_step", [i for i in range(n_layers) if i not in dense and (i + 1) % (step or 1) == 0]


def _by_period(keys: HfKeys, n_layers: int) -> Answer:
    period = keys.integer("expert_layer_period")
    if not period:
        return None
    return "expert_layer_period", [i for i in range(n_layers) if i % period == keys.integer("expert_layer_offset")]


def _by_range(keys: HfKeys, n_layers: int) -> Answer:
    if "moe_layer_start_index" not in keys.values and "moe_layer_interval" not in keys.values:
        return None
    first, last = (_bound(keys, name, default) for name, default in (("start", 0), ("end", n_layers - 1)))
    last = n_layers - 1 if last < 0 else min(last, n_layers - 1)
    step = keys.integer("moe_layer_interval", 1) or 1
    return "moe_layer_start_index", [i for i in range(n_layers) if first <= i <= last and (i + 1) % step == 0]


def _bound(keys: HfKeys, name: str, default: int) -> int:
    value = keys.values.get(f"moe_layer_{name}_index", default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{keys.where}: moe_layer_{name}_index = {value!r}; expected a layer number")
    return value
