"""DDT against a pass over its tensors in torch, as published: other canvases, files both ways, the encoder's
share; what does not fit."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, classes_shape
from diffusers_modules import assert_close, assert_saved_alike, draw
from model_helpers import quick_jit
from safetensors.numpy import save_file
from torch.nn import functional as F

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.layers.spec import init_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "_class_name": "DDT",
    "hidden_size": 24,
    "num_groups": 3,
    "num_blocks": 3,
    "num_encoder_blocks": 2,
    "num_classes": 10,
    "in_channels": 4,
}
CASES = {
    "more encoder": {},
    "odd heads, larger patches": {"num_groups": 2, "patch_size": 3, "in_channels": 3},
}


def published_tensors(sizes, seed=0):
    """The tensors of a published file, drawn: names and shapes of the official code."""
    rng, d, p = np.random.default_rng(seed), sizes["hidden_size"], sizes.get("patch_size", 2)
    pixels, inner, head = sizes["in_channels"] * p * p, int(2 * 4 * d / 3), d // sizes["num_groups"]
    shapes = {
        "x_embedder.proj.weight": (d, pixels),
        "x_embedder.proj.bias": (d,),
        "s_embedder.proj.weight": (d, pixels),
        "s_embedder.proj.bias": (d,),
        "t_embedder.mlp.0.weight": (d, 256),
        "t_embedder.mlp.0.bias": (d,),
        "t_embedder.mlp.2.weight": (d, d),
        "t_embedder.mlp.2.bias": (d,),
        "y_embedder.embedding_table.weight": (sizes["num_classes"] + 1, d),
        "final_layer.linear.weight": (pixels, d),
        "final_layer.linear.bias": (pixels,),
        "final_layer.adaLN_modulation.0.weight": (2 * d, d),
        "final_layer.adaLN_modulation.0.bias": (2 * d,),
    }
    of_block = {
        "norm1.weight": (d,),
        "attn.qkv.weight": (3 * d, d),
        "attn.q_norm.weight": (head,),
        "attn.k_norm.weight": (head,),
        "attn.proj.weight": (d, d),
        "attn.proj.bias": (d,),
        "norm2.weight": (d,),
        "mlp.w1.weight": (inner, d),
        "mlp.w3.weight": (inner, d),
        "mlp.w2.weight": (d, inner),
        "adaLN_modulation.0.weight": (6 * d, d),
        "adaLN_modulation.0.bias": (6 * d,),
    }
    for i in range(sizes["num_blocks"]):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in of_block.items()}
    tensors = {}
    for name, shape in shapes.items():
        scale, middle = (0.3, float("norm" in name)) if len(shape) == 1 else (shape[1] ** -0.5, 0.0)
        tensors[name] = (middle + scale * rng.standard_normal(shape)).astype(np.float32)
    return tensors


def their_state(sizes, tensors, x, t, y):
    """What the encoder found, by the steps of the official code."""
    time, c = their_conditions(tensors, t, y)
    patches = F.unfold(x, sizes.get("patch_size", 2), stride=sizes.get("patch_size", 2)).mT
    s = F.linear(patches, tensors["s_embedder.proj.weight"], tensors["s_embedder.proj.bias"])
    for i in range(sizes["num_encoder_blocks"]):
        s = their_block(sizes, tensors, f"blocks.{i}.", s, c, x.shape)
    return F.silu(time + s)


def their_prediction(sizes, tensors, x, t, y, state=None):
    """The official pass; `state` is what an earlier step's encoder found."""
    p = sizes.get("patch_size", 2)
    state = their_state(sizes, tensors, x, t, y) if state is None else state
    h = F.linear(
        F.unfold(x, p, stride=p).mT, tensors["x_embedder.proj.weight"], tensors["x_embedder.proj.bias"]
    )
    for i in range(sizes["num_encoder_blocks"], sizes["num_blocks"]):
        h = their_block(sizes, tensors, f"blocks.{i}.", h, state, x.shape)
    made = F.linear(
        state,
        tensors["final_layer.adaLN_modulation.0.weight"],
        tensors["final_layer.adaLN_modulation.0.bias"],
    )
    shift, scale = made.chunk(2, dim=-1)
    h = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift
    h = F.linear(h, tensors["final_layer.linear.weight"], tensors["final_layer.linear.bias"])
    return F.fold(h.mT, x.shape[2:], p, stride=p)


