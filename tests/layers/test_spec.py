import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.norm import LayerNorm, RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.spec import (
    abstract_params,
    check_params,
    init_params,
    logical_axes,
    unflatten,
    walk,
    without_leaves,
)

SPEC = {
    "norm": WeightlessRMSNorm().spec(),
    "layer": {
        "inner": {"norm": LayerNorm(dim=3, scale=False, bias=False).spec()},
        "out": RMSNorm(dim=3).spec(),
    },
}


@pytest.mark.parametrize("make", [init_params, abstract_params, logical_axes])
def test_layers_without_parameters_keep_their_place(make):
    tree = make(SPEC, jax.random.key(0)) if make is init_params else make(SPEC)
    assert tree["norm"] == {} and tree["layer"]["inner"] == {"norm": {}}
    assert [path for path, _ in walk(tree)] == ["layer/out/scale"]
    assert list(without_leaves(tree)) == ["norm", "layer/inner/norm"]


def test_unflatten_is_the_inverse_of_walk():
    params = init_params(SPEC, jax.random.key(0))
    again = unflatten(dict(walk(params)), SPEC)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    np.testing.assert_array_equal(again["layer"]["out"]["scale"], params["layer"]["out"]["scale"])
    with pytest.raises(KeyError, match="layer/out/scale"):
        unflatten({}, SPEC)


def test_parameters_that_lack_the_place_of_a_layer_are_refused():
    params = {"norm": {}, "layer": {"inner": {}, "out": {"scale": jnp.ones(3)}}}
    with pytest.raises(
        ValueError, match=r"lack \['layer/inner/norm'\], an empty dict for each layer without"
    ):
        check_params(SPEC, params)
