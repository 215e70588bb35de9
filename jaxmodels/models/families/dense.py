"""What the dense pre-norm Transformer families have in common: their blocks, config keys and weight names."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import ACTIVATIONS, GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope, rope_from_hf, rope_to_hf
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

ROPE_KEYS = (
    "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor",
    "original_max_position_embeddings",
)  # fmt: skip

ATTENTION_WEIGHTS = (
    Weight("blocks/{i}/mixer/w_q", "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> d n h"),
    Weight("blocks/{i}/mixer/w_k", "model.layers.{i}.self_attn.k_proj.weight", "(k h) d -> d k h"),
    Weight("blocks/{i}/mixer/w_v", "model.layers.{i}.self_attn.v_proj.weight", "(k h) d -> d k h"),
    Weight("blocks/{i}/mixer/w_o", "model.layers.{i}.self_attn.o_proj.weight", "d (n h) -> n h d"),
    Weight("blocks/{i}/mixer/b_q", "model.layers.{i}.self_attn.q_proj.bias", "(n h) -> n h"),
    Weight("blocks/{i}/mixer/b_k", "model.layers.{i}.self_attn.k_proj.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/b_v", "model.layers.{i}.self_attn.v_proj.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/b_o", "model.layers.{i}.self_attn.o_proj.bias"),
    Weight("blocks/{i}/mixer/query_norm/scale", "model.layers.{i}.self_attn.q_norm.weight"),
    Weight("blocks/{i}/mixer/key_norm/scale", "model.layers.{i}.self_attn.k_norm.weight"),
)

GATED_MLP_WEIGHTS = (
    Weight("blocks/{i}/ffn/w_gate", "model.layers.{i}.mlp.gate_proj.weight", "f d -> d f"),
    Weight("blocks/{i}/ffn/w_up", "model.layers.{i}.mlp.up_proj.weight", "f d -> d f"),
    Weight("blocks/{i}/ffn/w_down", "model.layers.{i}.mlp.down_proj.weight", "d f -> f d"),
    Weight("blocks/{i}/ffn/b_gate", "model.layers.{i}.mlp.gate_proj.bias"),
    Weight("blocks/{i}/ffn/b_up", "model.layers.{i}.mlp.up_proj.bias"),
    Weight("blocks/{i}/ffn/b_down", "model.layers.{i}.mlp.down_proj.bias"),
)

ENDS_WEIGHTS = (
    Weight("embed/weight", "model.embed_tokens.weight"),
    Weight("final_norm/scale", "model.norm.weight"),
    Weight("head/weight", "lm_head.weight"),
)

PRE_NORM_WEIGHTS = (
    Weight("blocks/{i}/mixer_norm/scale", "model.layers.{i}.input_layernorm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", "model.layers.{i}.post_attention_layernorm.weight"),
)

WEIGHTS = (*ENDS_WEIGHTS, *PRE_NORM_WEIGHTS, *ATTENTION_WEIGHTS, *GATED_MLP_WEIGHTS)

# What transformers' configuration classes of these families assume where the key is absent.
DEFAULT_THETA = 10000.0
DEFAULT_WINDOW = 4096

# Old checkpoints store the rotary frequencies, which follow from the config.
UNUSED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"model\.rotary_emb\.inv_freq")


def read_rope(reader: ConfigReader, head_dim: int) -> Rope:
    """The family's rotary embedding, from either generation of config keys."""
    reader.consume(*ROPE_KEYS, "max_position_embeddings")
    try:
        return rope_from_hf(reader.values, head_dim, default_theta=DEFAULT_THETA)
    except ValueError as error:
        raise ConfigError(f"config of model_type {reader.values.get('model_type')!r}: {error}") from error


