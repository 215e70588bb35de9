import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from jaxmodels.layers.head_transform import HeadTransform
from jaxmodels.layers.norm import LayerNorm

NORM = LayerNorm(dim=12, eps=1e-12)


def test_it_is_the_transform_of_transformers():
    theirs = BertPredictionHeadTransform(BertConfig(hidden_size=12, hidden_act="gelu"))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.tensor(rng.standard_normal(parameter.shape)))
    x = rng.standard_normal((2, 5, 12)).astype(np.float32)
    dense, norm = theirs.dense, theirs.LayerNorm
    params = {
        "w": jnp.asarray(dense.weight.detach().numpy()),
        "b": jnp.asarray(dense.bias.detach().numpy()),
        "norm": {"scale": jnp.asarray(norm.weight.detach()), "bias": jnp.asarray(norm.bias.detach())},
    }
    ours = HeadTransform(d_model=12, norm=NORM)(params, jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_its_bias_is_a_choice():
    transform = HeadTransform(d_model=12, norm=NORM, bias=False)
    assert set(transform.spec()) == {"w", "norm"}
    assert set(HeadTransform(d_model=12, norm=NORM).spec()) == {"w", "b", "norm"}
    assert transform.flops_per_token() == 2 * 12 * 12


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation 'gleu' is not known"):
        HeadTransform(d_model=12, norm=NORM, activation="gleu")
