"""GGUF files of the architectures that are read, against transformers' own reading of them."""

import sys

import gguf
import numpy as np
import pytest
import torch
from configurations import CASES
from gguf_writer import write_gguf
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.gguf.dequant import dequantize as transformers_dequantize
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.gguf import ARCHITECTURES, open_gguf
from jaxmodels.checkpoints.gguf.tensors import Place, dequantised
from jaxmodels.layers.rope_scaling import Llama3Scaling, LongRopeScaling

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
# By name in the tests: the architecture in the file, model_type, and configuration keys.
MODELS = {
    "llama": ("llama", "llama", {"head_dim": 8}),
    "llama_tied": ("llama", "llama", {"tie_word_embeddings": True, "head_dim": 16}),
    "mixtral": ("llama", "mixtral", {"num_local_experts": 4, "head_dim": 8}),
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen2_moe": (
        "qwen2moe",
        "qwen2_moe",
        {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 64},
    ),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 16}),
    "qwen3_moe": (
        "qwen3moe",
        "qwen3_moe",
        {**EXPERTS, "num_experts": 4, "head_dim": 16, "norm_topk_prob": True},
    ),
    "gemma": ("gemma", "gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", "gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 7}),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 7, "num_hidden_layers": 7},
    ),
    "phi3": ("phi3", "phi3", {}),
    "mamba": ("mamba", "mamba", {"state_size": 8, "time_step_rank": 4, "num_hidden_layers": 2}),
    "falcon_mamba": ("mamba", "falcon_mamba", {"state_size": 8, "time_step_rank": 4}),
    "gpt2": ("gpt2", "gpt2", {}),
    "lfm2": (
        "lfm2",
        "lfm2",
        {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "conv_bias": False},
    ),
}
# Architectures whose GGUF files transformers does not read.
NOT_READ_BY_TRANSFORMERS = {"gemma", "mixtral", "falcon_mamba"}
TOKENS = np.random.default_rng(0).integers(3, 61, size=(2, 19))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that makes a model of transformers with random weights."""

    def make(name):
        _, model_type, changes = MODELS[name]
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **{**SIZES, **changes, "initializer_range": 0.3})
        config._experts_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
        return model

    return make


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS), use_cache=False).logits.numpy()


def assert_close(ours, theirs):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_files_of_float32_are_the_model(name, build, tmp_path):
    model, architecture = build(name), MODELS[name][0]
    write_gguf(tmp_path / "model.gguf", model, architecture)
    assert_close(jm.load(tmp_path / "model.gguf")(TOKENS), logits(model))


def test_every_architecture_is_tested():
    assert {architecture for architecture, _, _ in MODELS.values()} == set(ARCHITECTURES)
    families = {case.family for case in CASES}
    assert {model_type for _, model_type, _ in MODELS.values()} <= families


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize(
    "name",
    [
        "llama",
        *(pytest.param(n, marks=pytest.mark.sweep) for n in MODELS if n not in NOT_READ_BY_TRANSFORMERS),
    ],
)
def test_quantised_files_are_what_transformers_reads(name, kind, build, tmp_path):
    model = build(name)
    write_gguf(tmp_path / "model.gguf", model, MODELS[name][0], gguf.GGMLQuantizationType[kind])
    # The configuration is given: transformers reads only some of its keys from the file.
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", config=model.config, dtype=torch.float32
    )
    assert_close(jm.load(tmp_path / "model.gguf")(TOKENS), logits(theirs.eval()))


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "IQ4_XS"])
def test_blocks_are_dequantised_as_transformers_does(kind, tmp_path):
    """Random blocks: every code occurs. No library packs numbers into the kinds of K."""
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    data = np.random.default_rng(0).integers(0, 256, (61, size), dtype=np.uint8)
    # Scales of blocks are float16 somewhere in them: without large exponents none is infinite or NaN.
    data = np.where(data & 0x7C == 0x7C, data & 0xBF, data)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", data, raw_dtype=number)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    stored = open_gguf(tmp_path / "model.gguf").tensors["token_embd.weight"]
    assert stored.shape == (61, block)
    ours = dequantised(Place(stored))
    theirs = transformers_dequantize(torch.tensor(data).flatten(), int(number)).reshape(61, block).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)


def test_files_in_several_parts(build, tmp_path):
    model = build("qwen2")
    write_gguf(tmp_path / "model.gguf", model, "qwen2", split_after=9)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3
    for path in (tmp_path, parts[0]):
        assert_close(jm.load(path)(TOKENS), logits(model))
    with pytest.raises(CheckpointError, match=r"is part 2 of 3; give the first part"):
        jm.load(parts[1])
    parts[2].unlink()
    with pytest.raises(CheckpointError, match=r"00003-of-00003.gguf is missing: .* is the first of 3 parts"):
        jm.load(parts[0])


def rewritten(path, changes=None, dropped=(), tensors=None):
    """The file at `path` with keys and tensors changed, left out or added."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = (changes or {}).get("general.architecture", keys["general.architecture"])
    new = path.with_name("changed.gguf")
    writer = gguf.GGUFWriter(new, architecture)
    for key, value in {**keys, **(changes or {})}.items():
        if key == "general.architecture" or key in dropped:
            continue
        add = {
            str: writer.add_string,
            float: writer.add_float32,
            int: writer.add_uint32,
            bool: writer.add_bool,
        }
        add[type(value)](key, value)
    held = {t.name: t.data for t in reader.tensors if t.name not in dropped}
    for name, data in {**held, **(tensors or {})}.items():
        writer.add_tensor(name, np.array(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return new


@pytest.fixture
def llama_file(build, tmp_path):
    write_gguf(tmp_path / "model.gguf", build("llama"), "llama")
    return tmp_path / "model.gguf"


def test_the_scaling_of_llama_3_from_its_divisors(llama_file):
    """Files hold the divisors of the frequencies, not the keys that they were made from."""
    keys = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, **keys}
    config = AutoConfig.for_model("llama", **{**SIZES, "head_dim": 8, "rope_parameters": rope})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 8, 2) / 8)
    divisors = (plain / scaled).numpy().astype(np.float32)
    changes = {"llama.rope.freq_base": 500000.0}
    path = rewritten(llama_file, changes, tensors={"rope_freqs.weight": divisors})
    scaling = jm.load(path).config.blocks[0].mixer.rope.scaling
    assert scaling == Llama3Scaling(**keys)
    path = rewritten(llama_file, changes, tensors={"rope_freqs.weight": divisors * [1, 2, 1, 1]})
    with pytest.raises(CheckpointError, match=r"divisors in 'rope_freqs.weight' are not those of Llama 3.1"):
        jm.load(path)


