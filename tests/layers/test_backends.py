"""Which form a program is lowered with, and that transformations pass through the choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxmodels.layers.backends import BACKENDS, ByBackend

EVERY = ByBackend(portable=jnp.sin, cpu=jnp.cos, tpu=jnp.tanh, gpu=jnp.exp)
X = jax.ShapeDtypeStruct((3,), jnp.float32)


def lowered(operation: ByBackend, platform: str) -> str:
    return jax.jit(operation).trace(X).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "name"),
    [("cpu", "cosine"), ("tpu", "tanh"), ("cuda", "exponential"), ("rocm", "exponential")],
)
def test_a_program_has_its_backends_form_and_no_other(platform, name):
    found = {
        n for n in ("sine", "cosine", "tanh", "exponential") if f"stablehlo.{n} " in lowered(EVERY, platform)
    }
    assert found == {name}
    assert "stablehlo.sine " in lowered(ByBackend(portable=jnp.sin), platform)


def test_backends_without_a_form_get_the_portable_one():
    some = ByBackend(portable=jnp.sin, tpu=jnp.tanh)
    assert "stablehlo.sine " in lowered(some, "cpu") and "stablehlo.sine " in lowered(some, "cuda")
    assert [some.form(backend) for backend in BACKENDS] == [jnp.sin, jnp.tanh, jnp.sin]


def test_settings_reach_every_form():
    def form(x, *, factor):
        return factor * x

    doubled = ByBackend(portable=form, cpu=form).given(factor=2.0)
    for each in (doubled, doubled.portable, doubled.form("cpu"), doubled.form("tpu")):
        np.testing.assert_array_equal(each(jnp.ones(3)), 2.0)


def test_operands_and_results_are_trees_and_gradients_pass():
    both = ByBackend(portable=lambda t: {"y": t["a"] + t["b"]}, cpu=lambda t: {"y": t["a"] * t["b"]})
    values = {"a": jnp.float32(3.0), "b": jnp.float32(5.0)}
    assert jax.jit(both)(values) == {"y": 15.0}
    assert jax.grad(lambda t: both(t)["y"])(values) == {"a": 5.0, "b": 3.0}
    rows = {"a": jnp.arange(3.0), "b": jnp.ones(3)}
    np.testing.assert_array_equal(jax.vmap(both)(rows)["y"], [0.0, 1.0, 2.0])


def test_one_artefact_for_several_backends_chooses_where_it_runs():
    artefact = export.export(jax.jit(EVERY), platforms=("cpu", "tpu"))(X)
    np.testing.assert_allclose(artefact.call(jnp.zeros(3)), 1.0)
