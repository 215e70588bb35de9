import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jaxmodels.layers.grouped_matmul import over_groups, row_product
from jaxmodels.layers.host_memory import MEMORY_KIND, fetched, in_host_memory, refuse_host_memory

HOST = SingleDeviceSharding(jax.devices()[0], memory_kind=MEMORY_KIND)


@pytest.fixture(scope="module")
def matrices():
    return jax.random.normal(jax.random.key(0), (6, 16, 24))


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 1, 0, 2, 1, 0),  # row by row, a group twice
        (0, 0, 0, 0, 0, 0),
        (3, 0, 40, 0, 0, 21),  # several tiles of a group, rows of none behind them
    ],
)
def test_groups_are_fetched_and_give_the_same_numbers(matrices, sizes):
    x = jax.random.normal(jax.random.key(1), (max(sum(sizes), 4) + 2, 16))
    sizes = jnp.array(sizes)
    product = jax.jit(lambda w, x, sizes: over_groups(row_product, w, x, sizes))
    wanted, got = product(matrices, x, sizes), product(jax.device_put(matrices, HOST), x, sizes)
    np.testing.assert_array_equal(wanted, got)
    assert np.any(np.asarray(wanted)) == bool(sizes.sum())


def test_a_program_holds_two_groups_and_no_stack(matrices):
    stack = jnp.tile(matrices, (64, 8, 8))
    x, sizes = jnp.ones((4, stack.shape[1])), jnp.zeros(len(stack), int).at[jnp.array([3, 300])].set(2)
    product = jax.jit(lambda w, x, sizes: over_groups(row_product, w, x, sizes))
    compiled = product.lower(jax.device_put(stack, HOST), x, sizes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * stack[0].nbytes < stack.nbytes / 10


def test_where_an_array_lies(matrices):
    tree = {"layer": {"w": jax.device_put(matrices, HOST), "b": matrices}}
    assert in_host_memory(tree) and not in_host_memory(tree["layer"]["b"])
    assert not in_host_memory(fetched(tree))
    with pytest.raises(ValueError, match="training: parameter 'layer/w' lies in host memory; load the model"):
        refuse_host_memory(tree, "training")
    refuse_host_memory(fetched(tree), "training")
