"""RecurrentGemma (`model_type` "recurrent_gemma"): Griffin's recurrent blocks and local attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rglru import RGLRUMixer
from jaxmodels.layers.rope import Rope, rope_to_hf
from jaxmodels.layers.rope_scaling import UNSCALED
from jaxmodels.layers.window import Mixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

# How weights are drawn.
INERT = ("final_w_init_variance_scale", "w_init_variance_scale")

WEIGHTS = (
    Weight("embed/weight", "model.embed_tokens.weight"),
    Weight("final_norm/scale", "model.final_norm.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("blocks/{i}/mixer_norm/scale", "model.layers.{i}.temporal_pre_norm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", "model.layers.{i}.channel_pre_norm.weight"),
    *(
        Weight(f"blocks/{{i}}/mixer/{ours}", f"model.layers.{{i}}.temporal_block.{theirs}", axes)
        for ours, theirs, axes in (
            ("w_x", "linear_x.weight", None),
            ("b_x", "linear_x.bias", None),
            ("w_y", "linear_y.weight", None),
            ("b_y", "linear_y.bias", None),
            ("conv_w", "conv_1d.weight", "f 1 w -> w f"),
            ("conv_b", "conv_1d.bias", None),
            ("w_input_gate", "rg_lru.input_gate_weight", None),
            ("b_input_gate", "rg_lru.input_gate_bias", None),
            ("w_recurrence_gate", "rg_lru.recurrent_gate_weight", None),
            ("b_recurrence_gate", "rg_lru.recurrent_gate_bias", None),
            ("rate", "rg_lru.recurrent_param", None),
            ("w_out", "linear_out.weight", None),
            ("b_out", "linear_out.bias", None),
            ("w_q", "q_proj.weight", "(n h) d -> n h d"),
            ("w_k", "k_proj.weight", "(k h) d -> k h d"),
            ("w_v", "v_proj.weight", "(k h) d -> k h d"),
            ("w_o", "o_proj.weight", "d (n h) -> d n h"),
            ("b_q", "q_proj.bias", "(n h) -> n h"),
            ("b_k", "k_proj.bias", "(k h) -> k h"),
            ("b_v", "v_proj.bias", "(k h) -> k h"),
            ("b_o", "o_proj.bias", None),
        )
    ),
    *(
        Weight(f"blocks/{{i}}/ffn/{kind}_{part}", f"model.layers.{{i}}.mlp_block.{part}_proj.{theirs}")
        for part in ("gate", "up", "down")
        for kind, theirs in (("w", "weight"), ("b", "bias"))
    ),
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("embeddings_scale_by_sqrt_dim", True)
    activation = dense.read_activation(reader, "hidden_activation", "gelu_pytorch_tanh")
    heads = dense.read_heads(reader)
    attention = Attention(
        **heads,
        rope=_read_rope(reader, heads["head_dim"]),
        sliding_window=reader.positive_or("attention_window_size", 2048),
        qkv_bias=reader.flag("attention_bias", False),
        out_bias=True,
    )
    recurrent = RGLRUMixer(
        d_model=heads["d_model"],
        d_inner=reader.positive_or("lru_width", heads["d_model"]),
        num_blocks=heads["num_heads"],
        conv_width=reader.positive_or("conv1d_width", 4),
        activation=activation,
    )
    kinds: Mapping[str, Mixer] = {"recurrent": recurrent, "attention": attention}
    types = reader.take_or("block_types", list, ["recurrent", "recurrent", "attention"])
    if not types or not all(kind in list(kinds) for kind in types):
        raise ConfigError(
            f"{reader.name}: key 'block_types' must hold some of {sorted(kinds)}, got {shown(types)}"
        )
    d_ff, norm = reader.positive("intermediate_size"), dense.read_norm(reader, offset=1.0)
    if d_ff % 2:
        raise ConfigError(f"{reader.name}: key 'intermediate_size' must be even, got {d_ff}")
    ffn = GatedMLP(d_model=norm.dim, d_ff=d_ff // 2, activation=activation, bias=True)
    softcap = reader.factor("logits_soft_cap", 30.0)
    blocks = [
        Block(mixer_norm=norm, mixer=kinds[types[i % len(types)]], ffn_norm=norm, ffn=ffn)
        for i in range(reader.positive("num_hidden_layers"))
    ]
    config = dense.finish_decoder(reader, blocks, norm, default_tie=True)
    # Their scale is rounded to bfloat16 whatever the model's dtype is.
    return replace(config, embed_scale=float(jnp.bfloat16(norm.dim**0.5)), logit_softcap=softcap)


def _read_rope(reader: ConfigReader, head_dim: int) -> Rope:
    rope = dense.read_partial_rope(reader, head_dim, default_factor=0.5)
    if rope.scaling != UNSCALED:
        raise ConfigError(
            f"{reader.name}: 'rope_parameters' must be of rope_type 'default', got {rope.scaling}"
        )
    return rope


def write_config(config: Decoder) -> dict[str, Any]:
    mixers, ffn, norm = [block.mixer for block in config.blocks], config.blocks[0].ffn, config.final_norm
    if not isinstance(ffn, GatedMLP) or not isinstance(norm, RMSNorm):
        raise ConfigError("the 'recurrent_gemma' layout holds gated feed-forwards and RMSNorms alone")
    types = ["recurrent" if isinstance(mixer, RGLRUMixer) else "attention" for mixer in mixers]
    period = next(p for p in range(1, len(types) + 1) if all(t == types[i % p] for i, t in enumerate(types)))
    written = {
        "architectures": ["RecurrentGemmaForCausalLM"],
        "model_type": "recurrent_gemma",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": 2 * ffn.d_ff,
        "num_hidden_layers": len(mixers),
        "block_types": types[:period],
        "hidden_activation": ffn.activation,
        "rms_norm_eps": norm.eps,
        "logits_soft_cap": config.logit_softcap,
        "tie_word_embeddings": config.tie_embeddings,
    }
    for mixer in mixers:
        if isinstance(mixer, RGLRUMixer):
            written |= {"num_attention_heads": mixer.num_blocks}
            written |= {"lru_width": mixer.d_inner, "conv1d_width": mixer.conv_width}
        if isinstance(mixer, Attention) and mixer.rope is not None:
            rotary = rope_to_hf(mixer.rope, mixer.head_dim)["rope_parameters"]
            written |= {
                "num_attention_heads": mixer.num_heads,
                "num_key_value_heads": mixer.num_kv_heads,
                "head_dim": mixer.head_dim,
                "attention_window_size": mixer.sliding_window,
                "attention_bias": mixer.qkv_bias,
                "rope_parameters": {"partial_rotary_factor": 1.0, **rotary},
            }
    return written


FAMILY = Family(
    model_type="recurrent_gemma",
    summary="RecurrentGemma (Griffin)",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
    unused=(r"model\.layers\.\d+\.temporal_block\.rotary_emb\.inv_freq",),
)