def their_conditions(tensors, t, y):
    frequencies = torch.exp(-np.log(10.0) * torch.arange(128) / 128)
    angles = t[:, None] * frequencies
    time = torch.cat([angles.cos(), angles.sin()], dim=-1)
    time = F.silu(F.linear(time, tensors["t_embedder.mlp.0.weight"], tensors["t_embedder.mlp.0.bias"]))
    time = F.linear(time, tensors["t_embedder.mlp.2.weight"], tensors["t_embedder.mlp.2.bias"])[:, None]
    return time, F.silu(time + tensors["y_embedder.embedding_table.weight"][y][:, None])


def their_block(sizes, tensors, at, x, c, shape):
    def of(name):
        return tensors[at + name]

    def rms(x, name):
        return F.rms_norm(x, x.shape[-1:], of(name), 1e-6)

    heads, (batch, count, d) = sizes["num_groups"], x.shape
    made = F.linear(c, of("adaLN_modulation.0.weight"), of("adaLN_modulation.0.bias")).chunk(6, dim=-1)
    y = rms(x, "norm1.weight") * (1 + made[1]) + made[0]
    q, k, v = F.linear(y, of("attn.qkv.weight")).view(batch, count, 3, heads, -1).unbind(2)
    turn = their_rotations(sizes, d // heads, shape)
    q, k = (
        torch.view_as_complex(rms(a, f"attn.{n}_norm.weight").unflatten(-1, (-1, 2))) * turn
        for n, a in (("q", q), ("k", k))
    )
    q, k = (torch.view_as_real(a).flatten(3) for a in (q, k))
    y = F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v))).transpose(1, 2)
    x = x + made[2] * F.linear(y.reshape(x.shape), of("attn.proj.weight"), of("attn.proj.bias"))
    y = rms(x, "norm2.weight") * (1 + made[4]) + made[3]
    y = F.silu(F.linear(y, of("mlp.w1.weight"))) * F.linear(y, of("mlp.w3.weight"))
    return x + made[5] * F.linear(y, of("mlp.w2.weight"))


def their_rotations(sizes, head, shape):
    rows, columns = (size // sizes.get("patch_size", 2) for size in shape[2:])
    row, column = torch.meshgrid(torch.linspace(0, 16, rows), torch.linspace(0, 16, columns), indexing="ij")
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, head, 4) / head)
    angles = torch.stack([a.reshape(-1, 1) * frequencies for a in (column, row)], dim=-1).reshape(
        rows * columns, -1
    )
    return torch.polar(torch.ones_like(angles), angles)[None, :, None]


@pytest.fixture(scope="module", params=CASES)
def published(request, tmp_path_factory):
    """(sizes, tensors for torch, the directory they were saved to)"""
    sizes = BASE | CASES[request.param]
    tensors = published_tensors(sizes)
    directory = tmp_path_factory.mktemp("ddt")
    save_file(tensors, directory / f"{STEM}.safetensors")
    (directory / "config.json").write_text(json.dumps(sizes))
    return sizes, {name: torch.tensor(tensor) for name, tensor in tensors.items()}, directory


def inputs(sizes, height=12, width=18):
    x, tx = draw(2, height, width, sizes["in_channels"])
    t, labels = np.array([0.0, 0.7], np.float32), np.array([2, sizes["num_classes"]])
    return (x, jnp.asarray(t), jnp.asarray(labels)), (
        tx.movedim(-1, 1),
        torch.tensor(t),
        torch.tensor(labels),
    )


@pytest.mark.parametrize(("height", "width"), [(12, 12), (6, 18)])
def test_predictions_are_those_of_the_published_code(published, height, width):
    sizes, tensors, directory = published
    config, params = load_denoiser(directory)
    ours, theirs = inputs(sizes, height, width)
    prediction = quick_jit(config.denoise)(params, *ours).prediction
    assert_close(prediction, their_prediction(sizes, tensors, *theirs).movedim(1, -1))


def test_a_save_is_the_file_that_was_read(published, tmp_path):
    assert_saved_alike(load_denoiser, save_denoiser, published[2], tmp_path / "again")
    assert load_denoiser(tmp_path / "again")[0] == load_denoiser(published[2])[0]


