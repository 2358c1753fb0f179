"""What the configuration of a family does not say, by its ``model_type``."""

# Families whose experts are not gated MLPs on d_model, and what they are instead.
NOT_GATED = {
    "nemotron_h": "experts of two matrices (up, down)",
    "nemotron3_5_transcribe": "experts of two matrices (up, down)",
    "nllb-moe": "experts of two matrices and an encoder",
    "switch_transformers": "experts of two matrices and an encoder",
    "doge": "experts that are single embedding rows",
    "doge2": "experts that are single embedding rows",
    "muse_spark_text": "experts that work on a narrower latent vector",
}
QKV_BIAS = {"qwen2_moe", "qwen2_moe_text"}
QKV_ONLY = {"glm4_moe", "glm4v_moe_text"}
HEAD_NORM = {
    "qwen3_moe",
    "qwen3_vl_moe_text",
    "qwen3_omni_moe_text",
    "qwen3_omni_moe_talker_text",
    "hunyuan_v1_moe",
    "hy_v3",
    "exaone_moe",
    "dots1",
    "afmoe",
    "lfm2_moe",
}
FULL_NORM = {"olmoe", "flex_olmo", "minimax_m2"}
BIASED_EXPERTS = {"gpt_oss", "openai_privacy_filter"}
CORRECTION_BIAS = {"deepseek_v3", "kimi_k2", "glm4_moe", "glm4v_moe_text", "dots1", "minimax_m2", "solar_open"}
# Families whose parameters, counted here, agree with the model itself to 0.01 %.
COUNTED = frozenset(
    [
        "aria_text",
        "axk1",
        "cohere2_moe",
        "dbrx",
        "deepseek",
        "deepseek_ocr2_text",
        "deepseek_v2",
        "deepseek_v3",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "flex_olmo",
        "flint",
        "glm4_moe",
        "glm4_moe_lite",
        "glm4v_moe_text",
        "gpt_oss",
        "granitemoe",
        "granitemoe_swa",
        "granitemoeshared",
        "hy_v3",
        "hunyuan_v1_moe",
        "kimi_k2",
        "kolibri1",
        "laguna",
        "llama4_text",
        "mellum",
        "minimax_m2",
        "minimax_m3_vl_text",
        "mistral4",
        "mixtral",
        "olmoe",
        "openai_privacy_filter",
        "phimoe",
        "qwen2_moe",
        "qwen3_moe",
        "qwen3_omni_moe_text",
        "qwen3_vl_moe_text",
        "solar_open",
        "step3p5",
        "unlimited_ocr_text",
        "yuan",
    ]
)
