import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from model_helpers import quick_jit

from jaxmodels.layers.host_memory import MEMORY_KIND
from jaxmodels.layers.moe import PlainExperts
from jaxmodels.layers.moe.experts import sorted_outputs
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.packed import packed, unpacked
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS, quantized, quantized_params
from jaxmodels.layers.spec import FanIn, Param, init_params

HOST = SingleDeviceSharding(jax.devices()[0], memory_kind=MEMORY_KIND)


def stack(name, inputs=64):
    param = Param((3, inputs, 24), ("experts", "embed", "mlp"), FanIn(inputs), contracted=(-2,))
    weight = np.random.default_rng(0).standard_normal(param.shape).astype(np.float32)
    return quick_jit(lambda weight: quantized("w", param, weight, QUANTIZATIONS[name].experts))(weight)


def equal(a, b):
    assert a.dtype == b.dtype
    for one, other in ((a.numbers, b.numbers), (a.scales, b.scales)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("int8", 64), ("int8", 5), ("int4", 96), ("int4-channel", 63), ("fp8", 64), ("mxfp4", 96)],
)
def test_the_same_numbers_and_scales_come_back(name, inputs):
    few = stack(name, inputs)
    bytes_of = quick_jit(packed)(few)
    equal(quick_jit(unpacked)(bytes_of), few)
    alone = quick_jit(lambda stack: unpacked(jax.tree.map(lambda rows: rows[1], stack)))
    equal(alone(bytes_of), jax.tree.map(lambda a: np.asarray(a)[1], few))
    assert bytes_of.shape == few.shape and bytes_of.size == few.size
    assert few.nbytes <= bytes_of.nbytes <= few.nbytes + 3 * 24 * 16


def test_blocks_are_parts_of_the_inputs_with_their_scales():
    few = stack("mxfp4", 128)
    bytes_of = packed(few, blocks=2)
    assert bytes_of.blocks == 2 and bytes_of.shape == few.shape
    for i, rows in enumerate(jnp.split(bytes_of.rows, 2, axis=1)):
        part = QuantizedArray(*(jnp.split(a, 2, axis=1)[i] for a in (few.numbers, few.scales)), few.dtype)
        equal(unpacked(jax.tree.map(lambda _, rows=rows: rows, bytes_of)), part)


def test_one_scale_for_all_inputs_is_in_every_block():
    few = stack("int8")
    for rows in jnp.split(packed(few, blocks=4).rows, 4, axis=1):
        found = unpacked(jax.tree.map(lambda _, rows=rows: rows, packed(few, blocks=4)))
        np.testing.assert_array_equal(found.scales, few.scales)


def test_blocks_that_do_not_divide_groups_are_refused():
    with pytest.raises(ValueError, match="96 inputs with 3 scales for each output are not 2 equal parts"):
        packed(stack("mxfp4", 96), blocks=2)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_experts_fetched_as_bytes_give_the_same(name):
    experts = PlainExperts(num_experts=4, d_model=32, d_ff=64, bias=True)
    params = init_params(experts.spec(), jax.random.key(1))
    few = quick_jit(lambda params: quantized_params(experts.spec(), params, QUANTIZATIONS[name]))(params)
    there = {
        path: jax.device_put(quick_jit(packed)(leaf), HOST) if isinstance(leaf, QuantizedArray) else leaf
        for path, leaf in few.items()
    }
    x, sizes = jax.random.normal(jax.random.key(2), (12, 32)), jnp.array([3, 0, 8, 1])
    rows = jnp.repeat(jnp.arange(4), sizes, total_repeat_length=12)
    here, fetched = (
        jax.jit(lambda params: sorted_outputs(experts, params, x, rows, sizes))(params)
        for params in (few, there)
    )
    np.testing.assert_array_equal(here, fetched)
