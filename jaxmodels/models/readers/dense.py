"""What the dense Transformer families have in common: their config keys, blocks and weight names."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import ACTIVATIONS, MLP, FeedForward, GatedMLP
from jaxmodels.layers.moe import ClampedGatedExperts, GatedExperts, MoE, PlainExperts
from jaxmodels.layers.norm import LayerNorm, Norm, RMSNorm
from jaxmodels.layers.rope import Rope, RopeStyle, rope_from_hf, rope_to_hf, unread_rope_keys
from jaxmodels.layers.window import Mixer
from jaxmodels.models.block import Block, DecoderBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader

ROPE_KEYS = (
    "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor",
    "original_max_position_embeddings",
)  # fmt: skip

ATTENTION_WEIGHTS = (
    Weight("blocks/{i}/mixer/w_q", "model.layers.{i}.self_attn.q_proj.weight", "(n h) d -> n h d"),
    Weight("blocks/{i}/mixer/w_k", "model.layers.{i}.self_attn.k_proj.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_v", "model.layers.{i}.self_attn.v_proj.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_o", "model.layers.{i}.self_attn.o_proj.weight", "d (n h) -> d n h"),
    Weight("blocks/{i}/mixer/b_q", "model.layers.{i}.self_attn.q_proj.bias", "(n h) -> n h"),
    Weight("blocks/{i}/mixer/b_k", "model.layers.{i}.self_attn.k_proj.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/b_v", "model.layers.{i}.self_attn.v_proj.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/b_o", "model.layers.{i}.self_attn.o_proj.bias"),
    Weight("blocks/{i}/mixer/query_norm/scale", "model.layers.{i}.self_attn.q_norm.weight"),
    Weight("blocks/{i}/mixer/key_norm/scale", "model.layers.{i}.self_attn.k_norm.weight"),
)

GATED_MLP_WEIGHTS = (
    Weight("blocks/{i}/ffn/w_gate", "model.layers.{i}.mlp.gate_proj.weight"),
    Weight("blocks/{i}/ffn/w_up", "model.layers.{i}.mlp.up_proj.weight"),
    Weight("blocks/{i}/ffn/w_down", "model.layers.{i}.mlp.down_proj.weight"),
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

# Of families that normalise what a layer gives, whether or not they normalise what it is given.
POST_NORM_WEIGHTS = (
    Weight("blocks/{i}/mixer_norm/scale", "model.layers.{i}.input_layernorm.weight"),
    Weight("blocks/{i}/mixer_post_norm/scale", "model.layers.{i}.post_attention_layernorm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", "model.layers.{i}.pre_feedforward_layernorm.weight"),
    Weight("blocks/{i}/ffn_post_norm/scale", "model.layers.{i}.post_feedforward_layernorm.weight"),
)


def affine_rows(ours: str, theirs: str, axes: str | None = None) -> tuple[Weight, Weight]:
    """The rows of a projection's weight and bias; `{p}` in `ours` stands for "w" and "b"."""
    return (
        Weight(ours.replace("{p}", "w"), f"{theirs}.weight", axes),
        Weight(ours.replace("{p}", "b"), f"{theirs}.bias"),
    )


def layer_norm_rows(ours: str, theirs: str) -> tuple[Weight, Weight]:
    """The rows of a LayerNorm."""
    return Weight(f"{ours}/scale", f"{theirs}.weight"), Weight(f"{ours}/bias", f"{theirs}.bias")


def fused_rows(theirs: str, axes: str, along: int, per: str | None = None) -> tuple[Weight, ...]:
    """The rows of one projection with biases to queries, keys and values, as many heads of each."""
    weights = [Weight(f"blocks/{{i}}/mixer/w_{p}", f"{theirs}.weight", axes, along, per) for p in "qkv"]
    biases = [Weight(f"blocks/{{i}}/mixer/b_{p}", f"{theirs}.bias", "(n h) -> n h", 0, per) for p in "qkv"]
    return (*weights, *biases)


def replace_rows(rows: Iterable[Weight], others: Iterable[Weight]) -> tuple[Weight, ...]:
    """`rows` with `others` in place of those for the same parameters."""
    others = tuple(others)
    replaced = {row.ours for row in others}
    return (*(row for row in rows if row.ours not in replaced), *others)


