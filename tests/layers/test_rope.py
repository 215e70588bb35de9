import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GlmConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as cohere_apply
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as glm_apply
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama_apply

from jaxmodels.layers.rope import Rope, apply_rope, rope_from_hf, rope_to_hf, unread_rope_keys
from jaxmodels.layers.rope_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
    unscaled_frequencies,
)

MAX_POSITIONS = 40
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.25, 1.5],
    "long_factor": [2.0, 5.5, 31.0],
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# The parameters of every type, for a rotary_dim of 6 where lists must fit it; theta is filled in.
PARAMETERS = {
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    },
    "yarn": YARN,
    "yarn_mscale": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.1},
    "yarn_one_mscale": {**YARN, "mscale": 0.707},
    "yarn_attention_factor": {**YARN, "attention_factor": 0.5, "mscale": 2.0, "mscale_all_dim": 1.0},
    "yarn_betas": {**YARN, "beta_fast": 2.0, "beta_slow": 0.25, "truncate": False},
    "yarn_exact_bounds": {**YARN, "beta_fast": 1.5, "beta_slow": 1.5, "truncate": False},
    "yarn_shrink": {**YARN, "factor": 1.0},
    "yarn_ratio": {**YARN, "factor": None},
    "yarn_large": {**YARN, "factor": 32.0, "original_max_position_embeddings": 4096, "rope_theta": 150000.0},
    "longrope": LONGROPE,
    "longrope_factor": {**LONGROPE, "factor": 32.0},
    "longrope_attention_factor": {**LONGROPE, "attention_factor": 1.75},
    "proportional": {"rope_type": "proportional", "factor": 2.0},
}
HEADS = {"head_6": (6, 1.0), "part_6_of_10": (10, 0.6), "part_6_of_11": (11, 0.55)}


def hf_config(parameters, head_dim, cls=LlamaConfig, **rest):
    return cls(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=dict(parameters),
        **rest,
    )


def with_theta(parameters, theta=12345.6):
    return {"rope_theta": theta, **parameters}


def as_config(parameters):
    return {"rope_parameters": parameters, "max_position_embeddings": MAX_POSITIONS}


def frequencies(rope, length):
    inv_freq, factor = rope.scaling.frequencies(rope.rotary_dim, rope.theta, jnp.asarray([length]))
    return np.asarray(inv_freq)[0], factor


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("length", [1, 16, 17, 40, 41, 93])
@pytest.mark.parametrize(
    ("name", "head"),
    # Proportional scaling turns whole heads, and those are even.
    [(n, h) for n in PARAMETERS for h in HEADS if n != "proportional" or HEADS[h][0] % 2 == 0],
)
def test_frequencies_match_transformers(name, head, length):
    head_dim, fraction = HEADS[head]
    parameters = {**with_theta(PARAMETERS[name]), "partial_rotary_factor": fraction}
    rope = rope_from_hf(as_config(parameters), head_dim)
    expected, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](
        hf_config(parameters, head_dim), "cpu", seq_len=length
    )
    ours, our_factor = frequencies(rope, length)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected.numpy(), rtol=4e-7 if name == "dynamic" else 2.5e-7)
    np.testing.assert_allclose(our_factor, factor, rtol=1e-12)


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1e6, 12345.6])
@pytest.mark.parametrize("rotary_dim", [2, 6, 64, 80, 128])
def test_unscaled_frequencies_match_transformers(rotary_dim, theta):
    config = hf_config({"rope_type": "default", "rope_theta": theta}, rotary_dim)
    expected, _ = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    ours = unscaled_frequencies(rotary_dim, theta)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1.8e-7)


@pytest.mark.parametrize("name", ["default", *PARAMETERS])
def test_rotated_heads_match_transformers(name):
    """Each row against its own transformers module, which keeps one length for the whole batch."""
    parameters = with_theta(PARAMETERS.get(name, {"rope_type": "default"}))
    rope = rope_from_hf(as_config(parameters), 6)
    lengths = [9, 40, 90]
    positions = np.stack([np.arange(n - 4, n) for n in lengths])
    q = draw(3, 4, 2, 6)
    rotations = rope.rotations(jnp.asarray(positions), jnp.asarray(lengths))
    ours = apply_rope(jnp.asarray(q), rotations, rope.style)
    for row in range(3):
        tq = torch.tensor(q[row : row + 1]).transpose(1, 2)
        embedding = LlamaRotaryEmbedding(hf_config(parameters, 6))
        cos, sin = embedding(tq, torch.tensor(positions[row : row + 1]))
        expected = llama_apply(tq, tq, cos, sin)[0].transpose(1, 2)[0]
        np.testing.assert_allclose(ours[row], expected.numpy(), atol=2e-5)


