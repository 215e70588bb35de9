"""Models in few bits as the compressed-tensors library reads them, and as they are read again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from model_helpers import draw_tokens
from safetensors.torch import load_file

import jaxmodels as jm
from jaxmodels.layers.quantized.array import QuantizedArray, dequantized
from jaxmodels.layers.spec import walk
from jaxmodels.models.families import config_from_hf

QUANTIZE = ("int8", "int4", "int4-channel", "fp8", "mxfp4")
DENSE = {
    "model_type": "qwen2",
    "vocab_size": 29,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {**DENSE, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
# One tensor holds what are several weights here.
FUSED = {**DENSE, "model_type": "phi3", "pad_token_id": 0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Directories of models that are not quantised, by configuration."""
    directories = {}
    for values in (DENSE, EXPERTS, FUSED):
        directory = tmp_path_factory.mktemp(values["model_type"])
        jm.save(jm.init(config_from_hf(values), dtype="bfloat16"), directory)
        directories[values["model_type"]] = directory
    return directories


def decompressed(directory):
    """The checkpoint's tensors by name, as the library gives them."""
    stored = load_file(directory / "model.safetensors")
    settings = json.loads((directory / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(settings)
    for name, group in settings["config_groups"].items():
        scheme: QuantizationScheme = config.config_groups[name]
        compressor = BaseCompressor.get_value_from_registry(group["format"])
        for module in group["targets"]:
            names = [each for each in stored if each.startswith(f"{module}.weight")]
            parts = {each.removeprefix(f"{module}."): stored.pop(each) for each in names}
            stored[f"{module}.weight"] = compressor.decompress(parts, scheme)["weight"]
    return stored


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("family", ["qwen2", "mixtral", "phi3"])
def test_the_library_decompresses_what_the_weights_stand_for(plain, tmp_path, family, quantize):
    model = jm.load(plain[family], "float32", quantize=quantize)
    jm.save(model, tmp_path / "few")
    jm.save(model.dequantized(), tmp_path / "whole")
    meant = load_file(tmp_path / "whole" / "model.safetensors")
    found = decompressed(tmp_path / "few")
    assert set(found) == set(meant)
    for name, tensor in meant.items():
        torch.testing.assert_close(found[name].float(), tensor, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", QUANTIZE)
def test_a_quantised_model_is_read_again_without_loss(plain, tmp_path, quantize, dtype):
    model = jm.load(plain["mixtral"], dtype, quantize=quantize)
    jm.save(model, tmp_path)
    again = jm.load(tmp_path, dtype, quantize=quantize)
    found = dict(walk(again.params))
    for path, leaf in walk(model.params):
        assert isinstance(leaf, QuantizedArray) == isinstance(found[path], QuantizedArray), path
        np.testing.assert_array_equal(
            dequantized(leaf, jnp.float32), dequantized(found[path], jnp.float32), err_msg=path
        )
    assert jm.load(tmp_path, dtype).config == model.config


def test_weights_are_rounded_once_from_what_is_stored(plain):
    """Whatever the dtype that the model computes in, numbers are those of the stored weights."""
    few, whole = (jm.load(plain["qwen2"], dtype, quantize="int8") for dtype in ("bfloat16", "float32"))
    for (path, ours), (_, theirs) in zip(walk(few.params), walk(whole.params), strict=True):
        if isinstance(ours, QuantizedArray):
            assert ours.dtype == jnp.bfloat16 and theirs.dtype == jnp.float32
            np.testing.assert_array_equal(ours.numbers, theirs.numbers, err_msg=path)
    assert few.config.dtype_of(few.params) == jnp.bfloat16
    tokens = draw_tokens(1, 5)
    np.testing.assert_allclose(few(tokens), whole(tokens), atol=0.1)


def test_what_cannot_be_done_with_few_bits_is_refused(plain, tmp_path):
    model = jm.load(plain["qwen2"], quantize="int8")
    with pytest.raises(ValueError, match="format='orbax': parameter 'embed/weight' is held as int8"):
        jm.save(model, tmp_path / "orbax", format="orbax")
    with pytest.raises(ValueError, match="with_adapter: parameter 'embed/weight' is held as int8"):
        model.with_adapter(tmp_path)
    with pytest.raises(ValueError, match="is held as int8 already"):
        model.quantized("int4")
    with pytest.raises(ValueError, match="'int2'"):
        jm.load(plain["qwen2"], quantize="int2")
    with pytest.raises(ValueError, match="none of the weights"):
        jm.load(plain["qwen2"], quantize="mxfp4-experts")
