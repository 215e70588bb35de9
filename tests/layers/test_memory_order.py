import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from jaxmodels.layers.host_memory import MEMORY_KIND
from jaxmodels.layers.memory_order import ordered, ordered_params, place_of
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS, quantized
from jaxmodels.layers.spec import Param, init_params

DEVICE = SingleDeviceSharding(jax.devices()[0])
HOST = SingleDeviceSharding(jax.devices()[0], memory_kind=MEMORY_KIND)
STACK = Param((4, 32, 6), ("experts", "embed", "mlp"), contracted=(-2,))
BIAS = Param((4, 6), ("experts", "mlp"))
MATRIX = Param((6, 32), ("mlp", "embed"), contracted=(-1,))


def stored_backwards(tree):
    """The arrays as a TPU may store them by default: the first dimension innermost."""
    return jax.tree.map(
        lambda a: jax.device_put(a, Format(Layout(tuple(reversed(range(a.ndim)))), DEVICE)), tree
    )


def order(array):
    return array.format.layout.major_to_minor


@pytest.fixture(scope="module")
def params():
    return init_params({"w": STACK, "b": BIAS, "rest": {"m": MATRIX}}, jax.random.key(0))


def test_stacks_of_experts_are_put_row_by_row_and_nothing_else_is_touched(params):
    given = stored_backwards(params)
    assert order(given["w"]) == (2, 1, 0)
    found = ordered_params({"w": STACK, "b": BIAS, "rest": {"m": MATRIX}}, given)
    assert order(found["w"]) == (0, 1, 2) and found["w"].sharding == given["w"].sharding
    np.testing.assert_array_equal(found["w"], params["w"])
    assert found["b"] is given["b"] and found["rest"]["m"] is given["rest"]["m"]
    assert ordered(STACK, params["w"]) is params["w"]


def test_both_parts_of_a_stack_in_few_bits_are_put_row_by_row(params):
    held = quantized("w", STACK, params["w"], QUANTIZATIONS["int4"].experts)
    found = ordered(STACK, stored_backwards(held))
    assert order(found.numbers) == order(found.scales) == (0, 1, 2)
    np.testing.assert_array_equal(found.numbers.astype(jnp.int8), held.numbers.astype(jnp.int8))
    np.testing.assert_array_equal(found.scales, held.scales)


def test_experts_in_host_memory_stay_as_they_are(params):
    there = jax.device_put(params["w"], HOST)
    assert ordered(STACK, there) is there
    assert place_of(STACK, HOST) is HOST


def test_a_program_for_abstract_parameters_takes_stacks_row_by_row():
    """Compiled for whatever order the others have by default, here row by row as well."""
    given = stored_backwards(jnp.ones(STACK.shape))

    def program(place):
        abstract = jax.ShapeDtypeStruct(STACK.shape, jnp.float32, sharding=place)
        return jax.jit(lambda w: w.sum()).lower(abstract).compile()

    assert program(place_of(STACK, DEVICE))(ordered(STACK, given)) == np.prod(STACK.shape)
    with pytest.raises(ValueError, match="layouts"):
        program(place_of(STACK, DEVICE))(given)
    assert isinstance(place_of(STACK, DEVICE), Format)
    assert place_of(BIAS, DEVICE) is place_of(MATRIX, DEVICE) is DEVICE
