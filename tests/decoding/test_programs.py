"""Compiled programs are shared, bounded in number, and leave the memory when they are dropped."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Jacobi, Sample
from jaxmodels.decoding.programs import MOST_PROGRAMS, bounded_jit, drop_programs


@pytest.fixture(autouse=True)
def no_programs():
    drop_programs()
    yield
    drop_programs()


@bounded_jit(static_argnames=("power",), donate_argnames=("x",))
def scaled(x, factor, *, power):
    traces.append(x.shape)
    return x * factor**power


traces = []


def run(size, power=2):
    return scaled(jnp.ones(size), jnp.float32(3), power=power)


def live_programs():
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


def test_one_program_for_each_kind_of_call():
    traces.clear()
    np.testing.assert_array_equal(run(2), [9, 9])
    np.testing.assert_array_equal(run(2), [9, 9])
    np.testing.assert_array_equal(run(2, power=1), [3, 3])
    np.testing.assert_array_equal(run(3), [9, 9, 9])
    assert traces == [(2,), (2,), (3,)]
    assert scaled.count() == 3


@pytest.mark.sweep
def test_beyond_the_bound_the_longest_unused_goes():
    for size in range(1, MOST_PROGRAMS + 1):
        run(size)
    run(1)
    run(MOST_PROGRAMS + 1)  # in place of that for two
    traces.clear()
    run(1)
    assert traces == []
    np.testing.assert_array_equal(run(2), [9, 9])
    assert traces == [(2,)]
    assert scaled.count() == MOST_PROGRAMS


@pytest.mark.sweep
def test_dropped_programs_leave_the_memory():
    for size in range(1, 12):
        jax.block_until_ready(jnp.ones(size))  # programs of their own
    run(1)
    before = live_programs()
    for size in range(2, 12):
        run(size)
    assert live_programs() >= before + 10
    drop_programs(1)
    assert live_programs() <= before + 1


def test_inside_another_program_it_is_a_part_of_that():
    @jax.jit
    def outer(x):
        return scaled(x, jnp.float32(2), power=1) + 1

    np.testing.assert_array_equal(outer(jnp.ones(2)), [3, 3])
    assert scaled.count() == 0


def test_donated_arguments_are_reused():
    x = jnp.ones(1024)
    scaled(x, jnp.float32(3), power=2)
    assert x.is_deleted()


def test_errors_do_not_leave_broken_programs():
    with pytest.raises(TypeError):
        scaled(jnp.ones(2), "3", power=2)
    np.testing.assert_array_equal(run(2), [9, 9])


def requests(count):
    """Batches, prompts, lengths of answers and strategies as a server may meet them."""
    rng = np.random.default_rng(0)
    strategies = (
        Autoregressive(),
        Autoregressive(sampler=Sample(temperature=0.8)),
        Autoregressive(sampler=Sample(top_k=5)),
        Autoregressive(top_logprobs=2),
        Jacobi(window=4),
    )
    for _ in range(count):
        rows = [rng.integers(1, 61, rng.integers(1, 200)).tolist() for _ in range(rng.integers(1, 4))]
        yield rows, int(rng.integers(1, 150)), strategies[rng.integers(len(strategies))]


@pytest.mark.sweep
def test_the_memory_of_a_long_session_is_bounded():
    """100 mixed requests: the first fifty fill the list of programs, the others replace them."""
    import psutil

    keys = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = jm.init(jm.config_from_hf({"model_type": "llama", "vocab_size": 61, **keys}))
    resident = []
    for number, (rows, new, strategy) in enumerate(requests(100)):
        model.generate(rows, new, strategy)
        if number % 25 == 24:
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)
    per_program = 8 * 2**20  # of a model of one layer; 50 further programs that stayed would be 0.4 GB
    assert max(resident[2:]) < resident[1] + MOST_PROGRAMS * per_program / 2, resident