def test_longrope_from_its_tensors(build, tmp_path):
    write_gguf(tmp_path / "model.gguf", build("phi3"), "phi3")
    short, long = np.ones(4, np.float32), np.array([1, 2, 3, 4], np.float32)
    path = rewritten(
        tmp_path / "model.gguf",
        {"phi3.rope.scaling.original_context_length": 64},
        tensors={"rope_factors_short.weight": short, "rope_factors_long.weight": long},
    )
    scaling = jm.load(path).config.blocks[0].mixer.rope.scaling
    assert isinstance(scaling, LongRopeScaling)
    assert (scaling.short_factor, scaling.long_factor) == (tuple(short), tuple(long))
    assert scaling.original_max_position_embeddings == 64


@pytest.mark.parametrize(
    ("changes", "dropped", "tensors", "message"),
    [
        ({"general.architecture": "rwkv7"}, (), {}, r"'general.architecture' is 'rwkv7'; .* gemma, .*llama"),
        ({}, ("llama.block_count",), {}, r"changed.gguf: the key 'llama.block_count' is missing"),
        ({}, ("token_embd.weight",), {}, r"changed.gguf: the tensor 'token_embd.weight' is missing"),
        ({}, ("blk.1.ffn_up.weight",), {}, r"no tensor 'model.layers.1.mlp.up_proj.weight'"),
        (
            {},
            (),
            {"blk.0.attn_extra.weight": np.ones(3)},
            r"'blk.0.attn_extra.weight' .*not part of the model",
        ),
        ({"llama.attention.head_count": 5}, (), {}, r"changed.gguf: .*num_kv_heads|num_attention_heads"),
        ({"llama.block_count": 3}, (), {}, r"no tensor 'model.layers.2"),
        ({"llama.embedding_length": 16}, (), {}, r"shape \[61, 32\], the configuration asks for \[61, 16\]"),
        ({"llama.rope.dimension_count": 4}, (), {}, r"rope.dimension_count' is 4; .* whole heads of 8"),
    ],
)
def test_what_does_not_fit_is_named(changes, dropped, tensors, message, llama_file):
    path = rewritten(llama_file, changes, dropped, tensors)
    with pytest.raises(CheckpointError, match=message):
        jm.load(path)


def test_files_that_are_no_gguf(llama_file, tmp_path):
    data = llama_file.read_bytes()
    for name, content in (
        ("cut", data[: len(data) // 2]),
        ("header", data[:40]),
        ("text", b"GGUF"),
        ("empty", b""),
    ):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}.gguf is not a complete GGUF file"):
            jm.load(path)
    with pytest.raises(
        CheckpointError, match=r"holds 5 GGUF files, cut.gguf and others; give the path of one"
    ):
        jm.load(tmp_path)


def test_a_missing_package_names_the_extra(llama_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"needs the package gguf: pip install 'jaxmodels\[gguf\]'"):
        jm.load(llama_file)


def test_a_model_of_a_file_is_saved_like_any_other(llama_file, build, tmp_path):
    jm.save(jm.load(llama_file), tmp_path / "exported")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert_close(logits(theirs.eval()), logits(build("llama")))
