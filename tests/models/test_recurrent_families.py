"""What the tables of the recurrent families cannot show: defaults, published sizes, refusals."""

import dataclasses

import pytest
from configurations.case import hf_dict
from configurations.state_space import FALCON_MAMBA, LFM2, MAMBA, RECURRENT_GEMMA

import jaxmodels as jm
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import RMSNorm, WeightlessRMSNorm
from jaxmodels.layers.rglru import RGLRUMixer
from jaxmodels.layers.short_conv import ShortConv
from jaxmodels.layers.spec import count_params

# The keys of state-spaces/mamba-130m-hf, those of the authors' own package included.
MAMBA_130M = {
    "model_type": "mamba",
    "conv_kernel": 4,
    "d_inner": 1536,
    "d_model": 768,
    "expand": 2,
    "fused_add_norm": True,
    "hidden_act": "silu",
    "hidden_size": 768,
    "initializer_range": 0.1,
    "intermediate_size": 1536,
    "layer_norm_epsilon": 1e-5,
    "n_layer": 24,
    "num_hidden_layers": 24,
    "pad_vocab_size_multiple": 8,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "ssm_cfg": {},
    "state_size": 16,
    "time_step_floor": 1e-4,
    "time_step_init_scheme": "random",
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 48,
    "time_step_scale": 1.0,
    "use_bias": False,
    "use_conv_bias": True,
    "vocab_size": 50280,
}


def test_the_published_shape_of_mamba():
    config = jm.config_from_hf(MAMBA_130M)
    assert count_params(config.spec()) == 129_135_360
    assert config.residual_dtype == "float32" and config.tie_embeddings
    assert jm.config_from_hf({**MAMBA_130M, "time_step_rank": "auto"}) == config
    lacking = ("intermediate_size", "time_step_rank", "state_size", "conv_kernel", "expand")
    assert jm.config_from_hf({k: v for k, v in MAMBA_130M.items() if k not in lacking}) == config


def test_falcon_mamba_normalises_what_mamba_does_not():
    falcon = jm.config_from_hf({**MAMBA_130M, "model_type": "falcon_mamba", "mixer_rms_eps": 1e-4})
    norm = WeightlessRMSNorm(eps=1e-4)
    mixer = falcon.blocks[0].mixer
    assert (mixer.dt_norm, mixer.b_norm, mixer.c_norm) == (norm, norm, norm)
    assert count_params(falcon.spec()) == 129_135_360


def test_the_default_pattern_of_recurrent_gemma():
    values = {k: v for k, v in hf_dict(RECURRENT_GEMMA[0]).items() if k != "block_types"}
    config = jm.config_from_hf({**values, "num_hidden_layers": 5})
    kinds = [type(block.mixer) for block in config.blocks]
    assert kinds == [RGLRUMixer, RGLRUMixer, Attention, RGLRUMixer, RGLRUMixer]
    assert jm.config_to_hf(config)["block_types"] == ["recurrent", "recurrent", "attention"]
    # sqrt(24) = 4.899 to the eight bits of bfloat16.
    assert config.embed_scale == 4.90625


@pytest.mark.parametrize(
    ("changes", "d_ff"),
    [
        ({"block_auto_adjust_ff_dim": False, "intermediate_size": 100}, 100),
        ({"intermediate_size": 12288, "block_ffn_dim_multiplier": 1.0}, 8192),
        ({"intermediate_size": 6656, "block_ffn_dim_multiplier": 1.0}, 4608),  # 4437 and a third, rounded up
        ({"intermediate_size": 7, "block_ff_dim": 12288}, 8192),  # the key of the first checkpoints
        ({"intermediate_size": 100, "block_ffn_dim_multiplier": None}, 66),
        ({"intermediate_size": 100, "block_ffn_dim_multiplier": 1.5, "block_multiple_of": 10}, 100),
    ],
)
def test_the_width_of_lfm2s_feed_forward(changes, d_ff):
    values = {**hf_dict(LFM2[0]), "block_auto_adjust_ff_dim": True, **changes}
    assert jm.config_from_hf(values).blocks[0].ffn.d_ff == d_ff


