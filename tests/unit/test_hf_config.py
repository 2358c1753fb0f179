"""Hugging Face configurations of every family, reduced to their keys, and what is wrong with bad ones."""

import contextlib
import json

import pytest

from expertstream.errors import ConfigError
from expertstream.model import MoEModel
from expertstream.model.hf import fields_from_hf

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "intermediate_size": 96,
}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
DEEPSEEK = BASE | {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
QWEN = BASE | {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1, "mlp_only_layers": []}
ALL = (0, 1, 2, 3)
LATER = (1, 2, 3)


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


# name -> configuration, (experts, per token, d_ffn), (shared experts, columns of one), MoE layers, dense columns
FAMILIES = {
    "mixtral": (BASE | {"num_local_experts": 8, "num_experts_per_tok": 2}, (8, 2, 96), (0, 0), ALL, 0),
    "qwen2_moe": (
        QWEN | {"num_experts": 8, "shared_expert_intermediate_size": 128},
        (8, 2, 32),
        (1, 128),
        ALL,
        0,
    ),
    "qwen3_moe": (QWEN | {"num_experts": 8, "head_dim": 16}, (8, 2, 32), (0, 0), ALL, 0),
    "qwen3_moe, num_local_experts": (QWEN | {"num_local_experts": 8}, (8, 2, 32), (0, 0), ALL, 0),
    "qwen3_moe, every second layer": (
        QWEN | {"num_experts": 8, "decoder_sparse_step": 2},
        (8, 2, 32),
        (0, 0),
        (1, 3),
        96,
    ),
    "qwen3_moe, dense layers listed": (
        QWEN | {"num_experts": 8, "mlp_only_layers": [0, 2]},
        (8, 2, 32),
        (0, 0),
        (1, 3),
        96,
    ),
    "qwen3_next": (
        QWEN | {"num_experts": 8, "shared_expert_intermediate_size": 32, "layer_types": ["linear_attention"] * 4},
        (8, 2, 32),
        (1, 32),
        ALL,
        0,
    ),
    "qwen3_5_moe": (
        {
            "text_config": without(QWEN, "intermediate_size", "decoder_sparse_step", "mlp_only_layers")
            | {"model_type": "qwen3_5_moe_text", "num_experts": 8, "shared_expert_intermediate_size": 32}
        },
        (8, 2, 32),
        (1, 32),
        ALL,
        0,
    ),
    "qwen3_omni_moe": (
        {"thinker_config": {"text_config": QWEN | {"model_type": "qwen3_omni_moe_text", "num_experts": 8}}},
        (8, 2, 32),
        (0, 0),
        ALL,
        0,
    ),
    "deepseek": (DEEPSEEK | {"moe_layer_freq": 1}, (8, 2, 32), (2, 32), LATER, 96),
    "deepseek_v2": (DEEPSEEK | MLA | {"moe_layer_freq": 1}, (8, 2, 32), (2, 32), LATER, 96),
    "deepseek_v3": (DEEPSEEK | MLA | {"num_nextn_predict_layers": 1}, (8, 2, 32), (2, 32), LATER, 96),
    "deepseek_v32": (
        DEEPSEEK | MLA | {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        (8, 2, 32),
        (2, 32),
        LATER,
        96,
    ),
    "deepseek_v4": (
        without(DEEPSEEK, "first_k_dense_replace", "intermediate_size")
        | {"mlp_layer_types": ["hash_moe", "moe", "moe", "moe"]},
        (8, 2, 32),
        (2, 32),
        ALL,
        0,
    ),
    "deepseek_vl_v2": ({"language_config": DEEPSEEK | MLA}, (8, 2, 32), (2, 32), LATER, 96),
    "kimi_k2": (DEEPSEEK | MLA, (8, 2, 32), (2, 32), LATER, 96),
    "kimi_linear": (
        without(DEEPSEEK | MLA, "n_routed_experts", "num_experts_per_tok", "n_shared_experts")
        | {"num_experts": 8, "num_experts_per_token": 2, "num_shared_experts": 1, "moe_layer_freq": 1},
        (8, 2, 32),
        (1, 32),
        LATER,
        96,
    ),
    "glm4_moe": (DEEPSEEK | {"attention_bias": True, "use_qk_norm": True}, (8, 2, 32), (2, 32), LATER, 96),
    "dots1": (DEEPSEEK, (8, 2, 32), (2, 32), LATER, 96),
    "bailing_moe": (
        without(DEEPSEEK, "n_routed_experts", "n_shared_experts") | {"num_experts": 8, "num_shared_experts": 1},
        (8, 2, 32),
        (1, 32),
        LATER,
        96,
    ),
    "afmoe": (
        without(DEEPSEEK, "n_routed_experts", "n_shared_experts", "first_k_dense_replace")
        | {"num_experts": 8, "num_shared_experts": 2, "num_dense_layers": 1},
        (8, 2, 32),
        (2, 32),
        LATER,
        96,
    ),
    "lfm2_moe": (
        without(QWEN, "decoder_sparse_step", "mlp_only_layers") | {"num_experts": 8, "num_dense_layers": 2},
        (8, 2, 32),
        (0, 0),
        (2, 3),
        96,
    ),
    "phimoe": (
        BASE | {"num_local_experts": 8, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True},
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "olmoe": (BASE | {"num_experts": 8, "num_experts_per_tok": 2}, (8, 2, 96), (0, 0), ALL, 0),
    "flex_olmo": (BASE | {"num_experts": 8, "num_experts_per_tok": 2}, (8, 2, 96), (0, 0), ALL, 0),
    "gpt_oss": (
        BASE | {"num_local_experts": 8, "experts_per_token": 2, "num_experts_per_tok": 2, "attention_bias": True},
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "gemma4": (
        {
            "tie_word_embeddings": True,
            "text_config": BASE
            | {
                "model_type": "gemma4_text",
                "enable_moe_block": True,
                "num_experts": 8,
                "top_k_experts": 2,
                "moe_intermediate_size": 32,
            },
        },
        (8, 2, 32),
        (1, 96),
        ALL,
        0,
    ),
    "yuan": (
        without(BASE, "num_key_value_heads")
        | {
            "attention_projection_size": 128,
            "ffn_hidden_size": 96,
            "moe_config": {"moe_num_experts": 8, "moe_top_k": 2, "router_type": "attn_router"},
        },
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "llama4": (
        {
            "text_config": BASE
            | {
                "model_type": "llama4_text",
                "num_local_experts": 8,
                "num_experts_per_tok": 1,
                "intermediate_size_mlp": 192,
                "interleave_moe_layer_step": 2,
            }
        },
        (8, 1, 96),
        (1, 96),
        (1, 3),
        192,
    ),
    "llama4_text": (
        BASE
        | {"num_local_experts": 8, "num_experts_per_tok": 1, "intermediate_size_mlp": 192, "moe_layers": [1, 3]}
        | {"interleave_moe_layer_step": 2},
        (8, 1, 96),
        (1, 96),
        (1, 3),
        192,
    ),
    "granitemoe": (BASE | {"num_local_experts": 8, "num_experts_per_tok": 2}, (8, 2, 96), (0, 0), ALL, 0),
    "granitemoeshared": (
        BASE | {"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
        (8, 2, 96),
        (1, 48),
        ALL,
        0,
    ),
    "granitemoehybrid": (
        BASE | {"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 0},
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "jamba": (
        BASE | {"num_experts": 8, "num_experts_per_tok": 2, "expert_layer_period": 2, "expert_layer_offset": 1},
        (8, 2, 96),
        (0, 0),
        (1, 3),
        96,
    ),
    "dbrx": (
        {
            "d_model": 64,
            "n_layers": 4,
            "n_heads": 8,
            "vocab_size": 100,
            "attn_config": {"kv_n_heads": 2, "model_type": ""},
            "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 8, "moe_top_k": 2, "model_type": ""},
        },
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "minimax": (BASE | {"num_local_experts": 8, "num_experts_per_tok": 2}, (8, 2, 96), (0, 0), ALL, 0),
    "minimax_m2": (
        BASE | {"num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 0},
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "minimax_m3_vl": (
        {
            "text_config": BASE
            | {"num_local_experts": 8, "num_experts_per_tok": 2, "dense_intermediate_size": 192}
            | {"shared_intermediate_size": 48, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
        },
        (8, 2, 96),
        (1, 48),
        LATER,
        192,
    ),
    "ernie4_5_moe": (
        BASE
        | {"moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 2, "moe_intermediate_size": 32}
        | {"moe_layer_start_index": 1, "moe_layer_end_index": -1, "moe_layer_interval": 1},
        (8, 2, 32),
        (2, 32),
        LATER,
        96,
    ),
    "ernie4_5_moe_vl": (
        BASE
        | {"moe_num_experts": [8, 8], "moe_k": 2, "moe_num_shared_experts": 2, "moe_intermediate_size": [32, 16]}
        | {"moe_layer_start_index": [1, 1], "moe_layer_end_index": [3, 3], "moe_layer_interval": 1},
        (8, 2, 32),
        (2, 32),
        LATER,
        96,
    ),
    "hunyuan_v1_moe": (
        BASE | {"num_experts": 8, "moe_topk": [2] * 4, "moe_intermediate_size": [96] * 4, "num_shared_expert": [1] * 4},
        (8, 2, 96),
        (1, 96),
        ALL,
        0,
    ),
    "hy_v3": (
        without(DEEPSEEK, "n_routed_experts", "n_shared_experts", "first_k_dense_replace")
        | {"num_experts": 8, "num_shared_experts": 1, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        (8, 2, 32),
        (1, 32),
        LATER,
        96,
    ),
    "aria": (
        {
            "text_config": BASE
            | {"model_type": "aria_text", "moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 2}
        },
        (8, 2, 96),
        (2, 96),
        ALL,
        0,
    ),
    "cohere2_moe": (
        BASE
        | {"num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 0, "prefix_dense_intermediate_size": 192}
        | {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        (8, 2, 96),
        (0, 0),
        LATER,
        192,
    ),
    "longcat_flash": (
        without(BASE, "num_hidden_layers", "intermediate_size")
        | MLA
        | {"num_layers": 4, "ffn_hidden_size": 96, "expert_ffn_hidden_size": 32, "n_routed_experts": 8}
        | {"moe_topk": 2, "zero_expert_num": 4},
        (8, 2, 32),
        (0, 0),
        ALL,
        0,
    ),
    "mimo_v2_flash": (
        without(DEEPSEEK, "n_shared_experts", "first_k_dense_replace") | {"moe_layer_freq": [0, 1, 1, 1]},
        (8, 2, 32),
        (0, 0),
        LATER,
        96,
    ),
    "step3p5": (
        BASE
        | {"moe_num_experts": 8, "moe_top_k": 2, "moe_intermediate_size": 32, "share_expert_dim": 48}
        | {"moe_layers_enum": "1,2,3"},
        (8, 2, 32),
        (1, 48),
        LATER,
        96,
    ),
    "jetmoe": (
        BASE | {"num_local_experts": 8, "num_experts_per_tok": 2, "kv_channels": 16},
        (8, 2, 96),
        (0, 0),
        ALL,
        0,
    ),
    "a family of tomorrow": (QWEN | {"num_moe_experts": 8}, (8, 2, 32), (0, 0), ALL, 0),
}


def write(tmp_path, config, name="config.json"):
    file = tmp_path / name
    file.write_text(json.dumps(config))
    return file


def family(name):
    config = FAMILIES[name][0]
    return {"model_type": name.split(",")[0]} | config


@pytest.mark.parametrize("name", FAMILIES)
def test_families(tmp_path, name):
    _, routed, shared, layers, dense = FAMILIES[name]
    model = MoEModel.from_hf_config(write(tmp_path, family(name)))
    assert (model.d_model, model.n_layers, model.vocab_size, model.attention.n_heads) == (64, 4, 100, 8)
    assert (model.n_experts, model.top_k, model.d_ffn) == routed
    assert (model.n_shared_experts, model.shared_d_ffn) == shared
    assert model.moe_layers == layers
    assert model.dense_d_ffn == dense


# What the model cards' configurations say, against the presets written from them.
PUBLISHED = {
    "phi-3.5-moe": BASE
    | {"model_type": "phimoe", "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2}
    | {"attention_bias": True, "lm_head_bias": True, "vocab_size": 32064, "tie_word_embeddings": False},
    "yuan2-m32": {"model_type": "yuan", "hidden_size": 2048, "intermediate_size": 8192, "ffn_hidden_size": 8192}
    | {"num_hidden_layers": 24, "num_attention_heads": 16, "attention_projection_size": 4096, "vocab_size": 135040}
    | {"tie_word_embeddings": True, "moe_config": {"moe_num_experts": 32, "moe_top_k": 2}},
    "deepseek-moe-16b": {"model_type": "deepseek", "hidden_size": 2048, "intermediate_size": 10944}
    | {"moe_intermediate_size": 1408, "num_hidden_layers": 28, "n_shared_experts": 2, "n_routed_experts": 64}
    | {"num_experts_per_tok": 6, "moe_layer_freq": 1, "first_k_dense_replace": 1, "num_attention_heads": 16}
    | {"num_key_value_heads": 16, "vocab_size": 102400},
    "qwen3-30b-a3b": {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "head_dim": 128}
    | {"num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "moe_intermediate_size": 768}
    | {"num_local_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936, "decoder_sparse_step": 1},
    "mixtral-8x7b": {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "head_dim": None}
    | {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}
    | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe-1b-7b": {"model_type": "olmoe", "hidden_size": 2048, "intermediate_size": 1024, "vocab_size": 50304}
    | {"num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64}
    | {"num_experts_per_tok": 8},
    "gpt-oss-20b": {"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64}
    | {"num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 32}
    | {"experts_per_token": 4, "num_experts_per_tok": 4, "vocab_size": 201088, "attention_bias": True},
    "deepseek-v2-lite": {"model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944}
    | {"moe_intermediate_size": 1408, "num_hidden_layers": 27, "n_shared_experts": 2, "n_routed_experts": 64}
    | {"num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1, "num_attention_heads": 16}
    | {"num_key_value_heads": 16, "vocab_size": 102400, "q_lora_rank": None, "kv_lora_rank": 512}
    | {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
    "qwen1.5-moe-a2.7b": {"model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632}
    | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_hidden_layers": 24}
    | {"num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4}
    | {"vocab_size": 151936, "decoder_sparse_step": 1},
    "deepseek-v3": {"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432}
    | {"moe_intermediate_size": 2048, "num_hidden_layers": 61, "n_shared_experts": 1, "n_routed_experts": 256}
    | {"num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1, "num_attention_heads": 128}
    | {"num_key_value_heads": 128, "vocab_size": 129280, "q_lora_rank": 1536, "kv_lora_rank": 512}
    | {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration_gives_the_preset(tmp_path, name):
    preset = MoEModel.preset(name)
    read = MoEModel.from_hf_config(write(tmp_path, PUBLISHED[name]), name=name)
    own = {"source", "published_total_params", "published_active_params"}
    assert read.model_dump(exclude=own) == preset.model_dump(exclude=own)


def test_a_folder_gives_its_name(tmp_path):
    folder = tmp_path / "my-moe"
    folder.mkdir()
    file = write(folder, family("mixtral"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert MoEModel.from_hf_config(folder).name == "my-moe"
    assert MoEModel.from_hf_config(str(file), name="other").name == "other"
    assert MoEModel.from_hf_config(folder).source == str(file)


def test_yuan_attention_and_router(tmp_path):
    model = MoEModel.from_hf_config(write(tmp_path, family("yuan")))
    assert (model.attention.kind, model.attention.head_dim, model.router) == ("lfa", 16, "attention")


def test_the_outer_configuration_says_that_embeddings_are_tied(tmp_path):
    assert MoEModel.from_hf_config(write(tmp_path, family("gemma4"))).tied_embeddings


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (
            "qwen3_next",
            "everything but the experts of 'qwen3_next' is counted in its plain form; the total is approximate",
        ),
        (
            "longcat_flash",
            "4 experts without computation are left out: a token may take fewer than top_k experts",
        ),
        ("ernie4_5_moe_vl", "image experts are left out"),
    ],
)
def test_what_is_left_out_is_noted(tmp_path, name, note):
    assert note in MoEModel.from_hf_config(write(tmp_path, family(name))).notes


GOOD = family("qwen3_moe")
WRONG = {
    "two names for the experts": (
        GOOD | {"num_local_experts": 16},
        "{f}: num_experts = 8 and num_local_experts = 16 disagree on the number of experts; keep one",
    ),
    "two names for the experts per token": (
        GOOD | {"moe_top_k": 1},
        "{f}: num_experts_per_tok = 2 and moe_top_k = 1 disagree on the number of experts per token; keep one",
    ),
    "inner and outer": (
        GOOD | {"moe_config": {"num_experts": 4}},
        "{f}: num_experts = 8 and moe_config.num_experts = 4 disagree; keep one",
    ),
    "inner and outer under two names": (
        GOOD | {"moe_config": {"moe_num_experts": 4}},
        "{f}: num_experts = 8 and moe_num_experts = 4 disagree on the number of experts; keep one",
    ),
    "two rules for the dense layers": (
        GOOD | {"first_k_dense_replace": 1},
        "{f}: first_k_dense_replace (3 layers) and decoder_sparse_step (4 layers) disagree on which layers have"
        " experts; keep one",
    ),
    "not MoE": (
        BASE | {"model_type": "llama"},
        "{f}: 'llama' is not a Mixture-of-Experts model: none of num_experts, n_routed_experts, num_local_experts,"
        " moe_num_experts, num_moe_experts is set above 0; give the config.json of an MoE model",
    ),
    "no experts": (
        BASE | {"model_type": "granitemoehybrid", "num_local_experts": 0, "num_experts_per_tok": 0},
        "{f}: 'granitemoehybrid' is not a Mixture-of-Experts model: none of num_experts, n_routed_experts,"
        " num_local_experts, moe_num_experts, num_moe_experts is set above 0; give the config.json of an MoE model",
    ),
    "switched off": (
        {"text_config": family("gemma4")["text_config"] | {"enable_moe_block": False}},
        "{f}: 'gemma4_text' is not a Mixture-of-Experts model: its MoE blocks are switched off; give the config.json"
        " of an MoE model",
    ),
    "not gated": (
        DEEPSEEK | {"model_type": "nemotron_h", "mlp_hidden_act": "relu2"},
        "{f}: 'nemotron_h' has experts of two matrices (up, down); only gated experts (gate, up, down on the hidden"
        " size) are modelled: write a model YAML of nearly the same size instead",
    ),
    "not gated, family unknown": (
        DEEPSEEK | {"model_type": "other", "mlp_hidden_act": "relu2"},
        "{f}: 'other' has experts of two matrices (up, down); only gated experts (gate, up, down on the hidden"
        " size) are modelled: write a model YAML of nearly the same size instead",
    ),
    "missing key": (
        without(GOOD, "num_experts_per_tok"),
        "{f}: the number of experts per token is missing; expected one of num_experts_per_tok, num_experts_per_token,"
        " experts_per_token, moe_top_k, moe_topk, moe_k, top_k_experts, num_activated_experts",
    ),
    "missing hidden size": (
        without(GOOD, "hidden_size"),
        "{f}: the hidden size is missing; expected one of hidden_size, d_model, n_embd",
    ),
    "dense layers without a width": (
        without(GOOD, "intermediate_size") | {"decoder_sparse_step": 2},
        "{f}: the feed-forward width is missing; expected one of intermediate_size, ffn_hidden_size",
    ),
    "text for a number": (
        GOOD | {"num_experts": "many"},
        "{f}: num_experts = 'many'; expected one whole number of at least 0",
    ),
    "negative": (
        GOOD | {"num_experts": -8},
        "{f}: num_experts = -8; expected one whole number of at least 0",
    ),
    "a fraction": (
        GOOD | {"hidden_size": 64.5},
        "{f}: hidden_size = 64.5; expected one whole number of at least 0",
    ),
    "layers that differ": (
        GOOD | {"num_experts": [8, 8, 8, 4]},
        "{f}: num_experts = [8, 8, 8, 4]; expected one whole number of at least 0",
    ),
    "no MoE layer": (
        GOOD | {"mlp_only_layers": [0, 1, 2, 3]},
        "{f}: decoder_sparse_step leaves none of the 4 layers with experts",
    ),
    "layer kinds": (
        without(GOOD, "decoder_sparse_step", "mlp_only_layers") | {"mlp_layer_types": ["dense", "odd"]},
        "{f}: mlp_layer_types must name 'dense' or 'sparse' for each of the 4 layers (given: 2 entries,"
        " among them odd)",
    ),
    "layer numbers": (
        GOOD | {"moe_layers_enum": "1,x"},
        "{f}: moe_layers_enum must list layer numbers (given: ['1', 'x'])",
    ),
    "short frequency list": (
        without(GOOD, "decoder_sparse_step", "mlp_only_layers") | {"moe_layer_freq": [0, 1]},
        "{f}: moe_layer_freq has 2 entries for 4 layers",
    ),
    "more per token than experts": (
        GOOD | {"num_experts_per_tok": 9},
        "{f}: top_k = 9 must not exceed n_experts = 8",
    ),
    "no vocabulary": (
        GOOD | {"vocab_size": 0},
        "{f}: vocab_size: Input should be greater than or equal to 1 (given: 0)",
    ),
    "no heads": (
        GOOD | {"num_attention_heads": 0, "num_key_value_heads": 0},
        "{f}: attention.n_heads: Input should be greater than or equal to 1 (given: 0)",
    ),
    "a list": ([1, 2], "{f}: expected a JSON object of settings, found list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_configurations(tmp_path, case):
    config, message = WRONG[case]
    file = write(tmp_path, config)
    with pytest.raises(ConfigError) as caught:
        MoEModel.from_hf_config(file)
    assert str(caught.value) == message.replace("{f}", str(file))


def test_missing_file(tmp_path):
    for path in (tmp_path / "config.json", tmp_path):
        with pytest.raises(ConfigError) as caught:
            MoEModel.from_hf_config(path)
        assert str(caught.value) == (
            f"{tmp_path / 'config.json'}: no such file; give a Hugging Face config.json or the folder that holds it"
        )


def test_broken_json(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{\n  "hidden_size": 64,\n  "num')
    with pytest.raises(ConfigError) as caught:
        MoEModel.from_hf_config(file)
    assert str(caught.value) == (f"{file}:3:3: not valid JSON (Unterminated string starting at); fetch the file again")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 100_000])
def test_other_rubbish(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        MoEModel.from_hf_config(file)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_value_in_any_place_is_read_or_refused(name):
    def places(config):
        for key, value in config.items():
            yield config, key
            if isinstance(value, dict):
                yield from places(value)

    config = json.loads(json.dumps(family(name)))
    for section, key in list(places(config)):
        kept = section[key]
        for junk in (None, 0, 1, -1, 3, 10**12, 2.5, "x", True, [], {}, ["x"] * 4, [None], {"hidden_size": 1}):
            section[key] = junk
            with contextlib.suppress(ConfigError):
                MoEModel._build(fields_from_hf(config, where="here", name="junk"), "here")
        section[key] = kept
