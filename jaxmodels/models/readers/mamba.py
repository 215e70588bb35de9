"""What the families of Mamba-1 blocks have in common, in the layout of transformers."""

import math
from dataclasses import replace
from typing import Any

from jaxmodels.layers.mamba_mixer import MambaMixer
from jaxmodels.layers.norm import Norm, RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

# How weights are drawn, which kernel runs, and what remains of the authors' own configuration.
INERT = (
    "d_inner", "d_model", "layer_types", "n_layer", "pad_vocab_size_multiple",
    "rescale_prenorm_residual", "ssm_cfg", "time_step_floor", "time_step_init_scheme", "time_step_max",
    "time_step_min", "time_step_scale", "use_associative_scan", "use_falcon_mambapy", "use_mambapy",
)  # fmt: skip

MIXER = "backbone.layers.{i}.mixer"

WEIGHTS = (
    Weight("embed/weight", "backbone.embeddings.weight"),
    Weight("final_norm/scale", "backbone.norm_f.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("blocks/{i}/mixer_norm/scale", "backbone.layers.{i}.norm.weight"),
    Weight("blocks/{i}/mixer/w_x", f"{MIXER}.in_proj.weight"),
    Weight("blocks/{i}/mixer/w_z", f"{MIXER}.in_proj.weight"),
    Weight("blocks/{i}/mixer/b_x", f"{MIXER}.in_proj.bias"),
    Weight("blocks/{i}/mixer/b_z", f"{MIXER}.in_proj.bias"),
    Weight("blocks/{i}/mixer/conv_w", f"{MIXER}.conv1d.weight", "f 1 w -> w f"),
    Weight("blocks/{i}/mixer/conv_b", f"{MIXER}.conv1d.bias"),
    Weight("blocks/{i}/mixer/w_dt_down", f"{MIXER}.x_proj.weight"),
    Weight("blocks/{i}/mixer/w_bc", f"{MIXER}.x_proj.weight", "(s r) d -> s r d"),
    Weight("blocks/{i}/mixer/w_dt_up", f"{MIXER}.dt_proj.weight"),
    Weight("blocks/{i}/mixer/dt_bias", f"{MIXER}.dt_proj.bias"),
    Weight("blocks/{i}/mixer/a_log", f"{MIXER}.A_log", "f r -> r f"),
    Weight("blocks/{i}/mixer/d_skip", f"{MIXER}.D"),
    Weight("blocks/{i}/mixer/w_out", f"{MIXER}.out_proj.weight"),
    Weight("blocks/{i}/mixer/b_out", f"{MIXER}.out_proj.bias"),
)


def read_decoder(reader: ConfigReader, selected_norm: Norm | None) -> Decoder:
    """The decoder of Mamba blocks whose step size's features, B and C pass through `selected_norm`."""
    reader.expect("hidden_act", "silu", "swish")
    reader.expect("rms_norm", True)
    d_model = reader.positive("hidden_size")
    if reader.values.get("time_step_rank") == "auto":
        reader.consume("time_step_rank")
        dt_rank = math.ceil(d_model / 16)
    else:
        dt_rank = reader.positive_or("time_step_rank", math.ceil(d_model / 16))
    mixer = MambaMixer(
        d_model=d_model,
        d_inner=reader.positive_or("intermediate_size", reader.positive_or("expand", 2) * d_model),
        state_dim=reader.positive_or("state_size", 16),
        dt_rank=dt_rank,
        conv_width=reader.positive_or("conv_kernel", 4),
        projection_bias=reader.flag("use_bias", False),
        conv_bias=reader.flag("use_conv_bias", True),
        dt_norm=selected_norm,
        b_norm=selected_norm,
        c_norm=selected_norm,
    )
    norm = RMSNorm(dim=d_model, eps=reader.epsilon("layer_norm_epsilon", 1e-5))
    wide = reader.flag("residual_in_fp32", True)
    blocks = [Block(mixer_norm=norm, mixer=mixer)] * reader.positive("num_hidden_layers")
    config = dense.finish_decoder(reader, blocks, norm, default_tie=True)
    return replace(config, residual_dtype="float32" if wide else None)


def write_decoder(config: Decoder) -> dict[str, Any]:
    """The keys that `read_decoder` reads."""
    mixer, norm = config.blocks[0].mixer, config.final_norm
    if not isinstance(mixer, MambaMixer) or not isinstance(norm, RMSNorm):
        raise ConfigError(f"the {config.family!r} layout holds Mamba-1 blocks and RMSNorms alone")
    return {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": len(config.blocks),
        "intermediate_size": mixer.d_inner,
        "state_size": mixer.state_dim,
        "time_step_rank": mixer.dt_rank,
        "conv_kernel": mixer.conv_width,
        "use_bias": mixer.projection_bias,
        "use_conv_bias": mixer.conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": norm.eps,
        "residual_in_fp32": config.residual_dtype == "float32",
        "tie_word_embeddings": config.tie_embeddings,
    }
