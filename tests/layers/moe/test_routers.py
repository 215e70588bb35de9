"""Routers against transformers' modules with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import random_params
from transformers import DeepseekV2Config, DeepseekV3Config, GptOssConfig, Lfm2MoeConfig, Qwen3MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.lfm2_moe.modeling_lfm2_moe import Lfm2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from jaxmodels.layers.moe import SigmoidTopK, SoftmaxTopK
from jaxmodels.layers.spec import abstract_params

D, E, K = 8, 12, 3


def tensor(array):
    return torch.tensor(np.asarray(array))


def dense(experts, weights):
    """[T, E] weights, to compare choices whatever their order."""
    table = np.zeros((len(experts), E))
    np.put_along_axis(table, np.asarray(experts), np.asarray(weights), axis=1)
    return table


def compare(router, module, *arguments):
    """Logits, choices and weights of our router and theirs on the same tokens."""
    params = random_params(router.spec())
    module.weight.data = tensor(params["w"])
    if "b" in params:
        module.bias.data = tensor(params["b"])
    if "selection_bias" in params and hasattr(module, "e_score_correction_bias"):
        module.e_score_correction_bias.copy_(tensor(params["selection_bias"]))
    x = np.random.default_rng(1).standard_normal((2, 20, D)).astype(np.float32)
    with torch.no_grad():
        given = [tensor(params[a]) if isinstance(a, str) else a for a in arguments]
        logits, weights, experts = module(torch.tensor(x).reshape(-1, D), *given)
    routing = router(params, jnp.asarray(x))
    np.testing.assert_allclose(routing.logits.reshape(-1, E), logits, rtol=1e-5, atol=1e-5)
    ours = dense(routing.experts.reshape(-1, K), routing.weights.reshape(-1, K))
    np.testing.assert_allclose(ours, dense(experts, weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(routing.dense_weights().reshape(-1, E), ours, rtol=1e-6)


@pytest.mark.parametrize("renormalise", [False, True])
def test_softmax_top_k_matches_qwen3_moe(renormalise):
    config = Qwen3MoeConfig(
        hidden_size=D, num_attention_heads=1, num_experts=E, num_experts_per_tok=K, norm_topk_prob=renormalise
    )
    router = SoftmaxTopK(d_model=D, num_experts=E, top_k=K, renormalise=renormalise)
    compare(router, Qwen3MoeTopKRouter(config))


@pytest.mark.parametrize("method", ["greedy", "group_limited_greedy"])
def test_group_limited_softmax_matches_deepseek_v2(method):
    config = DeepseekV2Config(
        hidden_size=D, num_attention_heads=1, n_routed_experts=E, num_experts=E,
        num_experts_per_tok=K, n_group=4, topk_group=2, topk_method=method, routed_scaling_factor=1.7,
    )  # fmt: skip
    groups = {"num_groups": 4, "top_groups": 2} if method == "group_limited_greedy" else {}
    router = SoftmaxTopK(d_model=D, num_experts=E, top_k=K, renormalise=False, scale=1.7, **groups)
    compare(router, DeepseekV2TopkRouter(config))


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("num_groups", "top_groups"), [(1, 1), (3, 2), (4, 1)])
def test_sigmoid_with_groups_and_bias_matches_deepseek_v3(num_groups, top_groups, renormalise):
    config = DeepseekV3Config(
        hidden_size=D, num_attention_heads=1, n_routed_experts=E, num_local_experts=E,
        num_experts_per_tok=K, n_group=num_groups,
        topk_group=top_groups, routed_scaling_factor=2.5, norm_topk_prob=renormalise,
    )  # fmt: skip
    router = SigmoidTopK(
        d_model=D, num_experts=E, top_k=K, num_groups=num_groups, top_groups=top_groups, scale=2.5,
        renormalise=renormalise,
    )  # fmt: skip
    compare(router, DeepseekV3TopkRouter(config))


@pytest.mark.parametrize("bias", [False, True])
def test_sigmoid_without_groups_matches_lfm2_moe(bias):
    config = Lfm2MoeConfig(
        hidden_size=D,
        num_attention_heads=1,
        num_experts=E,
        num_experts_per_tok=K,
        use_expert_bias=bias,
        norm_topk_prob=True,
    )
    router = SigmoidTopK(d_model=D, num_experts=E, top_k=K, eps=1e-6, selection_bias=bias)
    compare(router, Lfm2MoeTopKRouter(config), *(["selection_bias"] if bias else [None]))


def test_renormalised_softmax_matches_gpt_oss():
    config = GptOssConfig(hidden_size=D, num_attention_heads=1, num_local_experts=E, num_experts_per_tok=K)
    compare(SoftmaxTopK(d_model=D, num_experts=E, top_k=K, bias=True), GptOssTopKRouter(config))


@pytest.mark.parametrize("make", [SoftmaxTopK, SigmoidTopK])
def test_impossible_choices_are_refused_with_both_values(make):
    with pytest.raises(ValueError, match=r"num_experts=4, got 5"):
        make(d_model=D, num_experts=4, top_k=5)
    with pytest.raises(ValueError, match=r"num_groups must divide num_experts=12, got 5"):
        make(d_model=D, num_experts=E, top_k=2, num_groups=5)
    with pytest.raises(ValueError, match=r"num_groups=4, got 5"):
        make(d_model=D, num_experts=E, top_k=2, num_groups=4, top_groups=5)
    with pytest.raises(ValueError, match=r"top_k=4 exceeds the 3 experts of top_groups=1"):
        make(d_model=D, num_experts=E, top_k=4, num_groups=4, top_groups=1)


def test_groups_compared_by_two_experts_must_hold_two():
    with pytest.raises(ValueError, match=r"num_experts=12 in num_groups=12 leaves 1"):
        SigmoidTopK(d_model=D, num_experts=E, top_k=2, num_groups=12, top_groups=3)


@pytest.mark.parametrize("rows", [1, 8, 300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_product_of_a_router_is_rounded_to_bfloat16(rows, dtype):
    """On TPU every product in float32 is, unless the program asks for more."""
    router = SoftmaxTopK(d_model=128, num_experts=16, top_k=2)
    params = abstract_params(router.spec(), jnp.dtype(dtype))
    x = jax.ShapeDtypeStruct((1, rows, 128), dtype)
    text = jax.jit(router).trace(params, x).lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)
