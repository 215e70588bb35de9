"""BD3-LM (`model_type` "bd3lm") against a float64 model written from its published code."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import commit, forward, peek
from moe_oracle import in_float64, sigmoid, softmax
from safetensors.numpy import load_file, save_file

import jaxmodels as jm
from jaxmodels.layers.masks import BlockCausal
from jaxmodels.layers.spec import count_params
from jaxmodels.models.filling import MaskFilling

D, HEADS, LAYERS, VOCAB, BLOCK, CONDITION = 12, 3, 2, 37, 4, 10
H = D // HEADS
CONFIG = {
    "architectures": ["BD3LM"], "model_type": "bd3lm", "block_size": BLOCK, "vocab_size": VOCAB,
    "model_length": 64, "cross_attn": True, "adaln": True, "attn_backend": "sdpa", "causal": False,
    "hidden_dim": D, "cond_dim": CONDITION, "n_blocks": LAYERS, "n_heads": HEADS, "dropout": 0.1,
    "time_conditioning": False, "var_min": True, "sampling_eps_min": 0.001, "sampling_eps_max": 0.999,
}  # fmt: skip

LAYER_SHAPES = {
    "norm1.weight": (D,), "attn_qkv.weight": (3 * D, D), "attn_out.weight": (D, D), "norm2.weight": (D,),
    "mlp.0.weight": (4 * D, D), "mlp.0.bias": (4 * D,), "mlp.2.weight": (D, 4 * D), "mlp.2.bias": (D,),
    "adaLN_modulation.weight": (6 * D, CONDITION), "adaLN_modulation.bias": (6 * D,),
}  # fmt: skip
SHAPES = {
    "vocab_embed.embedding": (VOCAB, D),
    "sigma_map.mlp.0.weight": (CONDITION, 256),
    "sigma_map.mlp.0.bias": (CONDITION,),
    "sigma_map.mlp.2.weight": (CONDITION, CONDITION),
    "sigma_map.mlp.2.bias": (CONDITION,),
    "output_layer.norm_final.weight": (D,),
    "output_layer.linear.weight": (VOCAB, D),
    "output_layer.linear.bias": (VOCAB,),
    "output_layer.adaLN_modulation.weight": (2 * D, CONDITION),
    "output_layer.adaLN_modulation.bias": (2 * D,),
    **{f"blocks.{i}.{name}": shape for i in range(LAYERS) for name, shape in LAYER_SHAPES.items()},
}


# --- the model, on one sequence ----------------------------------------------------------------------


def affine(t, name, x):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def silu(x):
    return x * sigmoid(x)


def norm(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rotate(x):
    """x: [S, N, H], turned in halves."""
    angles = np.arange(len(x))[:, None] / 10_000 ** (np.arange(0, H, 2) / H)
    cos, sin = (np.concatenate([f(angles)] * 2, axis=-1)[:, None] for f in (np.cos, np.sin))
    return x * cos + np.concatenate([-x[..., H // 2 :], x[..., : H // 2]], axis=-1) * sin


def attention(t, x):
    q, k, v = (part.reshape(-1, HEADS, H) for part in np.split(x @ t["attn_qkv.weight"].T, 3, axis=-1))
    scores = np.einsum("snh,tnh->nst", rotate(q), rotate(k)) / np.sqrt(H)
    block = np.arange(len(x)) // BLOCK
    scores = np.where(block[:, None] >= block, scores, -np.inf)
    return np.einsum("nst,tnh->snh", softmax(scores), v).reshape(len(x), -1) @ t["attn_out.weight"].T


def oracle(tensors, tokens):
    """Logits [S, V] of the code's sampling pass, at noise level 0."""
    t = {name.removeprefix("backbone."): a for name, a in in_float64(tensors).items()}
    level = np.concatenate([np.ones(128), np.zeros(128)])  # cosines and sines of 0
    c = silu(affine(t, "sigma_map.mlp.2", silu(affine(t, "sigma_map.mlp.0", level))))
    x = t["vocab_embed.embedding"][tokens]
    for i in range(LAYERS):
        layer = {n.removeprefix(f"blocks.{i}."): a for n, a in t.items() if n.startswith(f"blocks.{i}.")}
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = np.split(affine(layer, "adaLN_modulation", c), 6)
        x = x + gate * attention(layer, norm(x, layer["norm1.weight"]) * (1 + scale) + shift)
        h = norm(x, layer["norm2.weight"]) * (1 + ffn_scale) + ffn_shift
        x = x + ffn_gate * affine(layer, "mlp.2", gelu(affine(layer, "mlp.0", h)))
    shift, scale = np.split(affine(t, "output_layer.adaLN_modulation", c), 2)
    h = norm(x, t["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return affine(t, "output_layer.linear", h)


# --- tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint under the published names, with what training keeps beside the model, and its tensors."""
    rng, directory = np.random.default_rng(0), tmp_path_factory.mktemp("bd3lm")
    tensors = {}
    for name, shape in SHAPES.items():
        noise = rng.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) > 1 else 4)
        tensors[f"backbone.{name}"] = (noise + ("norm" in name)).astype(np.float32)
    of_training = {"sampling_eps_min": np.float32([0.001]), "sampling_eps_max": np.float32([0.999])}
    save_file({**tensors, **of_training}, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory, tensors


def draw():
    return np.random.default_rng(1).integers(VOCAB, size=(2, 14))


def test_logits_are_those_of_the_published_code(published):
    directory, tensors = published
    model, tokens = jm.load(directory), draw()
    expected = np.stack([oracle(tensors, row) for row in tokens])
    np.testing.assert_allclose(model(tokens), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert model.config.mask == BlockCausal(BLOCK)
    assert model.config.filling == MaskFilling(mask_token=VOCAB - 1)


def test_finished_blocks_can_be_kept(published):
    """Windows of whole blocks behind a history of clean ones."""
    directory, tensors = published
    model, tokens = jm.load(directory), draw()[:, :12]
    cache, found = model.config.init_cache(2, 16), []
    for start, end in ((0, 4), (4, 12)):
        logits, pending = peek(model.config, model.params, jnp.asarray(tokens[:, start:end]), cache)
        cache = commit(model.config, pending)
        found.append(logits)
    expected = np.stack([oracle(tensors, row) for row in tokens])
    np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_a_condition_that_is_given_takes_the_place_of_the_constant_one(published):
    model, tokens = jm.load(published[0]), jnp.asarray(draw())
    time = model.config.time(model.params["time"], jnp.zeros(2))
    by_row = forward(model.config, model.params, tokens, condition=time)
    np.testing.assert_allclose(by_row, model(tokens), rtol=1e-6, atol=1e-6)
    by_token = forward(model.config, model.params, tokens, condition=jnp.repeat(time[:, None], 14, axis=1))
    np.testing.assert_allclose(by_token, by_row, rtol=1e-4, atol=1e-5)
    assert np.abs(forward(model.config, model.params, tokens, condition=1 + time) - by_row).max() > 0.1


def test_tensors_and_configuration_survive_the_round_trip(published, tmp_path):
    directory, tensors = published
    model = jm.load(directory)
    jm.save(model, tmp_path)
    again = load_file(tmp_path / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    assert jm.load(tmp_path).config == model.config
    written = json.loads((tmp_path / "config.json").read_text())
    lost = {key for key in CONFIG if written.get(key) != CONFIG[key]}
    assert lost == {"attn_backend", "var_min", "sampling_eps_min", "sampling_eps_max"}


def test_the_published_size():
    """As kuleshov-group/bd3lm-owt-block_size4 is described: 12 layers of 768, 50,258 tokens."""
    large = CONFIG | {"vocab_size": 50258, "hidden_dim": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128}
    config = jm.config_from_hf(large, strict=True)
    assert config.filling == MaskFilling(mask_token=50257)
    assert round(count_params(config.spec()) / 1e6) == 170


@pytest.mark.parametrize(
    "changes", [{"adaln": False}, {"causal": True}, {"cross_attn": False}, {"time_conditioning": True}]
)
def test_other_forms_are_refused(changes):
    ((key, value),) = changes.items()
    with pytest.raises(jm.ConfigError, match=f"'{key}' has the value {value}, which is not supported"):
        jm.config_from_hf(CONFIG | changes)


def test_a_model_that_its_layout_cannot_express_is_not_written():
    config = jm.config_from_hf(CONFIG)
    with pytest.raises(jm.ConfigError, match=r"cannot express.*'tie_embeddings'"):
        jm.config_to_hf(dataclasses.replace(config, tie_embeddings=True))
    with pytest.raises(jm.ConfigError, match="cannot express this model"):
        jm.config_to_hf(dataclasses.replace(config, time=None))
