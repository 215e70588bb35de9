"""Text encoders against `transformers`: every state and the pooled vector, files both ways, bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers_modules import assert_close, randomised
from model_helpers import quick_jit
from safetensors.numpy import load_file, save_file

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.text_encoders import load_text_encoder, save_text_encoder
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.text_encoders.encoded import EncodesText
from jaxmodels.models.text_encoders.families import text_encoder_from_config

CLIP = {
    "vocab_size": 50,
    "hidden_size": 21,
    "intermediate_size": 30,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 17,
    "projection_dim": 13,
    "bos_token_id": 48,
    "eos_token_id": 49,
}
T5 = {
    "vocab_size": 50,
    "d_model": 20,
    "d_kv": 7,
    "d_ff": 26,
    "num_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
}
LLAMA = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CASES = {
    "clip": ("CLIPTextModel", CLIP),
    "clip-mistaken-end": ("CLIPTextModel", CLIP | {"eos_token_id": 2, "hidden_act": "gelu"}),
    "clip-projected": ("CLIPTextModelWithProjection", CLIP | {"hidden_act": "gelu"}),
    "t5-gated": ("T5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}),
    "t5-plain": ("T5EncoderModel", T5 | {"feed_forward_proj": "relu", "relative_attention_num_buckets": 32}),
    "gemma2": ("Gemma2Model", LLAMA | {"head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 6}),
    "llama": ("LlamaForCausalLM", LLAMA),
}
CONFIGS = {
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "T5EncoderModel": "T5Config",
    "Gemma2Model": "Gemma2Config",
    "LlamaForCausalLM": "LlamaConfig",
}

# Two texts of 14 tokens: the end (49) twice in the first, and padding behind it.
TOKENS = np.random.default_rng(0).integers(3, 48, (2, 14))
TOKENS[0, [6, 9]], TOKENS[1, 13] = 49, 49
SEEN = np.arange(14) < np.array([[7], [14]])


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    architecture, config = CASES[request.param]
    described = getattr(transformers, CONFIGS[architecture])(**config)
    theirs = randomised(getattr(transformers, architecture)(described))
    directory = tmp_path_factory.mktemp("text")
    theirs.save_pretrained(directory)
    return theirs, directory


@pytest.mark.parametrize("masked", [False, True])
def test_all_states_are_those_of_transformers(saved, masked):
    theirs, directory = saved
    config, params = load_text_encoder(directory)
    assert isinstance(config, EncodesText)
    seen = {"attention_mask": torch.tensor(SEEN).int()} if masked else {}
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS), output_hidden_states=True, **seen)
    found = quick_jit(config.encode)(params, jnp.asarray(TOKENS), jnp.asarray(SEEN) if masked else None)
    assert len(found.states) == len(expected.hidden_states)
    last = getattr(expected, "last_hidden_state", expected.hidden_states[-1])
    # Padding whose window holds nothing but padding sees nothing here, and something arbitrary there.
    places = SEEN if masked and hasattr(theirs.config, "sliding_window") else np.full(SEEN.shape, True)
    pairs = zip(found.states[:-1], expected.hidden_states[:-1], strict=True)
    for ours, wanted in (*pairs, (found.last, last)):
        assert_close(ours[places], wanted[torch.tensor(places)], 1e-5)
    vector = getattr(expected, "text_embeds", getattr(expected, "pooler_output", None))
    assert (found.pooled is None) == (vector is None)
    if vector is not None:
        assert_close(found.pooled, vector, 1e-5)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    theirs, directory = saved
    save_text_encoder(*load_text_encoder(directory), tmp_path / "again")
    before, after = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "again"))
    prefix = "model." if type(theirs).__name__ == "Gemma2Model" else ""
    assert {prefix + name for name in before} == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[prefix + name], tensor)
    given, written = (json.loads((d / "config.json").read_text()) for d in (directory, tmp_path / "again"))
    assert {key: value for key, value in given.items() if key in written} == {
        key: value for key, value in written.items() if key in given
    }
    again = type(theirs).from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())


def test_names_of_older_releases_are_read(tmp_path):
    theirs = randomised(transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP)))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(renamed | {"text_model.embeddings.position_ids": np.arange(17)[None]}, file)
    _, params = load_text_encoder(tmp_path)
    np.testing.assert_array_equal(
        params["final_norm"]["scale"], theirs.final_layer_norm.weight.detach().numpy()
    )


def test_the_encoder_is_read_of_files_of_the_whole_of_t5(tmp_path):
    whole = randomised(transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)))
    whole.save_pretrained(tmp_path)
    config, params = load_text_encoder(tmp_path)
    with torch.no_grad():
        expected = whole.encoder(torch.tensor(TOKENS)).last_hidden_state
    assert_close(quick_jit(config.encode)(params, jnp.asarray(TOKENS)).last, expected, 1e-5)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("CLIPTextModel", {"eos_token_id": [1, 2]}, r"'eos_token_id'.* got \[1, 2\]"),
        ("CLIPTextModel", {"num_attention_heads": 4}, "must divide 'hidden_size' = 21, got 4"),
        ("T5EncoderModel", {"feed_forward_proj": "gated-step"}, "'feed_forward_proj' must be .*'gated-step'"),
        ("T5EncoderModel", {"relative_attention_num_buckets": 6}, "num_buckets=6 must be a multiple of 4"),
        ("T5EncoderModel", {"relative_attention_max_distance": 2}, "max_distance=2 must be above"),
        ("BertModel", {}, r"'architectures' is \['BertModel'\]; the text encoders are: CLIPTextModel, "),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(architecture, changes, message):
    base = {"model_type": "t5", **T5} if "T5" in architecture else {"model_type": "clip_text_model", **CLIP}
    with pytest.raises(ConfigError, match=message):
        text_encoder_from_config({"architectures": [architecture], **base, **changes})


def test_a_class_that_is_not_known_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTModel"], "model_type": "vit"}))
    with pytest.raises(CheckpointError, match=r"\['ViTModel'\] and 'model_type' is 'vit'.*T5EncoderModel"):
        load_text_encoder(tmp_path)


@pytest.mark.parametrize("architecture", ["CLIPTextModelWithProjection", "T5EncoderModel"])
def test_it_computes_in_the_dtype_of_its_parameters(architecture):
    kind = {"model_type": "t5", **T5} if "T5" in architecture else {"model_type": "clip_text_model", **CLIP}
    config = text_encoder_from_config({"architectures": [architecture], **kind})
    params = abstract_params(config.spec(), jnp.bfloat16)
    found = jax.eval_shape(config.encode, params, jnp.zeros((2, 5), int), jnp.ones((2, 5), bool))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}


def test_an_encoder_is_no_language_model(saved):
    theirs, directory = saved
    if "Model" in type(theirs).__name__ and type(theirs).__name__ != "Gemma2Model":
        with pytest.raises(CheckpointError, match=rf"names {type(theirs).__name__}, an encoder of texts"):
            jm.load(directory)


def test_texts_that_do_not_fit_are_refused():
    config = text_encoder_from_config(
        {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **CLIP}
    )
    params = abstract_params(config.spec())
    with pytest.raises(ValueError, match="18 tokens, but the encoder has learned 17 positions"):
        config.encode(params, jnp.zeros((1, 18), int))
    with pytest.raises(ValueError, match=r"tokens: expected integers \[B, S\], got float32\[1, 3\]"):
        config.encode(params, jnp.zeros((1, 3)))