WEIGHTS = (*ENDS_WEIGHTS, *PRE_NORM_WEIGHTS, *ATTENTION_WEIGHTS, *GATED_MLP_WEIGHTS)
POST_NORM_TABLE = (*ENDS_WEIGHTS, *POST_NORM_WEIGHTS, *ATTENTION_WEIGHTS, *GATED_MLP_WEIGHTS)

# What transformers' configuration classes of these families assume where the key is absent.
DEFAULT_THETA = 10000.0
DEFAULT_WINDOW = 4096
DEFAULT_EPS = 1e-6

# Old checkpoints store the rotary frequencies, which follow from the config.
UNUSED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"model\.rotary_emb\.inv_freq")

FULL, SLIDING = "full_attention", "sliding_attention"


# --- rotary embeddings -------------------------------------------------------------------------------


def read_rope(
    reader: ConfigReader,
    head_dim: int,
    *,
    default_theta: float = DEFAULT_THETA,
    style: RopeStyle = "half_split",
) -> Rope:
    """The family's rotary embedding of whole heads, from either generation of config keys.

    Raises ConfigError for rotary embeddings of a part of the head: transformers' code for these families
    turns whole heads whatever `partial_rotary_factor` says.
    """
    reader.consume(*ROPE_KEYS, "max_position_embeddings")
    return _whole_head_rope(reader, reader.values, head_dim, default_theta, style)


def read_partial_rope(
    reader: ConfigReader,
    head_dim: int,
    *,
    default_theta: float = DEFAULT_THETA,
    default_factor: float = 1.0,
    default_original: int | None = None,
) -> Rope:
    """`read_rope` for families that turn `partial_rotary_factor` of each head.

    `default_original` stands for a missing `original_max_position_embeddings`.
    """
    reader.consume(*ROPE_KEYS, "max_position_embeddings")
    values = {"original_max_position_embeddings": default_original, **reader.values}
    return parse_rope(reader, values, head_dim, default_theta, "half_split", default_factor)


def read_ropes(
    reader: ConfigReader, head_dim: int, thetas: Mapping[str, tuple[str, float]]
) -> dict[str, Rope]:
    """The rotary embedding of each layer type: of `rope_parameters` by layer type, or of older keys.

    `thetas` holds for each layer type the older key of its base and the default. The older `rope_scaling`
    was for full attention alone.
    """
    reader.consume(*ROPE_KEYS, "max_position_embeddings")
    given = reader.take_or("rope_parameters", dict, {})
    scaling = reader.take_or("rope_scaling", dict, {})
    if not set(given) <= set(thetas) or (given and scaling):
        raise ConfigError(
            f"{reader.name}: key 'rope_parameters' must hold {sorted(thetas)} and exclude 'rope_scaling', "
            f"got {shown(given)} and {shown(scaling)}"
        )
    if not all(isinstance(inner, dict | None) for inner in given.values()):
        raise ConfigError(f"{reader.name}: key 'rope_parameters' must hold dictionaries, got {shown(given)}")
    ropes = {}
    for kind, (key, default) in thetas.items():
        holder, inner = ("rope_parameters", given.get(kind))
        if scaling and kind == FULL:
            holder, inner = ("rope_scaling", scaling)
        theta = reader.base(key, default)
        values = {**reader.values, "rope_parameters": None, "rope_scaling": None, "rope_theta": theta}
        values[holder] = inner
        ropes[kind] = _whole_head_rope(reader, values, head_dim, default, "half_split")
    return ropes


def _whole_head_rope(
    reader: ConfigReader, values: Mapping[str, Any], head_dim: int, theta: float, style: RopeStyle
) -> Rope:
    for holder in (values, values.get("rope_parameters"), values.get("rope_scaling")):
        factor = holder.get("partial_rotary_factor") if isinstance(holder, Mapping) else None
        if factor not in (None, 1.0):
            raise ConfigError(
                f"{reader.name}: key 'partial_rotary_factor' must be 1.0 or absent, got {shown(factor)}"
            )
    return parse_rope(reader, values, head_dim, theta, style, 1.0)


def parse_rope(
    reader: ConfigReader,
    values: Mapping[str, Any],
    head_dim: int,
    theta: float,
    style: RopeStyle,
    factor: float,
) -> Rope:
    """The rotary embedding that `values` describe; what it does not read of them `reader` hears of."""
    try:
        rope = rope_from_hf(
            values, head_dim, style=style, default_theta=theta, default_partial_rotary_factor=factor
        )
    except ValueError as error:
        raise ConfigError(f"{reader.name}: {error}") from error
    for key, value in unread_rope_keys(values).items():
        reader.report(key, value)
    return rope