def test_the_averaged_weights_of_a_training_are_read(published, tmp_path):
    _, tensors, directory = published
    stored = {f"ema_denoiser.{name}": tensor.numpy() for name, tensor in tensors.items()}
    stored |= {f"denoiser.{name}": np.zeros(tensor.shape, np.float32) for name, tensor in tensors.items()}
    save_file(stored | {"vae.model.decoder.bias": np.zeros(3, np.float32)}, tmp_path / f"{STEM}.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    jax.tree.map(np.testing.assert_array_equal, load_denoiser(tmp_path)[1], load_denoiser(directory)[1])


@pytest.mark.wide(every_run=1)
def test_what_an_earlier_encoder_found_serves_a_later_step(published):
    sizes, tensors, directory = published
    config, params = load_denoiser(directory)
    (x, t, labels), (tx, tt, tlabels) = inputs(sizes)

    @quick_jit
    def first(x, t):
        kept = []

        def keep(name, compute):
            found = compute()
            kept.extend([found] if name == "encoder" else [])
            return found

        step(x, t, keep)
        return kept[0]

    @quick_jit
    def later(x, t, kept):
        def reuse(name, compute):
            assert not name.startswith("blocks/0")
            return kept if name == "encoder" else compute()

        return step(x, t, reuse)

    def step(x, t, modules):
        given = config.read(params, labels)
        made, streams = config.conditions(params, t, given), config.embed(params, x, given)
        streams = config.run(params, streams, made, given, range(config.num_blocks), modules)
        return config.finish(params, streams, made, *x.shape[1:3])

    kept = first(x, t)
    state = their_state(sizes, tensors, tx, tt, tlabels)
    assert_close(kept, state)
    wanted = their_prediction(sizes, tensors, 2 * tx, tt + 0.1, tlabels, state)
    assert_close(later(2 * x, t + 0.1, kept), wanted.movedim(1, -1))


@pytest.mark.wide(every_run=1)
def test_blocks_one_by_one_and_the_names_of_their_parts(published):
    config, params = load_denoiser(published[2])
    ours, _ = inputs(published[0])
    given = config.read(params, ours[2])
    made, streams, seen = config.conditions(params, ours[1], given), config.embed(params, ours[0], given), []

    def note(name, compute):
        seen.append(name)
        return compute()

    whole = config.run(params, streams, made, given, range(3), note)
    assert seen == list(config.module_names())
    for i in range(3):
        streams = config.run(params, streams, made, given, range(i, i + 1))
    jax.tree.map(np.testing.assert_array_equal, streams, whole)


def test_a_time_of_each_patch(published):
    config, params = load_denoiser(published[2])
    (x, t, labels), _ = inputs(published[0])
    step, by_patch = (
        quick_jit(config.denoise),
        jnp.repeat(t[:, None], math.prod(config.projections.grid(x)), 1),
    )
    whole = step(params, x, t, labels).prediction
    np.testing.assert_allclose(step(params, x, by_patch, labels).prediction, whole, atol=1e-5)
    assert np.abs(step(params, x, by_patch.at[:, 3].add(9), labels).prediction - whole).max() > 1e-3


def test_flops_of_a_step_are_those_of_its_products():
    config = denoiser_from_config(BASE | {"hidden_size": 384, "num_groups": 6})
    assert_flops(config, (1, 24, 40, 4), classes_shape(), config.flops(24, 40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_encoder_blocks": 3}, "num_encoder_blocks=3 must leave a block to the decoder.*of 3 in all"),
        ({"num_groups": 4}, "'num_groups' is 4, which cuts the 24 features.*into heads of 6"),
        ({"num_groups": 5}, "'num_groups' must divide 'hidden_size' = 24, got 5"),
    ],
)
def test_configurations_that_are_not_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        denoiser_from_config(BASE | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((2, 8, 9, 4))}, "2 x 2 do not divide an image of 8 x 9"),
        ({"t": jnp.zeros(3)}, r"t: expected \[2\] or \[2, 16\], got \[3\]"),
        ({"condition": jnp.array([3, 11])}, r"integers \[2\] from 0 to 10 \(no class\), got 11"),
        ({"condition": jnp.zeros(2)}, r"condition: expected the class of each row, integers \[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    config = denoiser_from_config(BASE)
    given = {"x": jnp.zeros((2, 8, 8, 4)), "t": jnp.zeros(2), "condition": jnp.zeros(2, int)} | changes
    with pytest.raises(ValueError, match=message):
        config.denoise(init_params(config.spec(), jax.random.key(0)), **given)
