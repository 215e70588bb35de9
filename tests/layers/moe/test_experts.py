"""Experts taken one by one, as on CPU, compute what they compute together, as where it is differentiated."""

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.layers.moe import ClampedGatedExperts, GatedExperts, PlainExperts
from jaxmodels.layers.moe.experts import Sorted, expert_outputs, sorted_outputs

SIZES = {"num_experts": 4, "d_model": 6, "d_ff": 10}
KINDS = {
    "gated": GatedExperts(**SIZES),
    "gated, biases": GatedExperts(**SIZES, activation="gelu", bias=True),
    "clamped": ClampedGatedExperts(**SIZES),
    "plain, biases": PlainExperts(**SIZES, bias=True),
}


@pytest.mark.parametrize("sizes", [(1, 0, 2, 1), (9, 0, 30, 4), (0, 0, 0, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_one_by_one_is_all_together(kind, sizes):
    experts, spare = KINDS[kind], 3  # rows of no expert at the end
    params = random_params(experts.spec())
    x = np.random.default_rng(0).standard_normal((sum(sizes) + spare, 6)).astype(np.float32)
    owners = np.repeat(np.arange(5), [*sizes, spare])
    arguments = (jnp.asarray(owners), jnp.asarray(sizes, jnp.int32))
    ours = quick_jit(sorted_outputs, static_argnums=0)(experts, params, x, *arguments)
    together = expert_outputs(experts, params, x, Sorted(*arguments))
    used = sum(sizes)
    np.testing.assert_allclose(ours[:used], together[:used], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[used:], 0)
