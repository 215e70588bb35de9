import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaMLP

from jaxmodels.layers.mlp import ACTIVATIONS, MLP, GatedMLP, activate
from jaxmodels.layers.spec import init_params, walk

X = np.concatenate([np.linspace(-12, 12, 2001), [-100.0, 100.0]]).astype(np.float32)


def random_params(spec, seed=0):
    """Every leaf random, biases too."""
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.standard_normal(p.shape), jnp.float32) / 4 for path, p in walk(spec)}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_matches_transformers(name):
    expected = ACT2FN[name](torch.tensor(X)).numpy()
    np.testing.assert_allclose(activate(name, jnp.asarray(X)), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "silu", "relu", "tanh", "sigmoid", "gelu_pytorch_tanh"])
def test_activation_in_bfloat16_is_within_one_rounding(name):
    x = jnp.asarray(X, jnp.bfloat16)
    expected = ACT2FN[name](torch.tensor(X).bfloat16()).float().numpy()
    ours = activate(name, x)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), expected, rtol=2**-7, atol=1e-6)


def test_gelu_keeps_the_digits_of_its_tail():
    x = np.linspace(-6, -1, 50)
    expected = [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x]
    np.testing.assert_allclose(activate("gelu", jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_gradient_is_finite(name):
    slopes = jax.vmap(jax.grad(lambda v: activate(name, v)))(jnp.asarray(X))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("make", [GatedMLP, MLP])
def test_an_unknown_activation_is_named_with_the_known_ones(make):
    with pytest.raises(ValueError, match=r"'gleu'.*gelu_new.*silu"):
        make(d_model=4, d_ff=8, activation="gleu")


@pytest.mark.parametrize("bias", [False, True])
def test_gated_mlp_matches_llama(bias):
    config = LlamaConfig(
        hidden_size=10, num_attention_heads=1, intermediate_size=23, hidden_act="gelu_new", mlp_bias=bias
    )
    module = LlamaMLP(config)
    layer = GatedMLP(d_model=10, d_ff=23, activation="gelu_new", bias=bias)
    params = random_params(layer.spec())
    for name in ("gate", "up", "down"):
        linear = getattr(module, f"{name}_proj")
        linear.weight.data = torch.tensor(np.array(params[f"w_{name}"]))
        if bias:
            linear.bias.data = torch.tensor(np.asarray(params[f"b_{name}"]))
    assert set(params) == {f"{k}_{n}" for k in ("wb" if bias else "w") for n in ("gate", "up", "down")}
    x = np.random.default_rng(1).standard_normal((2, 3, 10)).astype(np.float32)
    expected = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(layer(params, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_scales_multiply_the_activations_input_and_the_result():
    layer = GatedMLP(d_model=5, d_ff=9, bias=True, gate_scale=0.6, out_scale=1.7)
    plain = GatedMLP(d_model=5, d_ff=9, bias=True)
    params = random_params(layer.spec())
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 5)), jnp.float32)
    same = {**params, "w_gate": 0.6 * params["w_gate"], "b_gate": 0.6 * params["b_gate"]}
    np.testing.assert_allclose(layer(params, x), 1.7 * plain(same, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_mlp_matches_torch(bias):
    layer = MLP(d_model=7, d_ff=19, activation="relu2", bias=bias)
    params = random_params(layer.spec())
    module = torch.nn.Sequential(
        torch.nn.Linear(7, 19, bias=bias), ACT2FN["relu2"], torch.nn.Linear(19, 7, bias=bias)
    )
    for name, linear in (("up", module[0]), ("down", module[2])):
        linear.weight.data = torch.tensor(np.array(params[f"w_{name}"]))
        if bias:
            linear.bias.data = torch.tensor(np.asarray(params[f"b_{name}"]))
    x = np.random.default_rng(1).standard_normal((5, 7)).astype(np.float32)
    expected = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(layer(params, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [GatedMLP, MLP])
def test_initial_weights_have_the_variance_of_their_fan_in(make):
    layer = make(d_model=64, d_ff=256, bias=True)
    params = init_params(layer.spec(), jax.random.key(0))
    np.testing.assert_allclose(jnp.std(params["w_up"]) * 8, 1.0, rtol=0.05)
    np.testing.assert_allclose(jnp.std(params["w_down"]) * 16, 1.0, rtol=0.05)
    assert not params["b_up"].any()
    assert not params["b_down"].any()


@pytest.mark.parametrize("make", [GatedMLP, MLP])
def test_axes_share_the_hidden_dimension(make):
    spec = make(d_model=4, d_ff=8, bias=True).spec()
    for path, param in walk(spec):
        for size, axis in zip(param.shape, param.axes, strict=True):
            assert axis == {4: "embed", 8: "mlp"}[size], path


@pytest.mark.parametrize("make", [GatedMLP, MLP])
def test_bfloat16_stays_bfloat16(make):
    layer = make(d_model=4, d_ff=8, bias=True)
    params = init_params(layer.spec(), jax.random.key(0), jnp.bfloat16)
    assert layer(params, jnp.ones((1, 2, 4), jnp.bfloat16)).dtype == jnp.bfloat16
