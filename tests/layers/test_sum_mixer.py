import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, attention, quick_jit, random_params, ssd

from jaxmodels.layers.sum_mixer import Branch, SumMixer
from jaxmodels.layers.window import fresh_window

ATTENTION = Branch(name="attention", mixer=attention(), in_scale=0.6, out_scale=1.5)
SSD = Branch(name="ssd", mixer=ssd(), out_scale=-0.4)


def test_a_sum_is_the_sum_of_its_branches():
    layer = SumMixer(branches=(ATTENTION, SSD))
    params = random_params(layer.spec())
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, D_MODEL)), jnp.float32)

    def run(mixer):
        window = fresh_window(jnp.zeros((2, 5), jnp.int32))
        return quick_jit(lambda params, x: mixer.forward(params, x, window))

    one, two = run(ATTENTION.mixer)(params["attention"], 0.6 * x), run(SSD.mixer)(params["ssd"], x)
    np.testing.assert_allclose(run(layer)(params, x), 1.5 * one - 0.4 * two, rtol=1e-5, atol=1e-5)


def test_a_sum_costs_what_its_branches_cost():
    layer = SumMixer(branches=(ATTENTION, SSD))
    for context in (0, 9):
        parts = [branch.mixer.flops_per_token(context) for branch in (ATTENTION, SSD)]
        assert layer.flops_per_token(context) == sum(parts)


@pytest.mark.parametrize("branches", [(), (ATTENTION, ATTENTION)])
def test_branches_have_names_of_their_own(branches):
    with pytest.raises(ValueError, match="branches must have different names, and be at least one"):
        SumMixer(branches=branches)
