"""Each preset's total, recomputed from its shape, must round to the published figure."""

import math
from pathlib import Path

import pytest

from expertstream.errors import ConfigError
from expertstream.model import AttentionSpec, MoEModel

# Published total in B with its last digit's unit, exact count of the released weights where an independent
# instantiation of the architecture gives it (None: not available), published active in B,
# and whether that active figure leaves out the input embedding.
PUBLISHED = {
    "phi-3.5-moe": (41.9, 0.1, 41_873_153_344, 6.6, False),
    "yuan2-m32": (40.0, 1.0, None, 3.7, False),
    "deepseek-moe-16b": (16.4, 0.1, None, 2.8, False),
    "qwen3-30b-a3b": (30.5, 0.1, 30_532_122_624, 3.3, False),
    "mixtral-8x7b": (46.7, 0.1, 46_702_792_704, 12.9, False),
    "olmoe-1b-7b": (6.9, 0.1, 6_919_161_856, 1.3, False),
    "gpt-oss-20b": (20.91, 0.01, 20_914_757_184, 3.61, True),
    "deepseek-v2-lite": (15.7, 0.1, 15_706_484_224, 2.4, True),
    "qwen1.5-moe-a2.7b": (14.3, 0.1, 14_315_784_192, 2.7, False),
    "deepseek-v3": (671.0, 1.0, 671_026_419_200, 37.0, False),
}


