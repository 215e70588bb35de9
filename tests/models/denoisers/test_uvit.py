"""U-ViT against the blocks of `diffusers`, whose weights are put under the names of the official code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, classes_shape
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.deprecated.unidiffuser.modeling_uvit import UTransformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, randomised
from model_helpers import quick_jit
from safetensors.numpy import save_file
from torch import nn

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.layers.spec import abstract_params, init_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "_class_name": "UViT",
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 4,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "num_classes": 11,
}
CASES = {
    "classes": {},
    "no classes, a projected time, biases, no smoothing": {
        "num_classes": -1,
        "mlp_time_embed": True,
        "qkv_bias": True,
        "conv": False,
        "in_chans": 3,
        "num_heads": 4,
        "depth": 2,
    },
}


class Ends(nn.Module):
    """What stands around the blocks in the official code."""

    def __init__(self, sizes):
        super().__init__()
        d, patch, channels = sizes["embed_dim"], sizes["patch_size"], sizes["in_chans"]
        extras = 2 if sizes["num_classes"] > 0 else 1
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, d, patch, patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, extras + (sizes["img_size"] // patch) ** 2, d))
        self.decoder_pred = nn.Linear(d, patch**2 * channels)
        if extras == 2:
            self.label_emb = nn.Embedding(sizes["num_classes"], d)
        if sizes.get("mlp_time_embed"):
            self.time_embed = nn.Sequential(nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d))
        if sizes.get("conv", True):
            self.final_layer = nn.Conv2d(channels, channels, 3, padding=1)


def their_blocks(sizes):
    """The transformer of diffusers, without the norms that it has behind its skips and the official one has
    not."""
    theirs = UTransformer2DModel(
        num_attention_heads=sizes["num_heads"],
        attention_head_dim=sizes["embed_dim"] // sizes["num_heads"],
        in_channels=sizes["in_chans"],
        num_layers=sizes["depth"],
        sample_size=sizes["img_size"],
        patch_size=sizes["patch_size"],
        attention_bias=sizes.get("qkv_bias", False),
        activation_fn="gelu",
        block_type="standard",
        pre_layer_norm=True,
    )
    for block in theirs.transformer_out_blocks:
        block["skip"].norm = nn.Identity()
    return randomised(theirs)


def official_tensors(sizes, ends, blocks):
    state = {name: tensor.numpy() for name, tensor in blocks.state_dict().items()}
    half = sizes["depth"] // 2
    places = {f"in_blocks.{i}": f"transformer_in_blocks.{i}" for i in range(half)}
    places["mid_block"] = "transformer_mid_block"
    places |= {f"out_blocks.{i}": f"transformer_out_blocks.{i}.block" for i in range(half)}
    renamed = {"norm": "norm_out"}
    for ours, theirs in places.items():
        names = {"norm1": "norm1", "norm2": "norm3", "attn.proj": "attn1.to_out.0"}
        names |= {"mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"}
        renamed |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in names.items()}
    renamed |= {
        f"out_blocks.{i}.skip_linear": f"transformer_out_blocks.{i}.skip.skip_linear" for i in range(half)
    }
    kinds = ("weight", "bias")
    tensors = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"] for ours, theirs in renamed.items() for kind in kinds
    }
    for ours, theirs in places.items():
        for kind in kinds if sizes.get("qkv_bias") else kinds[:1]:
            parts = [state[f"{theirs}.attn1.to_{part}.{kind}"] for part in "qkv"]
            tensors[f"{ours}.attn.qkv.{kind}"] = np.concatenate(parts)
    return tensors | {name: tensor.numpy() for name, tensor in ends.state_dict().items()}


@pytest.fixture(scope="module", params=CASES)
def official(request, tmp_path_factory):
    """(sizes, what stands around the blocks, the blocks, the directory they were saved to)"""
    sizes = BASE | CASES[request.param]
    ends, blocks = randomised(Ends(sizes), seed=1), their_blocks(sizes)
    directory = tmp_path_factory.mktemp("uvit")
    save_file(official_tensors(sizes, ends, blocks), directory / f"{STEM}.safetensors")
    (directory / "config.json").write_text(json.dumps(sizes))
    return sizes, ends, blocks, directory


@torch.no_grad()
def their_prediction(sizes, ends, blocks, x, t, labels):
    """The official pass around the blocks."""
    d, patch = sizes["embed_dim"], sizes["patch_size"]
    tokens = ends.patch_embed["proj"](x).flatten(2).mT
    time = get_timestep_embedding(t, d, flip_sin_to_cos=True, downscale_freq_shift=0)
    time = ends.time_embed(time) if sizes.get("mlp_time_embed") else time
    beside = [] if labels is None else [ends.label_emb(labels)[:, None]]
    tokens = torch.cat([*beside, time[:, None], tokens], dim=1) + ends.pos_embed
    (hidden,) = blocks(tokens, hidden_states_is_embedding=True, unpatchify=False, return_dict=False)
    patches = ends.decoder_pred(hidden[:, 1 + len(beside) :])
    rows = sizes["img_size"] // patch
    canvas = patches.view(len(x), rows, rows, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
    return ends.final_layer(canvas) if sizes.get("conv", True) else canvas


def inputs(sizes):
    x, tx = draw(2, sizes["img_size"], sizes["img_size"], sizes["in_chans"])
    t = np.array([3.5, 960.0], np.float32)
    labels = np.array([2, 10]) if sizes["num_classes"] > 0 else None
    ours = (x, jnp.asarray(t), None if labels is None else jnp.asarray(labels))
    return ours, (tx.movedim(-1, 1), torch.tensor(t), None if labels is None else torch.tensor(labels))


def test_predictions_are_those_of_the_official_code(official):
    sizes, ends, blocks, directory = official
    config, params = load_denoiser(directory)
    ours, theirs = inputs(sizes)
    prediction = quick_jit(config.denoise)(params, *ours).prediction
    assert_close(prediction, their_prediction(sizes, ends, blocks, *theirs).movedim(1, -1))


def test_a_save_is_the_file_that_was_read(official, tmp_path):
    assert_saved_alike(load_denoiser, save_denoiser, official[3], tmp_path / "again")


def test_any_cut_of_the_blocks_gives_the_same(official):
    config, params = load_denoiser(official[3])
    (x, t, labels), _ = inputs(official[0])
    whole = quick_jit(config.denoise)(params, x, t, labels).prediction

    def in_two(params, x, t, labels):
        given = config.read(params, labels)
        made, streams = config.conditions(params, t, given), config.embed(params, x, given)
        for blocks in (range(0, 1), range(1, config.num_blocks)):
            streams = config.run(params, streams, made, given, blocks)
        return config.finish(params, streams, made, *x.shape[1:3])

    np.testing.assert_allclose(quick_jit(in_two)(params, x, t, labels), whole, atol=1e-5)


def test_flops_of_a_step_are_those_of_its_products():
    config = denoiser_from_config(BASE | {"embed_dim": 384, "num_heads": 6, "img_size": 32})
    assert_flops(config, (1, 32, 32, 4), classes_shape(), config.flops(32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "'depth' must be even, got 3"),
        ({"skip": False}, "'skip' has the value False, which is not supported"),
        ({"num_classes": 0}, "'num_classes' must be a whole number >= 1"),
    ],
)
def test_configurations_that_are_not_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        denoiser_from_config(BASE | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((2, 8, 10, 4))}, "4 x 5 patches, but the model has positions for 4 x 4"),
        ({"condition": jnp.array([3, 11])}, r"integers \[2\] from 0 to 10, got 11"),
        ({"condition": None}, r"condition: expected the class of each row, integers \[2\].*got None"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    config = denoiser_from_config(BASE)
    given = {"x": jnp.zeros((2, 8, 8, 4)), "t": jnp.zeros(2), "condition": jnp.zeros(2, int)} | changes
    with pytest.raises(ValueError, match=message):
        config.denoise(init_params(config.spec(), jax.random.key(0)), **given)


def test_a_class_for_a_model_without_classes_is_refused():
    config = denoiser_from_config(BASE | {"num_classes": -1})
    with pytest.raises(ValueError, match="the model has no classes, so that it must be None"):
        config.denoise(
            abstract_params(config.spec()), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros(1, int)
        )