def test_interleaved_partial_heads_match_glm():
    parameters = {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.6}
    rope = rope_from_hf(as_config(parameters), 10, style="interleaved")
    assert rope.rotary_dim == 6
    q, positions = draw(2, 5, 3, 10), np.asarray([[0, 1, 2, 3, 4], [30, 7, 8, 9, 33]])
    tq = torch.tensor(q).transpose(1, 2)
    cos, sin = GlmRotaryEmbedding(hf_config(parameters, 10, GlmConfig))(tq, torch.tensor(positions))
    expected = glm_apply(tq, tq, cos, sin)[0].transpose(1, 2)
    rotations = rope.rotations(jnp.asarray(positions), jnp.asarray([5, 34]))
    np.testing.assert_allclose(apply_rope(jnp.asarray(q), rotations, rope.style), expected.numpy(), atol=1e-5)


def test_interleaved_whole_heads_match_cohere():
    rope = Rope(rotary_dim=6, theta=100.0, style="interleaved")
    q, positions = draw(1, 5, 2, 6), np.arange(5)[None]
    rotations = rope.rotations(jnp.asarray(positions), jnp.asarray([5]))
    cos, sin = (torch.tensor(np.repeat(np.asarray(r), 2, axis=-1)) for r in (rotations.cos, rotations.sin))
    tq = torch.tensor(q).transpose(1, 2)
    expected = cohere_apply(tq, tq, cos, sin)[0].transpose(1, 2)
    np.testing.assert_allclose(apply_rope(jnp.asarray(q), rotations, rope.style), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("style", ["half_split", "interleaved"])
def test_features_beyond_rotary_dim_pass_through(style):
    rope = Rope(rotary_dim=4, style=style)
    x = jnp.asarray(draw(1, 3, 2, 9))
    y = apply_rope(x, rope.rotations(jnp.asarray([[3, 4, 5]]), jnp.asarray([6])), style)
    np.testing.assert_array_equal(y[..., 4:], x[..., 4:])
    assert jnp.abs(y[..., :4] - x[..., :4]).min() > 0
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("style", ["half_split", "interleaved"])
def test_scores_depend_on_distance_alone(style):
    rope = Rope(rotary_dim=8, theta=50.0, style=style)
    q, k = jnp.asarray(draw(1, 1, 1, 8)), jnp.asarray(draw(1, 1, 1, 8, seed=1))

    def score(i, j):
        rotated = [
            apply_rope(x, rope.rotations(jnp.asarray([[p]]), jnp.asarray([p + 1])), style)
            for x, p in ((q, i), (k, j))
        ]
        return float(jnp.sum(rotated[0] * rotated[1]))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-2


def test_bfloat16_heads_are_rotated_in_float32():
    rope = Rope(rotary_dim=6)
    rotations = rope.rotations(jnp.asarray([[100, 1000]]), jnp.asarray([1001]))
    x = jnp.asarray(draw(1, 2, 3, 6), jnp.bfloat16)
    y = apply_rope(x, rotations, rope.style)
    assert y.dtype == jnp.bfloat16
    expected = apply_rope(x.astype(jnp.float32), rotations, rope.style)
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


def test_large_positions_keep_the_accuracy_of_their_angles():
    rope = Rope(rotary_dim=64, theta=500000.0)
    positions = np.asarray([[131071, 1000003]])
    rotations = rope.rotations(jnp.asarray(positions), jnp.asarray([1000004]))
    angles = (positions[..., None].astype(np.float32) * unscaled_frequencies(64, 500000.0)).astype(np.float64)
    np.testing.assert_allclose(rotations.cos, np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(rotations.sin, np.sin(angles), atol=1e-6)


@pytest.mark.parametrize(
    "scaling",
    [
        DynamicNTKScaling(factor=2.0, max_position_embeddings=8),
        LongRopeScaling(
            short_factor=(1.0, 2.0, 3.0),
            long_factor=(4.0, 5.0, 6.0),
            original_max_position_embeddings=8,
            factor=2.0,
        ),
    ],
)
def test_rows_choose_their_frequencies_without_recompiling(scaling):
    rope = Rope(rotary_dim=6, scaling=scaling)
    compiled = jax.jit(rope.rotations)
    positions = jnp.asarray([[5], [5]])
    mixed = compiled(positions, jnp.asarray([8, 20]))
    swapped = compiled(positions, jnp.asarray([20, 8]))
    assert compiled._cache_size() == 1
    np.testing.assert_array_equal(mixed.cos[0], swapped.cos[1])
    np.testing.assert_array_equal(mixed.cos[1], swapped.cos[0])
    assert jnp.abs(mixed.cos[0] - mixed.cos[1]).max() > 1e-2


def test_lengths_that_do_not_matter_are_not_in_the_program():
    rope = Rope(rotary_dim=6, scaling=LinearScaling(factor=2.0))
    jaxpr = jax.make_jaxpr(rope.rotations)(jnp.zeros((2, 1), jnp.int32), jnp.zeros(2, jnp.int32))
    _, lengths = jaxpr.jaxpr.invars
    assert all(lengths is not v for equation in jaxpr.eqns for v in equation.invars)


@pytest.mark.parametrize("style", ["half_split", "interleaved"])
@pytest.mark.parametrize("window", [1, 16])
def test_every_layer_and_head_shares_one_cosine(window, style):
    rope = Rope(rotary_dim=6, style=style)

    def layers(q, k, positions, lengths):
        for _ in range(3):
            rotations = rope.rotations(positions, lengths)
            q, k = (apply_rope(1.5 * x, rotations, rope.style) for x in (q, k))
        return q, k

    q, k = jnp.ones((2, window, 4, 8)), jnp.ones((2, window, 2, 8))
    positions, lengths = jnp.zeros((2, window), jnp.int32), jnp.ones(2, jnp.int32)
    program = jax.jit(layers).lower(q, k, positions, lengths).compile().as_text()
    assert program.count(" cosine(") == 1
    assert program.count(" sine(") == 1


# --- Hugging Face configurations -------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [None, 0.6])
@pytest.mark.parametrize("name", ["default", *PARAMETERS])
def test_round_trip_is_exact(name, fraction):
    head_dim = 6 if fraction is None else 10
    parameters = with_theta(PARAMETERS.get(name, {"rope_type": "default"}))
    if fraction is not None:
        parameters["partial_rotary_factor"] = fraction
    rope = rope_from_hf(as_config(parameters), head_dim, style="interleaved")
    exported = rope_to_hf(rope, head_dim)
    assert rope_from_hf(json.loads(json.dumps(exported)), head_dim, style="interleaved") == rope
    assert exported["rope_parameters"] == {k: v for k, v in parameters.items() if v is not None}
    needs_maximum = name in ("dynamic", "yarn_ratio", "longrope", "longrope_attention_factor")
    assert exported.get("max_position_embeddings") == (MAX_POSITIONS if needs_maximum else None)
    hash(rope)


@pytest.mark.parametrize("name", PARAMETERS)
def test_older_configurations_read_the_same(name):
    new = with_theta({**PARAMETERS[name], "partial_rotary_factor": 0.6})
    scaling = {k: v for k, v in PARAMETERS[name].items() if k != "rope_theta"}
    for key in ("type", "rope_type"):
        old = {
            "rope_theta": new["rope_theta"],
            "rope_scaling": {
                key: scaling["rope_type"],
                **{k: v for k, v in scaling.items() if k != "rope_type"},
            },
            "partial_rotary_factor": 0.6,
            "max_position_embeddings": MAX_POSITIONS,
            "hidden_size": 40,
        }
        assert rope_from_hf(old, 10) == rope_from_hf(as_config(new), 10)


def test_a_configuration_without_scaling():
    expected = Rope(rotary_dim=10, theta=500.0)
    assert rope_from_hf({"rope_theta": 500.0}, 10) == expected
    assert rope_from_hf({"rope_theta": 500.0, "rope_scaling": None}, 10) == expected
    assert rope_from_hf({"rope_parameters": {"rope_theta": 500}}, 10) == expected
    assert rope_from_hf({}, 10, default_theta=500.0) == expected
    assert rope_from_hf({}, 10, default_theta=500.0, default_partial_rotary_factor=0.4).rotary_dim == 4


def test_phi3_keeps_its_original_length_outside():
    config = {
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2], "long_factor": [1.0, 3.0, 9.0]},
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
    }
    scaling = rope_from_hf(config, 6).scaling
    assert isinstance(scaling, LongRopeScaling)
    assert (scaling.original_max_position_embeddings, scaling.max_position_embeddings) == (16, 64)


