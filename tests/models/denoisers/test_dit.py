"""DiT against `diffusers`: the same predictions, files and configurations, and what becomes of bad ones."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, classes_shape
from diffusers import DiTTransformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, randomised, saved_module
from model_helpers import quick_jit, random_params
from safetensors.numpy import load_file, save_file

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.layers.spec import init_params
from jaxmodels.models.denoisers.families import denoiser_from_config, denoiser_to_config
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
    "norm_type": "ada_norm_zero",
}
CASES = {
    "learned variance": {},
    "odd heads, larger patches, no variance": {
        "num_attention_heads": 5,
        "attention_head_dim": 12,
        "num_layers": 3,
        "patch_size": 4,
        "sample_size": 20,
        "in_channels": 3,
        "out_channels": None,
    },
    "more than ten layers": {"num_layers": 11},
    "no bias, norm weights, exact gelu": {
        "attention_bias": False,
        "norm_elementwise_affine": True,
        "norm_eps": 1e-3,
        "activation_fn": "gelu",
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """(their model, the directory it was saved to)"""
    return saved_module(DiTTransformer2DModel(**BASE | CASES[request.param]), tmp_path_factory)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dit")
    randomised(DiTTransformer2DModel(**BASE)).save_pretrained(directory)
    return directory


def inputs(config, batch=3, size=None):
    size = size or config.sample_size
    x, tx = draw(batch, size, size, config.projections.in_channels)
    t, labels = np.array([0.0, 17.5, 999.0])[:batch], np.array([2, config.conditioner.num_classes, 0])[:batch]
    ours = (x, jnp.asarray(t, jnp.float32), jnp.asarray(labels))
    return ours, (tx.movedim(-1, 1), torch.tensor(t, dtype=torch.float32), torch.tensor(labels))


def theirs_of(model, x, t, labels):
    with torch.no_grad():
        return model(x, timestep=t, class_labels=labels).sample.movedim(1, -1)


def test_predictions_are_those_of_diffusers(saved):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    (x, t, labels), given = inputs(config)
    ours = quick_jit(config.denoise)(params, x, t, labels)
    assert ours.prediction.shape == (*x.shape[:3], config.projections.out_channels)
    assert_close(ours.prediction, theirs_of(theirs, *given))


def test_other_square_sizes_scale_the_positions(plain):
    theirs = DiTTransformer2DModel.from_pretrained(plain)
    config, params = load_denoiser(plain)
    (x, t, labels), given = inputs(config, size=12)
    assert_close(quick_jit(config.denoise)(params, x, t, labels).prediction, theirs_of(theirs, *given))


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    theirs, directory = saved
    assert_saved_alike(load_denoiser, save_denoiser, directory, tmp_path / "again")
    config = load_denoiser(directory)[0]
    again = DiTTransformer2DModel.from_pretrained(tmp_path / "again")
    kept = {key: value for key, value in again.config.items() if not key.startswith("_")}
    wanted = {key: theirs.config[key] for key in kept}
    assert kept == wanted | {"out_channels": config.projections.out_channels}


def test_shards_are_read(plain, tmp_path):
    DiTTransformer2DModel.from_pretrained(plain).save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / f"{STEM}.safetensors.index.json").exists()
    one, other = load_denoiser(plain)[1], load_denoiser(tmp_path)[1]
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module", params=["DiT", "SiT"])
def official(request, tmp_path_factory):
    """(a model of diffusers with the arithmetic of the official code, the same weights in official names)"""
    theirs = randomised(DiTTransformer2DModel(**BASE | {"norm_eps": 1e-6}))
    first = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb = first
    first.time_proj.downscale_freq_shift = 0
    directory = tmp_path_factory.mktemp("official")
    save_file(official_tensors(theirs.state_dict()), directory / f"{STEM}.safetensors")
    sizes = {"input_size": 8, "hidden_size": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
    (directory / "config.json").write_text(json.dumps({"_class_name": request.param, **sizes}))
    return theirs, directory


def official_tensors(state):
    state = {name: tensor.numpy() for name, tensor in state.items()}
    emb = "transformer_blocks.0.norm1.emb"
    renamed = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": f"{emb}.timestep_embedder.linear_1",
        "t_embedder.mlp.2": f"{emb}.timestep_embedder.linear_2",
        "final_layer.linear": "proj_out_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
    }
    for i in range(2):
        block = f"transformer_blocks.{i}"
        renamed |= {
            f"blocks.{i}.adaLN_modulation.1": f"{block}.norm1.linear",
            f"blocks.{i}.attn.proj": f"{block}.attn1.to_out.0",
            f"blocks.{i}.mlp.fc1": f"{block}.ff.net.0.proj",
            f"blocks.{i}.mlp.fc2": f"{block}.ff.net.2",
        }
    tensors = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in renamed.items()
        for kind in ("weight", "bias")
    }
    for i in range(2):
        for kind in ("weight", "bias"):
            parts = [state[f"transformer_blocks.{i}.attn1.to_{part}.{kind}"] for part in "qkv"]
            tensors[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate(parts)
    tensors["y_embedder.embedding_table.weight"] = state[f"{emb}.class_embedder.embedding_table.weight"]
    tensors["pos_embed"] = np.zeros((1, 16, 24), np.float32)
    return tensors


def test_official_names_with_the_official_arithmetic(official, tmp_path):
    theirs, directory = official
    config, params = load_denoiser(directory)
    (x, t, labels), given = inputs(config)
    assert_close(quick_jit(config.denoise)(params, x, t, labels).prediction, theirs_of(theirs, *given))
    save_denoiser(config, params, tmp_path / "again")
    before, after = (load_file(d / f"{STEM}.safetensors") for d in (directory, tmp_path / "again"))
    assert before.keys() - after.keys() == {"pos_embed"}
    for name, tensor in after.items():
        np.testing.assert_array_equal(before[name], tensor)


def test_a_second_time_is_embedded_and_added(official, tmp_path):
    """With its embedding added to each class's row, DiT of one time is the same model."""
    _, directory = official
    one, params = load_denoiser(directory)
    values = denoiser_to_config(one) | {"_class_name": "FlowMapDiT"}
    two = denoiser_from_config(values)
    second = random_params(two.spec())["conditioners"]["0"]["second"]
    (x, t, labels), _ = inputs(one)
    times = jnp.stack([t, jnp.full_like(t, 3.0)], -1)
    added = two.conditioner.second(second, jnp.array(3.0))
    shared = params["conditioners"]["0"]
    moved = shared | {"classes": {"weight": shared["classes"]["weight"] + added}}
    expected = quick_jit(one.denoise)(params | {"conditioners": {"0": moved}}, x, t, labels).prediction
    both = params | {"conditioners": {"0": shared | {"second": second}}}
    found = quick_jit(two.denoise)(both, x, times, labels).prediction
    np.testing.assert_allclose(found, expected, atol=1e-5)
    save_denoiser(two, both, tmp_path)
    config, again = load_denoiser(tmp_path)
    assert config == two
    jax.tree.map(np.testing.assert_array_equal, again, both)
    with pytest.raises(ValueError, match=r"t: expected \[3, 2\], both times of each row, got \[3\]"):
        two.denoise(both, x, t, labels)


