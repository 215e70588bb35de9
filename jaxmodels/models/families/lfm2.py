"""LFM2 (`model_type` "lfm2"): gated short convolutions, and attention in some layers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.checks import MOST_INT32, shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import rope_to_hf
from jaxmodels.layers.short_conv import ShortConv
from jaxmodels.layers.window import Mixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

# How weights are drawn, and the names that first checkpoints have for sizes beside those that are read.
INERT = (
    "block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu",
    "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads", "use_pos_enc",
)  # fmt: skip

ENDS_AND_NORMS = (
    Weight("embed/weight", "model.embed_tokens.weight"),
    Weight("final_norm/scale", "model.embedding_norm.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("blocks/{i}/mixer_norm/scale", "model.layers.{i}.operator_norm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", "model.layers.{i}.ffn_norm.weight"),
)

MIXERS = (
    Weight("blocks/{i}/mixer/w_b", "model.layers.{i}.conv.in_proj.weight"),
    Weight("blocks/{i}/mixer/w_c", "model.layers.{i}.conv.in_proj.weight"),
    Weight("blocks/{i}/mixer/w_x", "model.layers.{i}.conv.in_proj.weight"),
    Weight("blocks/{i}/mixer/b_b", "model.layers.{i}.conv.in_proj.bias"),
    Weight("blocks/{i}/mixer/b_c", "model.layers.{i}.conv.in_proj.bias"),
    Weight("blocks/{i}/mixer/b_x", "model.layers.{i}.conv.in_proj.bias"),
    Weight("blocks/{i}/mixer/conv_w", "model.layers.{i}.conv.conv.weight", "f 1 w -> w f"),
    Weight("blocks/{i}/mixer/conv_b", "model.layers.{i}.conv.conv.bias"),
    Weight("blocks/{i}/mixer/w_out", "model.layers.{i}.conv.out_proj.weight"),
    Weight("blocks/{i}/mixer/b_out", "model.layers.{i}.conv.out_proj.bias"),
    Weight("blocks/{i}/mixer/w_q", "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> n h d"),
    Weight("blocks/{i}/mixer/w_k", "model.layers.{i}.self_attn.k_proj.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_v", "model.layers.{i}.self_attn.v_proj.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_o", "model.layers.{i}.self_attn.out_proj.weight", "d (n h) -> d n h"),
    Weight("blocks/{i}/mixer/query_norm/scale", "model.layers.{i}.self_attn.q_layernorm.weight"),
    Weight("blocks/{i}/mixer/key_norm/scale", "model.layers.{i}.self_attn.k_layernorm.weight"),
)

FFN = (
    Weight("blocks/{i}/ffn/w_gate", "model.layers.{i}.feed_forward.w1.weight"),
    Weight("blocks/{i}/ffn/w_up", "model.layers.{i}.feed_forward.w3.weight"),
    Weight("blocks/{i}/ffn/w_down", "model.layers.{i}.feed_forward.w2.weight"),
)


def read_mixers(reader: ConfigReader, eps: float) -> list[Mixer]:
    """Each layer's mixer."""
    shared = dense.read_attention(reader, default_theta=1e6)
    norm = RMSNorm(dim=shared["head_dim"], eps=eps, axis=None)
    attention = Attention(**shared, query_norm=norm, key_norm=norm)
    conv = ShortConv(
        d_model=shared["d_model"],
        conv_width=reader.positive_or("conv_L_cache", 3),
        bias=reader.flag("conv_bias", False),
    )
    layers = reader.positive("num_hidden_layers")
    attending = reader.indices("full_attn_idxs", layers, list(range(layers)))
    default = ["full_attention" if i in attending else "conv" for i in range(layers)]
    kinds: Mapping[str, Mixer] = {"conv": conv, "full_attention": attention}
    return [kinds[kind] for kind in reader.pattern("layer_types", kinds, layers, default)]


def read_d_ff(reader: ConfigReader) -> int:
    """The feed-forward's width: two thirds of the key's value, scaled and rounded up, unless told not to."""
    given = reader.positive_or("block_ff_dim", reader.positive_or("intermediate_size", 12288))
    multiplier = reader.cap("block_ffn_dim_multiplier", None)
    multiple = reader.positive_or("block_multiple_of", 256)
    if not reader.flag("block_auto_adjust_ff_dim", True):
        return given
    width = int(2 * given / 3)
    if multiplier is not None:
        width = -(-int(multiplier * width) // multiple) * multiple
    if not 1 <= width <= MOST_INT32:
        raise ConfigError(
            f"{reader.name}: keys 'block_ff_dim' or 'intermediate_size' = {given} and "
            f"'block_ffn_dim_multiplier' = {multiplier} give a width of {shown(width)}"
        )
    return width


def read_config(reader: ConfigReader) -> Decoder:
    eps = reader.epsilon("norm_eps", 1e-5)
    mixers = read_mixers(reader, eps)
    norm = RMSNorm(dim=reader.positive("hidden_size"), eps=eps)
    ffn = GatedMLP(d_model=norm.dim, d_ff=read_d_ff(reader))
    tied = reader.flag("tie_embedding", reader.flag("tie_word_embeddings", True))
    blocks = [Block(mixer_norm=norm, mixer=mixer, ffn_norm=norm, ffn=ffn) for mixer in mixers]
    return replace(dense.finish_decoder(reader, blocks, norm), tie_embeddings=tied)


def write_mixers(config: Decoder) -> dict[str, Any]:
    """The keys that `read_mixers` reads, of the kinds of layers that the model has."""
    written: dict[str, Any] = {"layer_types": []}
    for block in config.blocks:
        mixer = block.mixer
        if isinstance(mixer, ShortConv):
            written["layer_types"].append("conv")
            written |= {"conv_L_cache": mixer.conv_width, "conv_bias": mixer.bias}
        elif isinstance(mixer, Attention) and mixer.rope is not None:
            written["layer_types"].append("full_attention")
            written |= {
                "num_attention_heads": mixer.num_heads,
                "num_key_value_heads": mixer.num_kv_heads,
                **({} if mixer.head_dim * mixer.num_heads == mixer.d_model else {"head_dim": mixer.head_dim}),
                **rope_to_hf(mixer.rope, mixer.head_dim),
            }
        else:
            raise ConfigError(f"the {config.family!r} layout has no layer for {mixer}")
    return written


def write_config(config: Decoder) -> dict[str, Any]:
    ffn, norm = config.blocks[0].ffn, config.final_norm
    if not isinstance(ffn, GatedMLP) or not isinstance(norm, RMSNorm):
        raise ConfigError("the 'lfm2' layout holds gated feed-forwards and RMSNorms alone")
    return write_mixers(config) | {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": ffn.d_ff,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": len(config.blocks),
        "norm_eps": norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **({"max_position_embeddings": config.max_positions} if config.max_positions else {}),
    }


FAMILY = Family(
    model_type="lfm2",
    summary="LFM2, dense",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=(*ENDS_AND_NORMS, *MIXERS, *FFN),
    unused=dense.UNUSED,
)