def test_the_maximum_stands_in_for_a_missing_original():
    config = {
        "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 2.0},
        "max_position_embeddings": 64,
    }
    assert rope_from_hf(config, 6).scaling == YarnScaling(factor=2.0, original_max_position_embeddings=64)


def test_every_partial_dimension_survives_the_round_trip():
    for head_dim in range(2, 130):
        for rotary_dim in range(2, head_dim + 1, 2):
            rope = Rope(rotary_dim=rotary_dim)
            assert rope_from_hf(rope_to_hf(rope, head_dim), head_dim) == rope


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": {"type": "mrope"}}, r"type 'mrope'.*linear.*longrope"),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, "contradict"),
        ({"rope_scaling": {"type": "linear"}}, r"'linear' needs \['factor'\]"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be a number, got '2'"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "factor must be a number, got True"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"needs \['max_position_embeddings'\]"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, r"low_freq_factor.*high_freq_factor.*original"),
        ({"rope_scaling": {**YARN, "factor": None}}, "exactly one of factor and max_position_embeddings"),
        ({"rope_scaling": {**YARN, "truncate": 1}}, "truncate must be true or false, got 1"),
        ({"rope_scaling": {**YARN, "beta_fast": 0}}, "beta_fast must be a finite number > 0, got 0"),
        ({"rope_scaling": {**LONGROPE, "short_factor": 2.0}}, "short_factor must be a list"),
        (
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 2.5}},
            r"embeddings must be a whole number, got 2\.5",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling must be a mapping or null, got 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, r"nested.*\['full_attention'\]"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "default"}}, "contradict"),
        (
            {"partial_rotary_factor": 0.0},
            r"partial_rotary_factor must be .* > 0 and <= 1, got 0",
        ),
        ({"partial_rotary_factor": 0.5}, "head_dim=6 with partial_rotary_factor=0.5 gives 3 features"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"rope_theta": 0.5}, "rope_theta must be a finite number > 1, got 0.5"),
    ],
)
def test_bad_configurations_are_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        rope_from_hf({"rope_theta": 10000.0, **config}, 6)