def write_rope(config: Decoder) -> dict[str, Any]:
    """The keys that `read_rope` reads; none where no layer has positions."""
    for attention in attentions(config):
        if attention.rope is not None:
            return rope_to_hf(attention.rope, attention.head_dim)
    return {}


def write_ropes(config: Decoder) -> dict[str, Any]:
    """The keys that `read_ropes` reads, of the layer types that the model has."""
    written: dict[str, Any] = {"rope_parameters": {}}
    for attention in attentions(config):
        if attention.rope is not None:
            outer = rope_to_hf(attention.rope, attention.head_dim)
            written["rope_parameters"][layer_type(attention)] = outer.pop("rope_parameters")
            written |= outer
    return written


# --- attention ---------------------------------------------------------------------------------------


def read_heads(reader: ConfigReader, default_head_dim: int | None = None) -> dict[str, Any]:
    """The sizes of attention that every dense family spells alike, as `Attention` arguments."""
    d_model = reader.positive("hidden_size")
    num_heads = reader.positive("num_attention_heads")
    num_kv_heads = reader.positive_or("num_key_value_heads", num_heads)
    reader.check_divides("num_key_value_heads", num_kv_heads, "num_attention_heads", num_heads)
    head_dim = reader.count("head_dim") or default_head_dim
    if head_dim is None:
        if d_model % num_heads:
            raise ConfigError(
                f"{reader.name}: key 'num_attention_heads' must divide 'hidden_size' = {d_model} where there "
                f"is no key 'head_dim', got {num_heads}"
            )
        head_dim = d_model // num_heads
    return {"d_model": d_model, "num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}


def read_equal_heads(reader: ConfigReader, width: str, heads: str) -> dict[str, Any]:
    """The sizes of attention whose heads share out the features of a token, as `Attention` arguments.

    `width` and `heads` are the keys. Raises ConfigError where the one is no multiple of the other.
    """
    d_model, num_heads = reader.positive(width), reader.positive(heads)
    reader.check_divides(heads, num_heads, width, d_model)
    return {
        "d_model": d_model,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": d_model // num_heads,
    }


def read_attention(
    reader: ConfigReader, default_head_dim: int | None = None, *, default_theta: float = DEFAULT_THETA
) -> dict[str, Any]:
    """`read_heads` and `read_rope`, as `Attention` arguments."""
    heads = read_heads(reader, default_head_dim)
    return heads | {"rope": read_rope(reader, heads["head_dim"], default_theta=default_theta)}


def read_window(reader: ConfigReader, default: int | None = DEFAULT_WINDOW) -> int | None:
    """The `sliding_window` key; null is full attention."""
    return reader.count("sliding_window") if "sliding_window" in reader.values else default


def full_every(period: int, layers: int) -> list[str]:
    """The layer types of models whose every `period`-th layer attends fully and whose others slide."""
    return [SLIDING if (i + 1) % period else FULL for i in range(layers)]


def read_layer_types(reader: ConfigReader, default: list[str]) -> list[str]:
    """The `layer_types` key: one of full_attention and sliding_attention for each layer."""
    return reader.pattern("layer_types", (FULL, SLIDING), len(default), default)


def windows_of(types: list[str], window: int | None) -> list[int | None]:
    """The sliding window of each layer, by its type."""
    if SLIDING in types and window is None:
        raise ConfigError(
            "config: key 'layer_types' asks for sliding_attention but no sliding window is in use; see "
            "'sliding_window' and 'use_sliding_window'"
        )
    return [window if kind == SLIDING else None for kind in types]


def layer_windows(reader: ConfigReader, layers: int) -> list[int | None]:
    """Each layer's sliding window under the `layer_types` and `use_sliding_window` keys of Qwen."""
    window = read_window(reader)
    first = reader.take_or("max_window_layers", int, 28)
    if not reader.flag("use_sliding_window", False):
        window = None
    default = [SLIDING if window and i >= first else FULL for i in range(layers)]
    return windows_of(read_layer_types(reader, default), window)


def attentions(config: Decoder) -> list[Attention]:
    """The attention layer of each block.

    Raises ConfigError where a block has none.
    """
    mixers = [block.mixer for block in config.blocks]
    if not all(isinstance(mixer, Attention) for mixer in mixers):
        raise ConfigError(f"the {config.family!r} layout holds attention layers alone")
    return [mixer for mixer in mixers if isinstance(mixer, Attention)]


def layer_type(attention: Attention) -> str:
    """The name of the layer's kind in `layer_types`."""
    return FULL if attention.sliding_window is None else SLIDING


def write_layer_types(config: Decoder) -> dict[str, Any]:
    """The keys that `read_layer_types` and `read_window` read; no window where none is in use."""
    layers = attentions(config)
    window = next((a.sliding_window for a in layers if a.sliding_window is not None), None)
    types = {"layer_types": [layer_type(a) for a in layers]}
    return types if window is None else types | {"sliding_window": window}


def write_windows(config: Decoder) -> dict[str, Any]:
    """The keys that `layer_windows` reads."""
    written = {"sliding_window": None} | write_layer_types(config)
    return written | {"use_sliding_window": written["sliding_window"] is not None}


# --- the whole model ---------------------------------------------------------------------------------


def read_norm(reader: ConfigReader, *, default_eps: float = DEFAULT_EPS, offset: float = 0.0) -> RMSNorm:
    """The RMSNorm over the features of a token."""
    eps = reader.epsilon("rms_norm_eps", default_eps)
    return RMSNorm(dim=reader.positive("hidden_size"), eps=eps, offset=offset)


def read_activation(reader: ConfigReader, key: str = "hidden_act", default: str = "silu") -> str:
    """The name of the feed-forward's activation."""
    reader.expect(key, *sorted(ACTIVATIONS))
    return reader.take_or(key, str, default)


def read_gated_mlp(reader: ConfigReader, bias: bool = False) -> GatedMLP:
    """The gated feed-forward of `hidden_size` and `intermediate_size`."""
    return GatedMLP(
        d_model=reader.positive("hidden_size"),
        d_ff=reader.positive("intermediate_size"),
        activation=read_activation(reader),
        bias=bias,
    )


def pre_norm_blocks(norm: Norm, mixers: Iterable[Mixer], ffn: FeedForward) -> list[Block]:
    """A block per mixer, with the same norm in front of each layer and the same feed-forward."""
    return [Block(mixer_norm=norm, mixer=mixer, ffn_norm=norm, ffn=ffn) for mixer in mixers]


def finish_decoder(
    reader: ConfigReader,
    blocks: Iterable[DecoderBlock],
    final_norm: RMSNorm | LayerNorm,
    *,
    default_tie: bool = False,
    positions: str = "max_position_embeddings",
) -> Decoder:
    """The decoder around `blocks`; `positions` is the longest length's key."""
    return Decoder(
        vocab_size=reader.positive("vocab_size"),
        d_model=final_norm.dim,
        blocks=tuple(blocks),
        final_norm=final_norm,
        tie_embeddings=reader.flag("tie_word_embeddings", default_tie),
        max_positions=reader.count(positions),
        family=str(reader.values["model_type"]),
    )


def read_decoder(
    reader: ConfigReader, mixers: list[Attention], mlp_bias: bool, *, default_tie: bool = False
) -> Decoder:
    """The decoder of pre-norm blocks, one per attention layer."""
    norm, ffn = read_norm(reader), read_gated_mlp(reader, mlp_bias)
    return finish_decoder(reader, pre_norm_blocks(norm, mixers, ffn), norm, default_tie=default_tie)


def write_sizes(config: Decoder) -> dict[str, Any]:
    """The keys that `read_heads`, `read_gated_mlp` and `finish_decoder` read."""
    attention, layer = attentions(config)[0], config.blocks[0].ffn
    ffn = layer.experts if isinstance(layer, MoE) else layer
    assert isinstance(ffn, GatedMLP | MLP | GatedExperts | ClampedGatedExperts | PlainExperts)
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
        "tie_word_embeddings": config.tie_embeddings,
        **({"max_position_embeddings": config.max_positions} if config.max_positions else {}),
    }


def write_decoder(config: Decoder) -> dict[str, Any]:
    """The keys that `read_attention` and `read_decoder` read."""
    norm = config.final_norm
    assert isinstance(norm, RMSNorm)
    return write_sizes(config) | write_rope(config) | {"rms_norm_eps": norm.eps}


def reciprocal(value: float) -> float:
    """``1 / value``; of the floats for which that divides back to `value`, the one with few digits.

    Multipliers are factors here and divisors in some configurations, and must survive the way back.
    """
    if value == 0:
        raise ConfigError("config: a divisor must not be 0")
    short = float(f"{1 / value:.12g}")
    return short if 1 / short == value else 1 / value
