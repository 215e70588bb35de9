"""MAGE against a plain pass in torch over tensors in the published names; files both ways."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers_modules import assert_close
from model_helpers import quick_jit
from safetensors.torch import load_file, save_file
from token_image_models import MAGE

from jaxmodels.checkpoints.diffusers import load_token_image_model, save_token_image_model
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS

WIDE, NARROW, VOCAB, PLACES = 24, 18, 1021, 16


def published():
    """Tensors with random entries, as the authors' code names and shapes them."""
    shapes = {
        "token_emb.word_embeddings.weight": (VOCAB, WIDE),
        "token_emb.position_embeddings.weight": (PLACES + 1, WIDE),
        "decoder_embed.weight": (NARROW, WIDE),
        "decoder_embed.bias": (NARROW,),
        "decoder_pos_embed_learned": (1, PLACES + 1, NARROW),
        "mlm_layer.fc.weight": (WIDE, NARROW),
        "mlm_layer.fc.bias": (WIDE,),
        "mlm_layer.bias": (1, 1, VOCAB),
        "mask_token": (1, 1, NARROW),
        "vqgan.encoder.conv_in.bias": (5,),
    }
    norms = {"token_emb.LayerNorm": WIDE, "norm": WIDE, "decoder_norm": NARROW, "mlm_layer.ln": WIDE}
    for half, width, depth in (("blocks", WIDE, 3), ("decoder_blocks", NARROW, 2)):
        for i in range(depth):
            norms |= {f"{half}.{i}.norm1": width, f"{half}.{i}.norm2": width}
            for name, out, given in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", 4 * width, width),
                ("mlp.fc2", width, 4 * width),
            ):
                shapes |= {f"{half}.{i}.{name}.weight": (out, given), f"{half}.{i}.{name}.bias": (out,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for name, shape in shapes.items()
    }
    for name, width in norms.items():
        tensors[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)
    return tensors


def reference(tensors, tokens):
    """The generation's forward pass: no token is dropped, masked ones are given the first's features."""
    functional = torch.nn.functional

    def norm(x, name, eps=1e-6):
        return functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)

    def project(x, name):
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def block(x, name, heads):
        batch, size, width = x.shape
        qkv = project(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = qkv.reshape(batch, size, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + project(found, f"{name}.attn.proj")
        inside = functional.gelu(project(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + project(inside, f"{name}.mlp.fc2")

    words = tensors["token_emb.word_embeddings.weight"]
    x = norm(words[tokens] + tensors["token_emb.position_embeddings.weight"], "token_emb.LayerNorm")
    for i in range(3):
        x = block(x, f"blocks.{i}", 4)
    x = project(norm(x, "norm"), "decoder_embed")
    x = torch.where((tokens == VOCAB - 1)[:, :, None], x[:, :1], x) + tensors["decoder_pos_embed_learned"]
    for i in range(2):
        x = block(x, f"decoder_blocks.{i}", 3)
    x = functional.gelu(project(norm(x, "decoder_norm"), "mlm_layer.fc"))
    return norm(x, "mlm_layer.ln", 1e-5) @ words.T + tensors["mlm_layer.bias"]


@pytest.fixture
def saved(tmp_path):
    tensors = published()
    save_file(tensors, tmp_path / f"{STEM}.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(MAGE))
    return tensors, tmp_path


def test_logits_are_those_of_the_published_pass(saved):
    tensors, directory = saved
    config, params = load_token_image_model(directory)
    assert (config.mask_token, config.class_token, config.places) == (1020, 96, PLACES)
    tokens = np.random.default_rng(0).integers(20, size=(3, PLACES + 1))
    tokens[:, 0] = config.class_token
    tokens[0, 1:], tokens[1, 4:9] = config.mask_token, config.mask_token
    ours = quick_jit(config.logits)(params, jnp.asarray(tokens))
    assert_close(ours, reference(tensors, torch.tensor(tokens)))


def test_files_are_written_as_they_were_read(saved, tmp_path):
    """But for the tensors of the autoencoder and those that are never read."""
    tensors, directory = saved
    config, params = load_token_image_model(directory)
    save_token_image_model(config, params, tmp_path / "again")
    again = load_file(tmp_path / "again" / f"{STEM}.safetensors")
    assert tensors.keys() - again.keys() == {"mask_token", "vqgan.encoder.conv_in.bias"}
    assert all(torch.equal(again[name], tensors[name]) for name in again)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {key: written[key] for key in MAGE} == MAGE


def test_what_does_not_fit_is_refused():
    config = TOKEN_IMAGE_MODELS.read(MAGE)
    with pytest.raises(ValueError, match=r"expected \[B, 17\], the class and 16 codes, got \[2, 16\]"):
        config.logits(abstract_params(config.spec()), jnp.zeros((2, 16), jnp.int32))
    for changes, message in (
        ({"mlp_ratio": 2}, "'mlp_ratio' has the value 2"),
        ({"num_heads": 5}, "'num_heads' must divide"),
        ({"patch_size": 15}, "'patch_size' must divide 'img_size' = 64"),
    ):
        with pytest.raises(ConfigError, match=message):
            TOKEN_IMAGE_MODELS.read(MAGE | changes)