def read_attention(reader: ConfigReader, default_head_dim: int | None = None) -> dict[str, Any]:
    """The keys that every dense family spells alike, as `Attention` arguments.

    Raises ConfigError for rotary embeddings of a part of the head: transformers' code for these families
    turns whole heads whatever `partial_rotary_factor` says.
    """
    d_model = reader.positive("hidden_size")
    num_heads = reader.positive("num_attention_heads")
    head_dim = reader.take_or("head_dim", int, default_head_dim or d_model // num_heads)
    for values in (reader.values, reader.values.get("rope_parameters"), reader.values.get("rope_scaling")):
        factor = values.get("partial_rotary_factor") if isinstance(values, Mapping) else None
        if factor not in (None, 1.0):
            raise ConfigError(
                f"config of model_type {reader.values.get('model_type')!r}: key 'partial_rotary_factor' must "
                f"be 1.0 or absent, got {factor!r}"
            )
    return {
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": reader.take_or("num_key_value_heads", int, num_heads),
        "head_dim": head_dim,
        "rope": read_rope(reader, head_dim),
    }


def read_decoder(reader: ConfigReader, mixers: list[Attention], mlp_bias: bool) -> Decoder:
    """The decoder around one attention layer per block, and the end of the reading."""
    d_model, eps = mixers[0].d_model, reader.take_or("rms_norm_eps", float, 1e-6)
    reader.expect("hidden_act", *sorted(ACTIVATIONS))
    norm = RMSNorm(dim=d_model, eps=eps)
    ffn = GatedMLP(
        d_model=d_model,
        d_ff=reader.positive("intermediate_size"),
        activation=reader.take_or("hidden_act", str, "silu"),
        bias=mlp_bias,
    )
    config = Decoder(
        vocab_size=reader.positive("vocab_size"),
        d_model=d_model,
        blocks=tuple(Block(mixer_norm=norm, mixer=mixer, ffn_norm=norm, ffn=ffn) for mixer in mixers),
        final_norm=norm,
        tie_embeddings=reader.flag("tie_word_embeddings", False),
        max_positions=reader.optional("max_position_embeddings", int),
        family=str(reader.values["model_type"]),
    )
    reader.finish()
    return config


def read_window(reader: ConfigReader) -> int | None:
    """The `sliding_window` key; null is full attention."""
    if "sliding_window" not in reader.values:
        return DEFAULT_WINDOW
    if reader.values["sliding_window"] == 0:
        raise ConfigError("config: key 'sliding_window' must be at least 1 or null, got 0")
    return reader.optional("sliding_window", int)


def layer_windows(reader: ConfigReader, layers: int) -> list[int | None]:
    """Each layer's sliding window under the `layer_types` and `use_sliding_window` keys of Qwen."""
    window = read_window(reader)
    first = reader.take_or("max_window_layers", int, 28)
    if not reader.flag("use_sliding_window", False):
        window = None
    default = ["sliding_attention" if window and i >= first else "full_attention" for i in range(layers)]
    types = reader.take_or("layer_types", list, default)
    known = {"full_attention": None, "sliding_attention": window}
    if len(types) != layers or not set(types) <= set(known):
        raise ConfigError(f"config: key 'layer_types' must hold {layers} of {sorted(known)}, got {types!r}")
    if "sliding_attention" in types and window is None:
        raise ConfigError("config: 'layer_types' asks for sliding_attention but no sliding window is in use")
    return [known[kind] for kind in types]


def write_decoder(config: Decoder) -> dict[str, Any]:
    """The keys that `read_attention` and `read_decoder` read."""
    block = config.blocks[0]
    attention, ffn, norm = block.mixer, block.ffn, config.final_norm
    assert isinstance(attention, Attention) and isinstance(ffn, GatedMLP) and isinstance(norm, RMSNorm)
    assert attention.rope is not None
    return {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": ffn.d_ff,
        "num_hidden_layers": len(config.blocks),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": ffn.activation,
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **({"max_position_embeddings": config.max_positions} if config.max_positions else {}),
        **rope_to_hf(attention.rope, attention.head_dim),
    }


def write_windows(config: Decoder) -> dict[str, Any]:
    """The keys that `layer_windows` reads."""
    windows = [block.mixer.window for block in config.blocks if isinstance(block.mixer, Attention)]
    used = next((w for w in windows if w is not None), None)
    return {
        "use_sliding_window": used is not None,
        "sliding_window": used,
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows],
    }
