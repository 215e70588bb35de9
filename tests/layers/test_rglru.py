import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, quick_jit, random_params, rglru
from recurrent_mixers import RGLRU, draw

from jaxmodels.layers.rglru import MAX_SQRT_SLOPE, bounded_sqrt, rglru_inputs
from jaxmodels.layers.spec import abstract_params, count_params, init_params, walk
from jaxmodels.layers.window import Window

NAMES = {
    "w_x": "linear_x.weight", "b_x": "linear_x.bias", "w_y": "linear_y.weight", "b_y": "linear_y.bias",
    "conv_w": "conv_1d.weight", "conv_b": "conv_1d.bias", "rate": "rg_lru.recurrent_param",
    "w_input_gate": "rg_lru.input_gate_weight", "b_input_gate": "rg_lru.input_gate_bias",
    "w_recurrence_gate": "rg_lru.recurrent_gate_weight", "b_recurrence_gate": "rg_lru.recurrent_gate_bias",
    "w_out": "linear_out.weight", "b_out": "linear_out.bias",
}  # fmt: skip


def reference(mixer, params):
    """The block of transformers with our parameters."""
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import (
        RecurrentGemmaConfig,
        RecurrentGemmaRecurrentBlock,
    )

    config = RecurrentGemmaConfig(
        hidden_size=D_MODEL,
        lru_width=mixer.d_inner,
        num_attention_heads=mixer.num_blocks,
        conv1d_width=mixer.conv_width,
        hidden_activation=mixer.activation,
    )
    module = RecurrentGemmaRecurrentBlock(config, 0)
    tensors = {}
    for path, leaf in walk(params):
        tensor = torch.tensor(np.asarray(leaf))
        if path == "conv_w":
            tensor = tensor.T[:, None]
        tensors[NAMES[path]] = tensor.contiguous()
    module.load_state_dict(tensors)
    return module.eval()


def window_at(positions):
    positions = jnp.asarray(positions)
    valid = jnp.full(positions.shape[:1], positions.shape[1])
    return Window(start=positions[:, 0], positions=positions, valid=valid)


@functools.partial(quick_jit, static_argnums=0)
def forward(mixer, params, x, positions):
    return mixer.forward(params, x, window_at(positions))


@pytest.fixture(scope="module", params=RGLRU)
def case(request):
    mixer = RGLRU[request.param]
    return mixer, random_params(mixer.spec())


def test_against_transformers(case):
    """In the second row a sequence starts anew: what came before is forgotten but for the convolution.

    Theirs runs in float64: in float32 it loses the digits of 1 - a^2 where a is near 1.
    """
    mixer, params = case
    x = draw(2, 13)
    positions = np.stack([np.arange(13), np.r_[0:5, 0:8]])
    with torch.no_grad():
        expected, _ = reference(mixer, params).double()(
            torch.tensor(x, dtype=torch.float64),
            torch.tensor(positions),
            attention_mask=None,
            use_cache=False,
        )
    ours = forward(mixer, params, x, positions)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(ours[1] - forward(mixer, params, x, positions[[0, 0]])[1]).max() > 1e-2


def test_decays_near_one_keep_their_digits():
    """Where 1 - a^2 is formed by subtraction in float32, a decay of 1 - 2e-6 loses most of its digits."""
    gate = np.array([[[1e-3, 0.5]]], np.float32)
    rate = np.array([-8.0, -14.0], np.float32)
    ones = jnp.ones((1, 1, 2))
    inputs = rglru_inputs(ones, ones, jnp.asarray(gate), jnp.asarray(rate), jnp.zeros((1, 1), bool))
    log_decay = -8 * gate.astype(np.float64) * np.log1p(np.exp(rate.astype(np.float64)))
    np.testing.assert_allclose(inputs.u, np.sqrt(-np.expm1(2 * log_decay)), rtol=1e-6)
    np.testing.assert_allclose(inputs.log_decay, log_decay, rtol=1e-6)


def test_the_slope_of_the_square_root_is_bounded():
    slopes = jax.vmap(jax.grad(bounded_sqrt))(jnp.asarray([0.0, 1e-12, 1e-4, 4.0]))
    np.testing.assert_allclose(slopes, [MAX_SQRT_SLOPE, MAX_SQRT_SLOPE, 50.0, 0.25], rtol=1e-6)


def test_gradients_are_finite_where_a_sequence_starts():
    mixer = RGLRU["four_blocks"]
    params, x = random_params(mixer.spec()), draw(1, 6)
    params["rate"] = jnp.full_like(params["rate"], -200.0)  # decays of exactly 1
    positions = np.array([[0, 1, 2, 0, 1, 2]])
    gradients = quick_jit(jax.grad(lambda p: (mixer.forward(p, x, window_at(positions)) ** 2).sum()))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_initial_decays_are_those_of_the_paper():
    spec = rglru(d_inner=400, num_blocks=1).spec()
    rate = init_params({"rate": spec["rate"]}, jax.random.key(0), jnp.bfloat16)["rate"]
    assert rate.dtype == jnp.float32
    squared = np.exp(-2 * np.log1p(np.exp(np.asarray(rate, np.float64))))
    assert 0.9**2 * (1 - 1e-5) < squared.min() < 0.82
    assert 0.99 < squared.max() < 0.999**2 * (1 + 1e-5)
    assert 0.89 < squared.mean() < 0.92


def test_a_token_costs_its_weights_and_its_state():
    mixer = rglru()
    not_multiplied = sum(leaf.size for path, leaf in walk(abstract_params(mixer.spec())) if "b" in path)
    weights = 2 * (count_params(mixer.spec()) - not_multiplied - mixer.d_inner)
    assert mixer.flops_per_token(0) == weights
    assert mixer.flops_per_token(1) == mixer.flops_per_token(10**6) == weights + 2 * mixer.d_inner


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 3}, "num_blocks=3 must divide d_inner=20"),
        ({"num_blocks": 0}, "num_blocks=0 must divide d_inner=20"),
        ({"conv_width": 1}, "conv_width=1 must be at least 2"),
        ({"activation": "gleu"}, "activation 'gleu' is not known"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rglru(**changes)