def test_longrope_factors_must_fit_the_heads():
    with pytest.raises(ValueError, match=r"short_factor must hold a number for each of 4 pairs.*got 3"):
        rope_from_hf({"rope_theta": 1e4, "rope_scaling": {**LONGROPE, "factor": 2.0}}, 8)


def test_keys_of_the_mapping_that_are_not_read_are_named():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    plain = rope_from_hf({"rope_theta": 1e4, "rope_scaling": yarn}, 8)
    # As in transformers, which warns of these and computes the same.
    noted = {"attn_factor": 0.878, "finetuned": True, "short_mscale": 1.1, "long_mscale": 1.2}
    config = {"rope_theta": 1e4, "rope_scaling": {**yarn, **noted, "mrope_section": [2, 1, 1], "alpha": 3}}
    assert rope_from_hf(config, 8) == plain
    assert unread_rope_keys(config) == {"rope_scaling/alpha": 3}
    assert unread_rope_keys({"rope_parameters": {"rope_type": "default", "factor": 8.0}}) == {
        "rope_parameters/factor": 8.0
    }


def test_what_does_not_fit_is_refused():
    rope = Rope(rotary_dim=8)
    rotations = rope.rotations(jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32))
    with pytest.raises(ValueError, match="6 features cannot hold a rotary_dim of 8"):
        apply_rope(jnp.ones((1, 1, 1, 6)), rotations, "half_split")
    with pytest.raises(ValueError, match="'gptj'"):
        apply_rope(jnp.ones((1, 1, 1, 8)), rotations, "gptj")
    with pytest.raises(ValueError, match="'gptj'"):
        Rope(rotary_dim=8, style="gptj")
    with pytest.raises(ValueError, match="rotary_dim=8 does not fit head_dim=6"):
        rope_to_hf(rope, 6)
    with pytest.raises(ValueError, match="rotary_dim must be more than 2"):
        frequencies(Rope(rotary_dim=2, scaling=DynamicNTKScaling(factor=2.0, max_position_embeddings=4)), 9)
    with pytest.raises(ValueError, match="low_freq_factor=4"):
        Llama3Scaling(
            factor=2.0, low_freq_factor=4.0, high_freq_factor=4.0, original_max_position_embeddings=8
        )


def test_a_scaling_of_ones_own_has_no_hugging_face_name():
    @dataclasses.dataclass(frozen=True)
    class Still:
        def frequencies(self, rotary_dim, theta, lengths):
            return np.zeros((1, rotary_dim // 2), np.float32), 1.0

    rope = Rope(rotary_dim=6, scaling=Still())
    assert (rope.rotations(jnp.asarray([[9]]), jnp.asarray([10])).cos == 1).all()
    with pytest.raises(ValueError, match="Still has no Hugging Face rope_type"):
        rope_to_hf(rope, 6)