def test_taps_are_the_streams_in_front_of_and_behind_blocks(plain):
    config, params = load_denoiser(plain)
    (x, t, labels), _ = inputs(config)
    tapped = functools.partial(config.denoise, taps=("blocks/0", "embeddings"))
    whole = quick_jit(tapped)(params, x, t, labels)
    assert list(whole.taps) == ["blocks/0", "embeddings"]
    np.testing.assert_array_equal(whole.taps["embeddings"], config.embed(params, x, None).hidden)
    assert np.abs(whole.taps["blocks/0"] - whole.taps["embeddings"]).max() > 0.1


def test_a_time_of_each_patch(plain):
    config, params = load_denoiser(plain)
    (x, t, labels), _ = inputs(config)
    step, by_patch = quick_jit(config.denoise), jnp.repeat(t[:, None], 16, axis=1)
    whole = step(params, x, t, labels).prediction
    np.testing.assert_allclose(step(params, x, by_patch, labels).prediction, whole, atol=1e-5)
    assert np.abs(step(params, x, by_patch.at[:, 3].add(9), labels).prediction - whole).max() > 1e-3


def test_a_class_outside_the_table_gives_no_picture_of_another(plain):
    config, params = load_denoiser(plain)
    (x, t, _), _ = inputs(config)
    prediction = quick_jit(config.denoise)(params, x, t, jnp.array([2, 11, 0])).prediction
    assert np.isnan(prediction[1]).all() and np.isfinite(prediction[::2]).all()


# --- compiled properties ------------------------------------------------------------------------------


def dit_s():
    sizes = {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 2, "sample_size": 32}
    return denoiser_from_config({"_class_name": "DiTTransformer2DModel", **sizes, "out_channels": 8})


def test_flops_of_a_step_are_those_of_its_products():
    config, batch = dit_s(), 2
    assert_flops(config, (batch, 32, 32, 4), classes_shape(batch), batch * config.flops(32, 32))


