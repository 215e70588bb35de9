import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaWeightlessRMSNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearRMSNormGated
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from jaxmodels.layers.norm import (
    GatedRMSNorm,
    LayerNorm,
    RMSNorm,
    WeightlessRMSNorm,
    gated_rms_norm,
    layer_norm,
    rms_norm,
)
from jaxmodels.layers.spec import init_params

DTYPES = {"float32": (jnp.float32, torch.float32), "bfloat16": (jnp.bfloat16, torch.bfloat16)}


def draw(*shape, seed=0, dtype="float32"):
    """The same values as a jax and a torch array."""
    values = 3.0 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    ours, theirs = DTYPES[dtype]
    return jnp.asarray(values, ours), torch.tensor(values, dtype=theirs)


def assert_same(ours, theirs, dtype):
    assert ours.dtype == DTYPES[dtype][0]
    # In bfloat16 every cast must be in the same place: one misplaced rounding is 2^-8.
    tolerance = 1e-6 if dtype == "float32" else 1e-5
    expected = theirs.detach().float().numpy()
    difference = np.abs(np.asarray(ours, np.float32) - expected) / (1 + np.abs(expected))
    if dtype == "bfloat16":  # the two float32 reductions may round a few values to neighbouring bfloat16s
        assert np.mean(difference > tolerance) < 0.01
        assert difference.max() < 2**-7
    else:
        assert difference.max() < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("theirs", "offset"), [(LlamaRMSNorm, 0.0), (GemmaRMSNorm, 1.0)])
def test_rms_norm_matches_transformers(theirs, offset, dtype):
    x, tx = draw(2, 5, 77, dtype=dtype)
    scale, tscale = draw(77, seed=1, dtype=dtype)
    module = theirs(77, eps=1e-5)
    module.weight.data = tscale
    norm = RMSNorm(dim=77, eps=1e-5, offset=offset)
    assert_same(norm({"scale": scale}, x), module(tx), dtype)
    assert_same(rms_norm(x, scale, 1e-5, offset), module(tx), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_without_a_scale_matches_transformers(dtype):
    x, tx = draw(2, 5, 77, dtype=dtype)
    norm = WeightlessRMSNorm(eps=1e-2)
    assert norm.spec() == {}
    assert_same(norm({}, x), FalconMambaWeightlessRMSNorm(77, eps=1e-2)(tx), dtype)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_starts_as_the_identity_scale(offset):
    norm = RMSNorm(dim=4, offset=offset)
    params = init_params(norm.spec(), key=jnp.zeros(2, jnp.uint32))
    y = norm(params, jnp.asarray([[2.0, -2.0, 2.0, -2.0]]))
    np.testing.assert_allclose(y, [[1.0, -1.0, 1.0, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("learned", [("scale", "bias"), ("scale",), ("bias",), ()])
def test_layer_norm_matches_torch(learned, dtype):
    x, tx = draw(3, 4, 51, dtype=dtype)
    scale, tscale = draw(51, seed=1, dtype=dtype)
    shift, tshift = draw(51, seed=2, dtype=dtype)
    norm = LayerNorm(dim=51, eps=1e-4, scale="scale" in learned, bias="bias" in learned)
    params = {name: leaf for name, leaf in (("scale", scale), ("bias", shift)) if name in learned}
    assert {path: p.shape for path, p in norm.spec().items()} == {k: v.shape for k, v in params.items()}
    theirs = (tscale if norm.scale else None, tshift if norm.bias else None)
    expected = torch.nn.functional.layer_norm(tx, (51,), *theirs, eps=1e-4)
    assert_same(norm(params, x), expected, dtype)


def test_layer_norm_without_parameters_and_per_head():
    x, tx = draw(2, 3, 4, 10)
    np.testing.assert_allclose(
        layer_norm(x, None, None, 1e-5),
        torch.nn.functional.layer_norm(tx, (10,), eps=1e-5).numpy(),
        atol=2e-6,
    )
    scale, tscale = draw(4, 10, seed=1)
    module = CohereLayerNorm((4, 10), eps=1e-5)
    module.weight.data = tscale
    assert_same(layer_norm(x, scale, None, 1e-5), module(tx), "float32")


def test_layer_norm_of_a_large_mean_keeps_its_digits():
    x, _ = draw(1, 64)
    np.testing.assert_allclose(
        layer_norm(x + 1000, None, None, 1e-5), layer_norm(x, None, None, 1e-5), atol=1e-3
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_groups", [1, 3, 5])
def test_gate_then_norm_matches_mamba2(num_groups, dtype):
    x, tx = draw(2, 7, 45, dtype=dtype)
    gate, tgate = draw(2, 7, 45, seed=1, dtype=dtype)
    scale, tscale = draw(45, seed=2, dtype=dtype)
    module = MambaRMSNormGated(45, group_size=45 // num_groups, eps=1e-4)
    module.weight.data = tscale
    norm = GatedRMSNorm(dim=45, eps=1e-4, num_groups=num_groups, order="gate_then_norm")
    assert_same(norm({"scale": scale}, x, gate), module(tx, tgate), dtype)


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("order", ["gate_then_norm", "norm_then_gate"])
def test_gated_norm_matches_falcon_h1(order, num_groups):
    x, tx = draw(2, 7, 45)
    gate, tgate = draw(2, 7, 45, seed=1)
    scale, tscale = draw(45, seed=2)
    module = FalconH1RMSNormGated(
        45, eps=1e-4, n_groups=num_groups, norm_before_gate=order == "norm_then_gate"
    )
    module.weight.data = tscale
    norm = GatedRMSNorm(dim=45, eps=1e-4, num_groups=num_groups, order=order)
    assert_same(norm({"scale": scale}, x, gate), module(tx, tgate), "float32")
    # One step of decoding has no sequence dimension in some callers.
    last = gated_rms_norm(x[:, -1], gate[:, -1], scale, eps=1e-4, num_groups=num_groups, order=order)
    assert_same(last, module(tx[:, -1], tgate[:, -1]), "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_gate_matches_kimi_linear(dtype):
    x, tx = draw(2, 7, 45, dtype=dtype)
    gate, tgate = draw(2, 7, 45, seed=1, dtype=dtype)
    scale, tscale = draw(45, seed=2, dtype=dtype)
    module = KimiLinearRMSNormGated(45, eps=1e-4)
    module.weight.data = tscale
    norm = GatedRMSNorm(dim=45, eps=1e-4, order="norm_then_gate", activation="sigmoid")
    assert_same(norm({"scale": scale}, x, gate), module(tx, tgate), dtype)


@pytest.mark.parametrize("num_groups", [0, -1, 4])
def test_groups_must_divide_the_features(num_groups):
    with pytest.raises(ValueError, match=rf"num_groups must divide dim=45, got {num_groups}"):
        GatedRMSNorm(dim=45, num_groups=num_groups)


@pytest.mark.parametrize("changes", [{"order": "both"}, {"activation": "both"}])
def test_an_unknown_order_or_activation_is_named(changes):
    with pytest.raises(ValueError, match="'both'"):
        GatedRMSNorm(dim=45, **changes)
