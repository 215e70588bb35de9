"""Configurations of masked diffusion families: switches that are off in all published files, and defaults."""

import pytest
from configurations.case import hf_dict
from configurations.masked import DREAM, LLADA, LLADA2, LLADA_MOE
from published_configs import published, without

import jaxmodels as jm
from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.models.filling import MaskFilling

CASES = {case.family: hf_dict(case) for case in (LLADA[0], LLADA_MOE[0], DREAM[0], LLADA2[0])}


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llada", "alibi", True),
        ("llada", "rope", False),
        ("llada", "block_type", "sequential"),
        ("llada", "block_group_size", 2),
        ("llada", "layer_norm_type", "default"),
        ("llada", "layer_norm_with_affine", False),
        ("llada", "bias_for_layer_norm", True),
        ("llada", "attention_layer_norm", True),
        ("llada", "include_bias", True),
        ("llada", "input_emb_norm", True),
        ("llada", "multi_query_attention", True),
        ("llada", "scale_logits", True),
        ("llada", "activation_type", "swiglu"),
        ("llada", "embedding_size", 56),
        ("lladamoe", "qk_layernorm", False),
        ("lladamoe", "clip_qkv", 8.0),
        ("lladamoe", "norm_topk_prob", True),
        ("lladamoe", "moe_router_enable_expert_bias", True),
        ("lladamoe", "moe_router_score_function", "sigmoid"),
        ("lladamoe", "routed_scaling_factor", 2.5),
        ("lladamoe", "router_num_group", 4),
        ("lladamoe", "shared_expert_intermediate_size", 10),
        ("lladamoe", "moe_layer_freq", [1]),
        ("Dream", "use_sliding_window", True),
        ("Dream", "use_mrope", True),
        ("llada2_moe", "norm_head", True),
        ("llada2_moe", "norm_softmax", True),
        ("llada2_moe", "use_bias", True),
        ("llada2_moe", "use_rmsnorm", False),
        ("llada2_moe", "use_sliding_window", True),
        ("llada2_moe", "using_split_qkv_in_self_attention", True),
        ("llada2_moe", "score_function", "softmax"),
        ("llada2_moe", "norm_topk_prob", False),
        ("llada2_moe", "moe_router_enable_expert_bias", False),
        ("llada2_moe", "rotary_dim", 8),
        ("llada2_moe", "block_size", 0),
    ],
)
def test_a_switch_that_is_turned_on_is_refused(family, key, value):
    with pytest.raises(jm.ConfigError, match=key):
        jm.config_from_hf(CASES[family] | {key: value})


@pytest.mark.parametrize("key", ["block_type", "layer_norm_type", "rope", "activation_type"])
def test_a_switch_of_llada_whose_default_is_another_model_must_be_there(key):
    with pytest.raises(jm.ConfigError, match=f"key '{key}' is missing"):
        jm.config_from_hf(without(CASES["llada"], key))


@pytest.mark.parametrize(
    ("name", "token", "offset", "mask"),
    [
        ("llada--LLaDA-8B-Instruct", 126_336, 0, BIDIRECTIONAL),
        ("Dream--Dream-v0-Instruct-7B", 151_666, 1, BIDIRECTIONAL),
        ("llada2_moe--LLaDA2.0-mini", 156_895, 0, BlockCausal(32)),
        ("llada2_moe--LLaDA2.1-mini", 156_895, 0, BlockCausal(32)),
    ],
)
def test_published_models_say_how_they_fill_masks(name, token, offset, mask):
    """With the key `mask_token_id` and without it."""
    for values in (published(name), without(published(name), "mask_token_id")):
        config = jm.config_from_hf(values)
        assert config.filling == MaskFilling(mask_token=token, offset=offset)
        assert config.mask == mask


@pytest.mark.parametrize("family", CASES)
def test_a_mask_token_is_one_of_the_vocabulary(family):
    values = CASES[family]
    for broken in (without(values, "mask_token_id"), values | {"mask_token_id": 61}):
        with pytest.raises(
            jm.ConfigError, match=r"key 'mask_token_id' is .* \(vocab_size\) = 61; that of the"
        ):
            jm.config_from_hf(broken)


def test_experts_make_the_configuration_one_of_llada_moe():
    values = CASES["lladamoe"]
    assert values["model_type"] == "llada"
    config = jm.config_from_hf(values)
    assert config.family == "lladamoe"
    assert jm.config_from_hf(values | {"model_type": "lladamoe"}) == config
    assert jm.config_to_hf(config)["model_type"] == "llada"
    assert jm.config_from_hf(CASES["llada"]).family == "llada"
