import dataclasses

import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, forward, random_params

import jaxmodels as jm
from jaxmodels.layers.moe import HyperRouter, SoftmaxTopK
from jaxmodels.models.families import config_to_hf
from jaxmodels.models.fold import fold_routers


def test_folded_routers_route_alike_and_fit_a_checkpoint():
    values = {
        "model_type": "mixtral", "vocab_size": 29, "hidden_size": 16, "intermediate_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4,
    }  # fmt: skip
    plain = jm.config_from_hf(values)
    router = HyperRouter(d_model=16, num_experts=4, top_k=2, embedding_dim=5, hidden=7)
    first = plain.blocks[0]
    config = dataclasses.replace(
        plain,
        blocks=(dataclasses.replace(first, ffn=dataclasses.replace(first.ffn, router=router)), first),
    )
    params = random_params(config.spec())
    with pytest.raises(jm.ConfigError):
        config_to_hf(config)
    folded, arrays = fold_routers(config, params)
    assert folded == plain
    assert isinstance(folded.blocks[0].ffn.router, SoftmaxTopK)
    assert {k: v.shape for k, v in arrays["blocks"]["0"]["ffn"]["router"].items()} == {"w": (4, 16)}
    tokens = draw_tokens(2, 5)
    np.testing.assert_allclose(
        forward(folded, arrays, tokens), forward(config, params, tokens), rtol=1e-5, atol=1e-5
    )


def test_other_models_are_left_alone():
    config = ARCHITECTURES["hybrid_moe"]
    params = random_params(config.spec())
    folded, arrays = fold_routers(config, params)
    assert folded == config
    assert arrays["blocks"]["0"] is params["blocks"]["0"]