def test_lfm2_attends_in_the_named_layers():
    values = hf_dict(LFM2[0])
    del values["layer_types"]
    for named, expected in (([1], [ShortConv, Attention, ShortConv]), (None, [Attention] * 3)):
        config = jm.config_from_hf({**values, "full_attn_idxs": named})
        assert [type(block.mixer) for block in config.blocks] == expected
    assert not jm.config_from_hf({**values, "tie_embedding": False}).tie_embeddings


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (MAMBA[0], {"hidden_act": "gelu"}, "'hidden_act' has the value 'gelu'.*'silu'"),
        (MAMBA[0], {"rms_norm": False}, "'rms_norm' has the value False"),
        (MAMBA[0], {"time_step_rank": "half"}, "'time_step_rank' must be a whole number, got 'half'"),
        (MAMBA[0], {"time_step_rank": 0}, "'time_step_rank' must be a whole number >= 1"),
        (MAMBA[0], {"mixer_rms_eps": 1e-6}, r"unknown config keys \{'mixer_rms_eps': 1e-06\}"),
        (RECURRENT_GEMMA[0], {"block_types": ["mamba"]}, r"'block_types' must hold some of .*\['mamba'\]"),
        (RECURRENT_GEMMA[0], {"block_types": []}, r"'block_types' must hold some of .*got \[\]"),
        (RECURRENT_GEMMA[0], {"intermediate_size": 41}, "'intermediate_size' must be even, got 41"),
        (RECURRENT_GEMMA[0], {"lru_width": 25}, "num_attention_heads=3 must divide .*lru_width=25"),
        (
            RECURRENT_GEMMA[0],
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "'rope_parameters' must be of rope_type 'default', got LinearScaling",
        ),
        (RECURRENT_GEMMA[0], {"embeddings_scale_by_sqrt_dim": False}, "'embeddings_scale_by_sqrt_dim'"),
        (LFM2[0], {"layer_types": ["conv", "full_attention"]}, "'layer_types' must hold 3 of .*'conv'"),
        (LFM2[0], {"layer_types": ["conv", "full_attention", "mamba"]}, "'layer_types' must hold 3 of"),
        (LFM2[0], {"partial_rotary_factor": 0.5}, r"'partial_rotary_factor'.*0\.5"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(case, changes, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf({**hf_dict(case), **changes})


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (MAMBA[0], {"b_norm": WeightlessRMSNorm()}, "'mamba' layout cannot express.*'blocks'"),
        (FALCON_MAMBA[0], {"dt_norm": None}, "'falcon_mamba' layout normalises without weights, got None"),
        (FALCON_MAMBA[0], {"b_norm": RMSNorm(dim=5)}, "'falcon_mamba' layout cannot express.*'blocks'"),
        (RECURRENT_GEMMA[0], {"conv_width": 3}, "'recurrent_gemma' layout cannot express.*'blocks'"),
        (LFM2[0], {"bias": True}, "'lfm2' layout cannot express.*'blocks'"),
    ],
)
def test_a_model_that_its_family_cannot_express_is_not_written(case, changes, message):
    config = jm.config_from_hf(hf_dict(case))
    first, *rest = config.blocks
    changed = dataclasses.replace(first, mixer=dataclasses.replace(first.mixer, **changes))
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_to_hf(dataclasses.replace(config, blocks=(changed, *rest)))


@pytest.mark.parametrize(("case", "other"), [(MAMBA[0], RECURRENT_GEMMA[1]), (LFM2[0], MAMBA[0])])
def test_layers_of_other_families_are_not_written(case, other):
    config = jm.config_from_hf(hf_dict(case))
    foreign = dataclasses.replace(config.blocks[0], mixer=jm.config_from_hf(hf_dict(other)).blocks[0].mixer)
    with pytest.raises(jm.ConfigError, match=f"'{case.family}' layout"):
        jm.config_to_hf(dataclasses.replace(config, blocks=(foreign, *config.blocks[1:])))
