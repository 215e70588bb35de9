"""Models whose weights are held in few bits equal those with the arrays that the weights stand for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, forward, random_params

from jaxmodels.layers.linear import contract, linear
from jaxmodels.layers.quantized.array import QuantizedArray, dequantized
from jaxmodels.layers.quantized.float8 import Float8
from jaxmodels.layers.quantized.integers import Integers
from jaxmodels.layers.quantized.mxfp4 import Mxfp4
from jaxmodels.layers.quantized.products import by_masked_rows
from jaxmodels.layers.quantized.quantization import (
    QUANTIZATIONS,
    Quantization,
    dequantized_params,
    find_quantization,
    formats,
    param_bytes,
    quantized,
    quantized_params,
    refuse_quantized,
)
from jaxmodels.layers.spec import Param, check_params, matrix, walk

PER_OUTPUT = QUANTIZATIONS["int8"]
# Of groups that divide the narrow layers of these tests; some weights have one group, some several.
_GROUPS = Integers(bits=4, groups=(4, 2, 3, 5, 7))
GROUPED = Quantization(matrices=_GROUPS, experts=_GROUPS, tables=Float8())
FORMATS = (Integers(bits=8), Integers(bits=4), Integers(bits=4, groups=(32,)), Float8(), Mxfp4())


def weight(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("quantization", [PER_OUTPUT, GROUPED], ids=["per_output", "grouped"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_mixer_and_mixture_multiplies_with_what_the_weights_stand_for(name, quantization):
    config = ARCHITECTURES[name]
    params = quantized_params(config.spec(), random_params(config.spec()), quantization)
    check_params(config.spec(), params)
    tokens = draw_tokens(2, 9)
    expected = forward(config, dequantized_params(params), tokens)
    np.testing.assert_allclose(forward(config, params, tokens), expected, rtol=2e-5, atol=2e-5)


def test_all_matrices_are_held_in_few_bits_and_nothing_else():
    config = ARCHITECTURES["hybrid_moe"]
    held = formats(config.spec(), PER_OUTPUT)
    outside = [path for path, _ in walk(config.spec()) if path not in held and "/router/" not in path]
    assert {path.rsplit("/", 1)[-1] for path in held} >= {"w_q", "w_o", "w_x", "w_out", "w_gate", "w_down"}
    assert not [path for path in held if "/router/" in path]
    assert not [path for path in outside if path.rsplit("/", 1)[-1].startswith("w_")]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.name}{len(form.groups)}")
def test_numbers_are_the_nearest_of_the_format(form):
    param, w = matrix((5, 64), (None, "embed")), weight((5, 64))
    held = quantized("w", param, w, form)
    numbers = np.asarray(held.numbers, np.float32)
    scales = np.asarray(dequantized(QuantizedArray(jnp.ones_like(held.numbers), held.scales, held.dtype)))
    codes = np.arange(256, dtype=np.uint8)
    every = np.asarray(
        codes.view(np.int8) if "int" in form.name else codes.view(jnp.float8_e4m3fn), np.float32
    )
    if form.name == "int4":
        every = np.arange(-7, 8, dtype=np.float32)
    if form.name == "mxfp4":
        every = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    every = every[np.isfinite(every)]
    nearest = np.abs(np.asarray(w)[..., None] / scales[..., None] - every).min(-1)
    np.testing.assert_allclose(np.abs(np.asarray(w) / scales - numbers), nearest, atol=1e-5)
    assert held.nbytes == param_bytes("w", param, "float32", {"w": form})


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.name}{len(form.groups)}")
def test_what_is_in_the_format_already_is_held_without_loss(form):
    param = matrix((5, 64), (None, "embed"))
    once = quantized("w", param, weight((5, 64)).astype(jnp.bfloat16), form)
    twice = quantized("w", param, dequantized(once, jnp.float32), form)
    np.testing.assert_array_equal(dequantized(twice, jnp.float32), dequantized(once, jnp.float32))


def test_zeros_stay_zeros():
    for form in FORMATS:
        held = quantized("w", matrix((3, 32), (None, "embed")), jnp.zeros((3, 32)), form)
        np.testing.assert_array_equal(dequantized(held), np.zeros((3, 32)))


def test_groups_wider_than_the_last_dimension_hold_whole_slices_of_it():
    param = matrix((3, 4, 8), ("embed", "heads", "head_dim"), inputs=2)
    held = quantized("w_o", param, weight((3, 4, 8)), Integers(bits=4, groups=(16,)))
    assert held.scales.shape == (3, 2, 1)
    flat = quantized("w", matrix((3, 32), (None, "embed")), weight((3, 4, 8)).reshape(3, 32), held_groups(16))
    np.testing.assert_array_equal(dequantized(held).reshape(3, 32), dequantized(flat))


def held_groups(size):
    return Integers(bits=4, groups=(size,))


@pytest.mark.parametrize("rows", [(), (1,), (3,), (2, 40)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tpu_form_of_groups_gives_the_same_product(rows, dtype):
    w = quantized("w", matrix((6, 64), (None, "embed")), weight((6, 64)), Integers(bits=4, groups=(16,)))
    x = weight((*rows, 64), seed=1).astype(dtype)

    def plain(x, w, dtype):
        return jnp.matmul(x, w.T, preferred_element_type=dtype)

    expected = x.astype(jnp.float32) @ dequantized(w).T
    np.testing.assert_allclose(by_masked_rows(plain, x, w.numbers, w.scales), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [(), (4,)])
@pytest.mark.parametrize("inputs", [(-1,), (-2,)])
@pytest.mark.parametrize("pattern", ["bsnh,nhr->bsnr", "btr,nhr->bnth", "...nh,nhr->...nr", "nth,nhr->tr"])
def test_contractions_over_any_dimension(pattern, inputs, groups):
    param = Param((3, 8, 12), ("heads", None, None), contracted=inputs)
    w = quantized("w", param, weight((3, 8, 12)), Integers(bits=8, groups=groups))
    sizes = {"b": 2, "s": 5, "t": 5, "n": 3, "h": 8, "r": 12, ".": 2}
    x = weight([sizes[name] for name in pattern.split(",")[0].replace("...", ".")], seed=1)
    expected = jnp.einsum(pattern, x, dequantized(w))
    np.testing.assert_allclose(contract(pattern, x, w), expected, rtol=1e-5, atol=1e-5)


def test_products_are_rounded_once():
    w = quantized(
        "w", matrix((6, 32), (None, "embed")), weight((6, 32)).astype(jnp.bfloat16), Integers(bits=8)
    )
    x = weight((4, 32), seed=1).astype(jnp.bfloat16)
    exact = x.astype(jnp.float32) @ dequantized(w, jnp.float32).T
    assert linear(x, w).dtype == jnp.bfloat16
    np.testing.assert_array_equal(linear(x, w), exact.astype(jnp.bfloat16))
    np.testing.assert_allclose(linear(x, w, jnp.float32), exact, rtol=1e-5, atol=1e-5)


def test_misfits_are_refused_by_name():
    config = ARCHITECTURES["attention"]
    wide = Quantization(matrices=Integers(bits=4, groups=(128,)), experts=None, tables=None)
    with pytest.raises(ValueError, match=r"'blocks/0/mixer/w_q' .* groups of 128 inputs: its \d+ inputs"):
        formats(config.spec(), wide)
    with pytest.raises(ValueError, match="none of the weights that would be held in few bits"):
        formats({"norm": {"scale": Param((4,), ("embed",))}}, QUANTIZATIONS["int8"])
    with pytest.raises(ValueError, match=r"quantize must be one of .*'int4'.*, got 'int3'"):
        find_quantization("int3")
    params = quantized_params(config.spec(), random_params(config.spec()), PER_OUTPUT)
    with pytest.raises(ValueError, match="parameter 'embed/weight' is held as int8 already"):
        quantized_params(config.spec(), params, PER_OUTPUT)
    experts = QUANTIZATIONS["mxfp4-experts"]
    with pytest.raises(ValueError, match="none of the weights that would be held"):
        formats(config.spec(), experts)
    with pytest.raises(ValueError, match="training: parameter 'embed/weight' is held as int8"):
        refuse_quantized(params, "training")


def test_programs_read_the_small_numbers():
    """What a decoding step of a compiled model takes as arguments is what the format says."""
    config = ARCHITECTURES["attention"]
    held = formats(config.spec(), PER_OUTPUT)
    params = quantized_params(config.spec(), random_params(config.spec()), PER_OUTPUT)
    expected = sum(param_bytes(path, param, "float32", held) for path, param in walk(config.spec()))
    assert sum(leaf.nbytes for _, leaf in walk(params)) == expected
    compiled = jax.jit(config.forward).lower(params, jnp.zeros((1, 1), jnp.int32)).compile()
    assert (
        expected * 0.9 < compiled.memory_analysis().argument_size_in_bytes <= expected + math.prod((1, 1)) * 4
    )
