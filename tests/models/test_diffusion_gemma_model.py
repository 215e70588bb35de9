"""DiffusionGemma against transformers: both readings of its weights, and what is written of it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_gemma_models import CASES, build
from model_helpers import ARCHITECTURES
from safetensors.numpy import load_file

import jaxmodels as jm
from jaxmodels.layers.spec import walk
from jaxmodels.models.denoising import denoise, guess_of

LENGTHS = (13, 4)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def wrapped(**changes):
    """A configuration as transformers writes it, with changes to its text part."""
    values = json.loads((Path(build("longer_window").directory) / "config.json").read_text())
    beside = {key: changes.pop(key) for key in ("tie_word_embeddings",) if key in changes}
    return values | beside | {"text_config": {**values["text_config"], **changes}}


IN_TIERS = ["longer_window", *(pytest.param(case, marks=pytest.mark.sweep) for case in list(CASES)[1:])]


@pytest.mark.sweep
@pytest.mark.parametrize("case", IN_TIERS)
def test_both_readings_compute_what_transformers_does(case):
    """Ragged prompts and three canvases, each denoised twice and then made history."""
    theirs = build(case)
    model = jm.load(theirs.directory, text_only=True)
    config, params = model.config, model.params
    length, rng = config.denoising.canvas_length, np.random.default_rng(1)
    prompts = np.asarray(rng.integers(config.vocab_size, size=(2, max(LENGTHS))))
    caches = [theirs.new_cache() for _ in LENGTHS]
    encode = jax.jit(lambda tokens, cache, valid: config.peek(params, tokens, cache, valid=valid))
    refine = jax.jit(lambda canvas, guess, cache: denoise(config, params, canvas, guess, cache))
    commit = jax.jit(config.commit)

    def by_row(tokens, valid, call):
        return [
            call(tokens[row : row + 1, :n], cache)
            for row, (n, cache) in enumerate(zip(valid, caches, strict=True))
        ]

    window, valid = prompts, LENGTHS
    cache = config.init_cache(2, max(LENGTHS) + 4 * length)
    for _ in range(3):
        scored, pending = encode(jnp.asarray(window), cache, jnp.asarray(valid))
        cache = commit(pending)
        for row, logits in enumerate(by_row(window, valid, theirs.encode)):
            assert_close(scored.logits[row, : valid[row]], logits[0])

        window, valid = rng.integers(config.vocab_size, size=(2, length)), (length, length)
        guess, before = jnp.zeros((2, length, config.d_model)), None
        for _ in range(2):
            scored, pending = refine(jnp.asarray(window), guess, cache)
            cache = commit(pending, jnp.zeros(2, jnp.int32))
            expected = np.concatenate(
                [
                    theirs.denoise(window[row : row + 1], None if before is None else before[row][None], c)
                    for row, c in enumerate(caches)
                ]
            )
            assert_close(scored.logits, expected)
            before = 2 * expected
            guess = guess_of(config, params, 2 * scored.logits)


@pytest.mark.parametrize("case", CASES)
def test_the_text_part_is_exported_bit_for_bit(case, tmp_path):
    theirs = build(case)
    model = jm.load(theirs.directory, text_only=True)
    jm.save(model, tmp_path)
    written, stored = (load_file(Path(path) / "model.safetensors") for path in (tmp_path, theirs.directory))
    seen = {name for name in stored if "vision" in name}
    assert written.keys() == stored.keys() - seen
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, stored[name], err_msg=name)
    again = jm.load(tmp_path)
    assert again.config == model.config
    for (path, leaf), (_, other) in zip(walk(again.params), walk(model.params), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=path)


@pytest.mark.parametrize("case", ["longer_window", "longer_canvas"])
def test_transformers_reads_the_configuration_that_is_written(case):
    from transformers import DiffusionGemmaTextConfig

    theirs = build(case)
    stored = json.loads((Path(theirs.directory) / "config.json").read_text())
    written = jm.config_to_hf(jm.config_from_hf(stored, text_only=True))
    assert written.pop("canvas_length") == stored["canvas_length"]
    again, kept = DiffusionGemmaTextConfig(**written).to_dict(), theirs.model.config.text_config.to_dict()
    different = {key for key in kept if again.get(key) != kept[key]}
    assert different <= {"bos_token_id", "eos_token_id", "dtype", "_experts_implementation"}


def test_it_says_of_itself_what_it_is():
    config = jm.config_from_hf(wrapped(), text_only=True)
    assert config.family == "diffusion_gemma_text"
    assert config.filling is not None and config.filling.mask_token is None
    assert config.denoising.canvas_length == 5 and config.denoising.own == ("scale",)
    sliding, full = config.blocks[0].mixer, config.blocks[1].mixer
    assert (sliding.keys_as_values, full.keys_as_values) == (False, True)
    assert (sliding.scale, full.head_dim, full.num_kv_heads) == (1.0, 14, 1)


def test_the_keys_of_published_files_mean_the_same():
    """`global_head_dim` and `num_global_key_value_heads`, of which transformers makes `per_layer_config`."""
    written = wrapped()
    published = wrapped(global_head_dim=14, num_global_key_value_heads=1, attention_k_eq_v=True)
    del published["text_config"]["per_layer_config"]
    assert jm.config_from_hf(published, text_only=True) == jm.config_from_hf(written, text_only=True)


def test_canvases_are_of_256_tokens_where_a_file_does_not_say():
    values = wrapped()
    del values["canvas_length"]
    assert jm.config_from_hf(values, text_only=True).denoising.canvas_length == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": False}, "'tie_word_embeddings' has the value False"),
        ({"use_bidirectional_attention": "all"}, "'use_bidirectional_attention' has the value 'all'"),
        ({"attention_bias": True}, "'attention_bias' has the value True"),
        ({"attention_k_eq_v": False}, "'attention_k_eq_v' has the value False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'layer_types' must end in"),
        ({"top_k_experts": 6}, "'top_k_experts' must be at most 'num_experts' = 5, got 6"),
        ({"num_experts": None}, "'num_experts' is missing"),
        ({"per_layer_config": {"1": {"head_dim": 14, "sliding_window": 3}}}, "'per_layer_config' must hold"),
        ({"per_layer_config": {"0": {"head_dim": 14}}}, "'sliding_attention' layers the same heads"),
        ({"per_layer_config": {"1": {"num_key_value_heads": 3}}}, "must divide 'num_attention_heads' = 4"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "'rope_parameters' must hold"),
        (
            {"rope_parameters": {
                "full_attention": {"rope_theta": 1e4},
                "sliding_attention": {"rope_theta": 1e4, "partial_rotary_factor": 0.4},
            }},
            "'rope_parameters' must turn whole heads of 'sliding_attention' layers",
        ),
        ({"hidden_size_per_layer_input": 4}, "hidden_size_per_layer_input"),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf(wrapped(**changes), text_only=True)


def test_without_being_asked_for_the_text_alone_it_is_refused():
    with pytest.raises(jm.ConfigError, match="'diffusion_gemma' holds a vision part"):
        jm.config_from_hf(wrapped())


def test_a_model_that_reads_no_canvas_says_so():
    config = ARCHITECTURES["attention"]
    with pytest.raises(ValueError, match="the model reads no canvas"):
        denoise(config, {}, jnp.zeros((1, 4), int), jnp.zeros((1, 4, config.d_model)), None)
