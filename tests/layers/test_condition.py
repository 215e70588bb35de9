import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from diffusers_modules import assert_close, draw, randomised, stacked

from jaxmodels.layers.condition import (
    BLOCK_PARTS,
    NORM_PARTS,
    AdaptiveNorm,
    ProjectedModulation,
    TableModulation,
    modulate,
)
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.spec import init_params

NORM = LayerNorm(dim=12, eps=1e-6, scale=False, bias=False)


def test_ada_layer_norm_zero_of_diffusers():
    theirs = randomised(AdaLayerNormZero(12))
    (x, tx), (c, tc) = draw(2, 5, 12), draw(2, 12, seed=1)
    modulation = ProjectedModulation(d_model=12, d_condition=12)
    made = modulation(stacked(theirs.linear, 6), c)
    assert tuple(made) == BLOCK_PARTS
    wanted, *rest = theirs(tx, emb=tc)
    assert_close(modulate(NORM({}, x), made["mixer_shift"], made["mixer_scale"]), wanted)
    for part, expected in zip(BLOCK_PARTS[2:], rest, strict=True):
        assert_close(made[part][:, 0], expected)


def test_ada_layer_norm_continuous_of_diffusers_is_an_adaptive_norm_in_the_other_order():
    theirs = randomised(AdaLayerNormContinuous(12, 8, elementwise_affine=False, eps=1e-6))
    (x, tx), (c, tc) = draw(2, 5, 12), draw(2, 8, seed=1)
    modulation = ProjectedModulation(d_model=12, d_condition=8, parts=("scale", "shift"))
    norm = AdaptiveNorm(norm=NORM, modulation=modulation)
    assert_close(norm({"norm": {}, "modulation": stacked(theirs.linear, 2)}, x, c), theirs(tx, tc))


@pytest.mark.parametrize("shared", [True, False], ids=["one for all parts", "one for each part"])
def test_a_table_is_added_to_the_condition(shared):
    width = 12 if shared else 24
    modulation = TableModulation(d_model=12, d_condition=width, parts=NORM_PARTS)
    params = init_params(modulation.spec(), jax.random.key(0))
    c = draw(3, width)[0]
    made = modulation(params, c)
    for i, part in enumerate(NORM_PARTS):
        np.testing.assert_allclose(made[part][:, 0], params["table"][i] + c[:, -12 if i else 0 :][:, :12])


def test_a_condition_of_each_token_holds_for_that_token():
    norm = AdaptiveNorm(
        norm=NORM, modulation=ProjectedModulation(d_model=12, d_condition=8, parts=NORM_PARTS)
    )
    params = {"norm": {}, "modulation": {"w": draw(2, 12, 8)[0], "b": draw(2, 12)[0]}}
    x, c = draw(2, 5, 12)[0], draw(2, 8, seed=1)[0]
    by_row = norm(params, x, c)
    np.testing.assert_allclose(norm(params, x, jnp.repeat(c[:, None], 5, axis=1)), by_row, rtol=1e-5)
    changed = norm(params, x, jnp.repeat(c[:, None], 5, axis=1).at[:, 3].add(1.0))
    assert np.abs(changed - by_row).max((0, 2)).argmax() == 3
    np.testing.assert_allclose(changed[:, :3], by_row[:, :3], rtol=1e-5)


def test_adaptive_layers_start_as_the_identity():
    modulation = ProjectedModulation(d_model=12, d_condition=8)
    made = modulation(init_params(modulation.spec(), jax.random.key(0)), draw(2, 8)[0])
    assert all(not part.any() for part in made.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProjectedModulation(d_model=4, d_condition=4, parts=()), "at least one"),
        (lambda: ProjectedModulation(d_model=4, d_condition=4, activation="sulu"), "'sulu' is not known"),
        (lambda: TableModulation(d_model=4, d_condition=5), "d_model=4.*or 24.*got 5"),
        (
            lambda: AdaptiveNorm(norm=NORM, modulation=ProjectedModulation(d_model=4, d_condition=4)),
            "must make .'shift', 'scale'.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