@pytest.mark.sweep
def test_one_program_for_all_times_and_classes_which_maps_and_differentiates(plain):
    config, params = load_denoiser(plain)
    (x, t, labels), _ = inputs(config)
    step = quick_jit(config.denoise)
    before = step(params, x, t, labels).prediction
    for time, label in ((3.0, 1), (500.0, 9)):
        step(params, x, jnp.full(3, time, jnp.float32), jnp.full(3, label, jnp.int32))
    assert step._cache_size() == 1

    def one(x, t, label):
        return config.denoise(params, x[None], t[None], label[None]).prediction[0]

    np.testing.assert_allclose(quick_jit(jax.vmap(one))(x, t, labels), before, atol=1e-4)
    loss = quick_jit(
        jax.value_and_grad(lambda p: jnp.square(config.denoise(p, x, t, labels).prediction).mean())
    )
    params = jax.device_get(params)
    value, gradients = jax.device_get(loss(params))
    moved = jax.tree.map(lambda p, g: p - np.float32(1e-4) * g, params, gradients)
    slope = sum(float(np.vdot(g, g)) for g in jax.tree.leaves(gradients))
    assert float(value - loss(moved)[0]) == pytest.approx(1e-4 * slope, rel=0.1)


def test_a_new_model_predicts_nothing():
    config = denoiser_from_config({"_class_name": "DiTTransformer2DModel", **BASE})
    params = init_params(config.spec(), jax.random.key(0))
    denoise = quick_jit(functools.partial(config.denoise, taps=("embeddings", "blocks/1")))
    out = denoise(params, *inputs(config)[0])
    np.testing.assert_array_equal(out.prediction, 0.0)
    np.testing.assert_array_equal(out.taps["blocks/1"], out.taps["embeddings"])  # every gate is closed


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((3, 8, 12, 4))}, "square canvases, got 8 x 12"),
        ({"x": jnp.zeros((3, 9, 9, 4))}, "2 x 2 do not divide an image of 9 x 9"),
        ({"x": jnp.zeros((3, 8, 8, 3))}, r"canvases \[B, H, W, 4\], got \[3, 8, 8, 3\]"),
        ({"t": jnp.zeros(2)}, r"t: expected \[3\] or \[3, 16\], got \[2\]"),
        ({"condition": jnp.zeros(3)}, r"from 0 to 10 \(no class\), got float32\[3\]"),
        ({"taps": ("blocks/2",)}, "has no 'blocks/2'; it has embeddings, blocks/0, blocks/1"),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(plain, changes, message):
    config, params = load_denoiser(plain)
    (x, t, labels), _ = inputs(config)
    given = {"x": x, "t": t, "condition": labels} | changes
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda given: config.denoise(params, **given, taps=changes.get("taps", ())),
            {key: value for key, value in given.items() if key != "taps"},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "'_class_name' is 'UNet2DModel'; the denoisers are: DDT, DiT, "),
        ({"activation_fn": "geglu"}, "'activation_fn' has the value 'geglu', which is not supported"),
        ({"num_attention_heads": 0}, "'num_attention_heads' must be a whole number >= 1"),
        ({"patch_size": 3}, "patches of 3 x 3 do not divide an image of 8 x 8"),
        ({"rope": True}, "unknown config keys {'rope': True}"),
    ],
)
def test_configurations_that_are_not_read(plain, tmp_path, changes, message):
    values = json.loads((plain / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"config.json: .*{message}"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proj_out_1.bias": None}, "no tensor 'proj_out_1.bias' among"),
        ({"proj_out_1.bias": np.zeros(7, np.float32)}, r"'proj_out_1.bias' has shape \[7\].*asks for \[48\]"),
        (
            {"proj_out_3.bias": np.zeros(7, np.float32)},
            "'proj_out_3.bias' of shape .7. is not part of the DiTTr",
        ),
    ],
)
def test_weights_that_do_not_fit(plain, tmp_path, changes, message):
    tensors = load_file(plain / f"{STEM}.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, tmp_path / f"{STEM}.safetensors")
    (tmp_path / "config.json").write_text((plain / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        load_denoiser(tmp_path)


def test_a_model_that_a_layout_has_no_place_for_is_not_written(plain, tmp_path):
    config, params = load_denoiser(plain)
    with pytest.raises(
        ConfigError, match=r"'DiT' layout cannot express this model: \['blocks', 'conditioner'\]"
    ):
        denoiser_to_config(dataclasses.replace(config, family="DiT", own_conditioners=False))
    with pytest.raises(CheckpointError, match=r"config\.family is None; to write it, set one of: DDT, DiT, "):
        save_denoiser(dataclasses.replace(config, family=None), params, tmp_path / "m")
    assert not list(tmp_path.iterdir())