def test_the_table_covers_every_preset():
    assert sorted([*PUBLISHED, "phi-3.5-moe-paper", "yuan2-m32-paper"]) == MoEModel.preset_names()


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_rounds_to_the_published_figure(name):
    total, unit, exact, _, _ = PUBLISHED[name]
    model = MoEModel.preset(name)
    assert model.name == name
    assert model.published_total_params == round(total * 1e9)
    assert abs(model.total_params / 1e9 - total) <= unit / 2  # tolerance: half a unit of the last published digit
    if exact is not None:
        assert model.total_params == exact


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_wrong_shape_misses_the_published_figure(name):
    total, unit, _, _, _ = PUBLISHED[name]
    model = MoEModel.preset(name)
    wrong = [
        model.replace(n_experts=model.n_experts - 1),
        model.replace(d_ffn=model.d_ffn * 63 // 64),
        model.replace(n_layers=model.n_layers - 1),
    ]
    if model.n_shared_experts:
        wrong.append(model.replace(n_shared_experts=0, shared_d_ffn=0))
    for other in wrong:
        assert abs(other.total_params / 1e9 - total) > unit / 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_active_parameters(name):
    _, _, _, active, without_embedding = PUBLISHED[name]
    model = MoEModel.preset(name)
    assert model.published_active_params == round(active * 1e9)
    counted = model.active_params - (model.vocab_size * model.d_model if without_embedding else 0)
    assert counted / 1e9 == pytest.approx(active, rel=0.03)  # authors count embeddings and norms differently


@pytest.mark.parametrize(("name", "d_ffn", "published_d_ffn"), [("phi-3.5-moe", 3200, 6400), ("yuan2-m32", 4096, 8192)])
def test_paper_variants_differ_in_d_ffn_alone(name, d_ffn, published_d_ffn):
    paper, published = MoEModel.preset(f"{name}-paper"), MoEModel.preset(name)
    assert (paper.d_ffn, published.d_ffn) == (d_ffn, published_d_ffn)
    same = {"name": paper.name, "source": paper.source, "notes": paper.notes, "d_ffn": d_ffn}
    assert published.replace(**same) == paper
    assert paper.published_total_params is None
    assert paper.total_params < 0.55 * published.total_params  # the table's d_ffn cannot give the table's total


def test_the_paper_table():
    table = {
        "phi-3.5-moe-paper": (4096, 3200, 16, 2, 0, 32),
        "yuan2-m32-paper": (2048, 4096, 32, 2, 0, 16),
        "deepseek-moe-16b": (2048, 1408, 64, 6, 2, 16),
        "qwen3-30b-a3b": (2048, 768, 128, 8, 0, 32),
    }
    for name, row in table.items():
        m = MoEModel.preset(name)
        assert (m.d_model, m.d_ffn, m.n_experts, m.top_k, m.n_shared_experts, m.attention.n_heads) == row


def test_expert_sizes_and_layers():
    model = MoEModel.preset("deepseek-v3")
    assert model.moe_layers == tuple(range(3, 61))
    assert model.expert_weights == 3 * 7168 * 2048 == model.expert_bytes == model.shared_expert_bytes
    assert model.replace(weight_bits=4).expert_bytes == 3 * 7168 * 2048 // 2
    odd = MoEModel.one_layer(d_model=3, d_ffn=1, n_experts=2, top_k=1, weight_bits=4)
    assert odd.expert_bytes == math.ceil(9 * 4 / 8)
    assert (odd.weight_bits, odd.activation_bits, odd.partial_sum_bits) == (4, 16, 32)
    assert odd.moe_layers == (0,)


def test_layers_by_number():
    model = MoEModel.preset("olmoe-1b-7b").replace(moe_layer_ids=(1, 3), dense_d_ffn=10, published_total_params=5)
    assert model.moe_layers == (1, 3)
    assert model.published_total_params == 5
    attention = 2048 * 2048 * 4 + 2 * 2048
    expected = 16 * (attention + 2 * 2048) + 2048 + 2 * 50304 * 2048
    expected += 2 * 64 * (3 * 2048 * 1024 + 2048) + 14 * 3 * 2048 * 10
    assert model.total_params == expected


def test_published_figures_leave_with_the_shape():
    model = MoEModel.preset("mixtral-8x7b")
    assert model.replace(weight_bits=4).published_total_params == 46_700_000_000
    assert model.replace(n_layers=2).published_total_params is None


def test_replace_reaches_into_the_attention():
    model = MoEModel.preset("mixtral-8x7b").replace(**{"attention.n_kv_heads": 32})
    assert model.attention == AttentionSpec(n_heads=32, n_kv_heads=32, head_dim=128)


def test_a_model_is_frozen_and_hashable():
    model = MoEModel.preset("mixtral-8x7b")
    with pytest.raises(ValueError, match="frozen"):
        model.top_k = 3
    assert hash(model) == hash(MoEModel.preset("mixtral-8x7b"))


def test_summary():
    assert MoEModel.preset("deepseek-moe-16b").summary() == (
        "deepseek-moe-16b: 64 experts, 6 per token + 2 shared of 1408 columns\n"
        "d_model 2048, d_ffn 1408, 28 layers: 27 MoE, 1 dense of 10944 columns\n"
        "one expert 8.65 MB at 8 bits per weight\n"
        "attention gqa, 16 heads, 16 key-value heads\n"
        "parameters 16.38 B (published: 16.4 B), active 2.83 B\n"
        "source https://huggingface.co/deepseek-ai/deepseek-moe-16b-base"
    )
    assert (
        MoEModel.preset("phi-3.5-moe-paper")
        .summary()
        .endswith("note: d_ffn is 3200 as in the paper's table; the published config says 6400")
    )


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown model preset 'qwen3-30b'; did you mean 'qwen3-30b-a3b'\?"):
        MoEModel.preset("qwen3-30b")


LAYER = {"d_model": 8, "d_ffn": 4, "n_experts": 4, "top_k": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 5}, "replace: one-layer: top_k = 5 must not exceed n_experts = 4"),
        ({"d_ffn": 0}, "replace: one-layer: d_ffn: Input should be greater than or equal to 1 (given: 0)"),
        (
            {"n_shared_experts": 1},
            "replace: one-layer: n_shared_experts = 1 and shared_d_ffn = 0: give both above 0, or neither",
        ),
        (
            {"first_dense_layers": 1},
            "replace: one-layer: first_dense_layers = 1 leaves no MoE layer among n_layers = 1",
        ),
        (
            {"moe_layer_ids": (0, 0)},
            "replace: one-layer: moe_layer_ids must be ascending layer numbers within 0 to 0, at least one",
        ),
        (
            {"n_layers": 3, "moe_layer_ids": (0,)},
            "replace: one-layer: dense_d_ffn of at least 1 is needed where some layers are dense",
        ),
        (
            {"attention.n_kv_heads": 3},
            "replace: one-layer: attention: n_heads = 1 must be a multiple of n_kv_heads = 3",
        ),
        (
            {"attention.kind": "mla"},
            "replace: one-layer: attention: attention kind 'mla' needs kv_lora_rank, qk_nope_head_dim, v_head_dim"
            " of at least 1",
        ),
    ],
)
def test_refused_values(changes, message):
    with pytest.raises(ConfigError) as caught:
        MoEModel.one_layer(**LAYER).replace(**changes)
    assert str(caught.value) == message


def test_unknown_field_suggests_the_nearest():
    with pytest.raises(ConfigError) as caught:
        MoEModel.one_layer(**LAYER).replace(topk=1)
    assert str(caught.value).startswith("replace: the model has no field 'topk'; did you mean 'top_k'? Allowed: name, ")


def test_yaml_of_ones_own(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    text = (
        "name: mine\nsource: a test\nd_model: 8\nd_ffn: 4\nn_experts: 4\ntop_k: 2\nn_layers: 1\nvocab_size: 10\n"
        "attention: {n_heads: 2, n_kv_heads: 1, head_dim: 4}\n"
    )
    file.write_text(text)
    assert MoEModel.from_yaml(file).total_params == 2 * 80 + 3 * 8 + (2 * 64 + 2 * 32) + 4 * 8 + 4 * 96
    file.write_text(text.replace("top_k", "topk"))
    with pytest.raises(ConfigError, match=r"mine.yaml:6:1: unknown key 'topk'; did you mean 'top_k'\?"):
        MoEModel.from_yaml(file)
