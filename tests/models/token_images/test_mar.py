"""MAR against a plain pass in torch over tensors in the published names; files both ways."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers_modules import assert_close
from model_helpers import quick_jit
from safetensors.torch import load_file, save_file

from jaxmodels.checkpoints.diffusers import load_token_image_model, save_token_image_model
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS

SIDE, PATCH, BUFFER, CLASSES, WIDE, WIDTH, HEAD, CHANNELS = 4, 2, 3, 5, 24, 18, 20, 8
PLACES, HEADS = SIDE**2, {"encoder_blocks": 4, "decoder_blocks": 3}
VALUES = {
    "_class_name": "MAR",
    "img_size": 128,
    "vae_stride": 16,
    "patch_size": PATCH,
    "vae_embed_dim": 2,
    "encoder_embed_dim": WIDE,
    "encoder_depth": 2,
    "encoder_num_heads": 4,
    "decoder_embed_dim": WIDTH,
    "decoder_depth": 1,
    "decoder_num_heads": 3,
    "class_num": CLASSES,
    "buffer_size": BUFFER,
    "diffloss_d": 2,
    "diffloss_w": HEAD,
    "label_drop_prob": 0.1,
}


def published():
    """Tensors with random entries, as the authors' code names and shapes them."""
    shapes = {
        "class_emb.weight": (CLASSES, WIDE),
        "fake_latent": (1, WIDE),
        "encoder_pos_embed_learned": (1, BUFFER + PLACES, WIDE),
        "mask_token": (1, 1, WIDTH),
        "decoder_pos_embed_learned": (1, BUFFER + PLACES, WIDTH),
        "diffusion_pos_embed_learned": (1, PLACES, WIDTH),
    }
    net = "diffloss.net."
    projections = {
        "z_proj": (WIDE, CHANNELS),
        "decoder_embed": (WIDTH, WIDE),
        f"{net}time_embed.mlp.0": (HEAD, 256),
        f"{net}time_embed.mlp.2": (HEAD, HEAD),
        f"{net}cond_embed": (HEAD, WIDTH),
        f"{net}input_proj": (HEAD, CHANNELS),
        f"{net}final_layer.linear": (2 * CHANNELS, HEAD),
        f"{net}final_layer.adaLN_modulation.1": (2 * HEAD, HEAD),
    }
    norms = {"z_proj_ln": WIDE, "encoder_norm": WIDE, "decoder_norm": WIDTH}
    for i in range(2):
        block = f"{net}res_blocks.{i}."
        norms[f"{block}in_ln"] = HEAD
        projections |= {f"{block}mlp.{j}": (HEAD, HEAD) for j in (0, 2)}
        projections[f"{block}adaLN_modulation.1"] = (3 * HEAD, HEAD)
    for half, width, depth in (("encoder_blocks", WIDE, 2), ("decoder_blocks", WIDTH, 1)):
        for i in range(depth):
            norms |= {f"{half}.{i}.norm1": width, f"{half}.{i}.norm2": width}
            projections |= {
                f"{half}.{i}.attn.qkv": (3 * width, width),
                f"{half}.{i}.attn.proj": (width, width),
                f"{half}.{i}.mlp.fc1": (4 * width, width),
                f"{half}.{i}.mlp.fc2": (width, 4 * width),
            }
    for name, (out, given) in projections.items():
        shapes |= {f"{name}.weight": (out, given), f"{name}.bias": (out,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()
    }
    for name, width in norms.items():
        tensors[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)
    return tensors


class Reference:
    """The network, one image at a time: unknown tokens are left out of the encoder."""

    def __init__(self, tensors):
        self.tensors = tensors

    def norm(self, x, name):
        weights = [self.tensors.get(f"{name}.{part}") for part in ("weight", "bias")]
        return torch.nn.functional.layer_norm(x, x.shape[-1:], *weights, 1e-6)

    def project(self, x, name):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def block(self, x, half, i):
        name, heads = f"{half}.{i}", HEADS[half]
        size, width = x.shape
        qkv = self.project(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = (a.reshape(size, heads, -1).transpose(0, 1) for a in qkv.split(width, dim=-1))
        weights = torch.softmax(q @ k.transpose(1, 2) / (width // heads) ** 0.5, dim=-1)
        x = x + self.project((weights @ v).transpose(0, 1).reshape(size, width), f"{name}.attn.proj")
        inside = torch.nn.functional.gelu(self.project(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + self.project(inside, f"{name}.mlp.fc2")

    def features(self, tokens, known, class_id):
        t = self.tensors
        of_class = t["fake_latent"] if class_id == CLASSES else t["class_emb.weight"][class_id][None]
        x = torch.cat([of_class.expand(BUFFER, WIDE), self.project(tokens, "z_proj")])
        x = self.norm(x + t["encoder_pos_embed_learned"][0], "z_proj_ln")
        there = torch.cat([torch.ones(BUFFER, dtype=bool), known])
        x = x[there]
        for i in range(2):
            x = self.block(x, "encoder_blocks", i)
        x = self.project(self.norm(x, "encoder_norm"), "decoder_embed")
        whole = t["mask_token"][0].repeat(BUFFER + PLACES, 1)
        whole[there] = x
        whole = self.block(whole + t["decoder_pos_embed_learned"][0], "decoder_blocks", 0)
        return self.norm(whole, "decoder_norm")[BUFFER:] + t["diffusion_pos_embed_learned"][0]

    def head(self, x, time, z):
        net = "diffloss.net."
        frequencies = torch.exp(-np.log(10000) * torch.arange(128) / 128)
        angles = float(time) * frequencies
        features = torch.cat([torch.cos(angles), torch.sin(angles)])[None]
        silu = torch.nn.functional.silu
        time = self.project(silu(self.project(features, f"{net}time_embed.mlp.0")), f"{net}time_embed.mlp.2")
        y = time + self.project(z, f"{net}cond_embed")
        x = self.project(x, f"{net}input_proj")
        for i in range(2):
            block = f"{net}res_blocks.{i}."
            shift, scale, gate = self.project(silu(y), f"{block}adaLN_modulation.1").chunk(3, dim=-1)
            inside = self.norm(x, f"{block}in_ln") * (1 + scale) + shift
            x = x + gate * self.project(silu(self.project(inside, f"{block}mlp.0")), f"{block}mlp.2")
        shift, scale = self.project(silu(y), f"{net}final_layer.adaLN_modulation.1").chunk(2, dim=-1)
        return self.project(self.norm(x, "") * (1 + scale) + shift, f"{net}final_layer.linear")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("mar")
    (path / "config.json").write_text(json.dumps(VALUES))
    save_file(published(), path / f"{STEM}.safetensors")
    return path


@pytest.fixture(scope="module")
def loaded(directory):
    return load_token_image_model(directory)


def test_features_are_those_of_an_encoder_without_the_unknown(loaded):
    config, params = loaded
    rng, reference = np.random.default_rng(0), Reference(published())
    tokens = rng.standard_normal((4, PLACES, CHANNELS)).astype(np.float32)
    known = rng.random((4, PLACES)) < np.array([0.0, 0.3, 0.8, 1.0])[:, None]
    classes = np.array([2, 0, CLASSES, 4], np.int32)
    ours = quick_jit(config.features)(params, jnp.asarray(tokens), jnp.asarray(known), jnp.asarray(classes))
    for row in range(4):
        expected = reference.features(*map(torch.from_numpy, (tokens[row], known[row])), int(classes[row]))
        assert_close(ours[row], expected)


def test_the_head_is_the_published_one(loaded):
    config, params = loaded
    rng, reference = np.random.default_rng(1), Reference(published())
    x = rng.standard_normal((2, 3, CHANNELS)).astype(np.float32)
    z = rng.standard_normal((2, 3, WIDTH)).astype(np.float32)
    for time in (0, 37, 999):
        ours = config.head(params["head"], jnp.asarray(x), jnp.full((2, 3), time), jnp.asarray(z))
        for row in range(2):
            assert_close(ours[row], reference.head(torch.from_numpy(x[row]), time, torch.from_numpy(z[row])))


def test_tokens_make_up_images_as_published(loaded):
    config, _ = loaded
    tokens = np.arange(2 * PLACES * CHANNELS, dtype=np.float32).reshape(2, PLACES, CHANNELS)
    patches = torch.from_numpy(tokens).reshape(2, SIDE, SIDE, 2, PATCH, PATCH)
    expected = torch.einsum("nhwcpq->nchpwq", patches).reshape(2, 2, SIDE * PATCH, SIDE * PATCH)
    latents = config.to_latents(jnp.asarray(tokens))
    np.testing.assert_array_equal(latents, expected.permute(0, 2, 3, 1))
    np.testing.assert_array_equal(config.to_tokens(latents), tokens)


def test_files_are_written_as_they_were_read(loaded, directory, tmp_path):
    save_token_image_model(*loaded, tmp_path)
    saved, given = (load_file(path / f"{STEM}.safetensors") for path in (tmp_path, directory))
    assert saved.keys() == given.keys()
    for name, tensor in given.items():
        assert torch.equal(saved[name], tensor), name
    assert load_token_image_model(tmp_path)[0] == loaded[0]


def test_what_it_cannot_be_is_refused_by_name():
    with pytest.raises(ConfigError, match="mlp_ratio"):
        TOKEN_IMAGE_MODELS.read(VALUES | {"mlp_ratio": 3.0})
    with pytest.raises(ConfigError, match="patch_size"):
        TOKEN_IMAGE_MODELS.read(VALUES | {"img_size": 100})


def test_tokens_of_another_image_are_refused(loaded):
    config, params = loaded
    with pytest.raises(ValueError, match=r"tokens: expected \[B, 16, 8\]"):
        config.features(params, jnp.zeros((1, 9, 8)), jnp.ones((1, 9), bool), jnp.zeros(1, jnp.int32))
