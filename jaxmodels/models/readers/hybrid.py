"""What the families that mix state space layers with attention have in common: config keys, weight names."""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.rope import rope_to_hf
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader, json_number
from jaxmodels.models.readers import dense

T = TypeVar("T")

# What `read_ssd` reads; for families whose models may lack such layers.
SSD_KEYS = (
    "mamba_chunk_size", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_state", "mamba_expand",
    "mamba_n_groups", "mamba_n_heads", "mamba_proj_bias", "time_step_limit",
)  # fmt: skip

OLD_LAYER_TYPES = {"mamba": "linear_attention", "attention": "full_attention"}

MIXER = "backbone.layers.{i}.mixer"

# An SSD mixer as Mamba-2 names its weights.
SSD_WEIGHTS = (
    Weight("blocks/{i}/mixer/w_z", f"{MIXER}.in_proj.weight"),
    Weight("blocks/{i}/mixer/w_x", f"{MIXER}.in_proj.weight"),
    Weight("blocks/{i}/mixer/w_bc", f"{MIXER}.in_proj.weight", "(s g r) d -> s g r d"),
    Weight("blocks/{i}/mixer/w_dt", f"{MIXER}.in_proj.weight"),
    Weight("blocks/{i}/mixer/b_z", f"{MIXER}.in_proj.bias"),
    Weight("blocks/{i}/mixer/b_x", f"{MIXER}.in_proj.bias"),
    Weight("blocks/{i}/mixer/b_bc", f"{MIXER}.in_proj.bias", "(s g r) -> s g r"),
    Weight("blocks/{i}/mixer/b_dt", f"{MIXER}.in_proj.bias"),
    Weight("blocks/{i}/mixer/conv_x", f"{MIXER}.conv1d.weight", "f 1 w -> w f"),
    Weight("blocks/{i}/mixer/conv_bc", f"{MIXER}.conv1d.weight", "(s g r) 1 w -> w s g r"),
    Weight("blocks/{i}/mixer/conv_bias_x", f"{MIXER}.conv1d.bias"),
    Weight("blocks/{i}/mixer/conv_bias_bc", f"{MIXER}.conv1d.bias", "(s g r) -> s g r"),
    Weight("blocks/{i}/mixer/dt_bias", f"{MIXER}.dt_bias"),
    Weight("blocks/{i}/mixer/a_log", f"{MIXER}.A_log"),
    Weight("blocks/{i}/mixer/d_skip", f"{MIXER}.D"),
    Weight("blocks/{i}/mixer/norm/scale", f"{MIXER}.norm.weight"),
    Weight("blocks/{i}/mixer/w_out", f"{MIXER}.out_proj.weight"),
    Weight("blocks/{i}/mixer/b_out", f"{MIXER}.out_proj.bias"),
)

# Ends and norms as Bamba, Falcon-H1, Jamba and Zamba2 name them.
FRAME_WEIGHTS = (
    Weight("embed/weight", "model.embed_tokens.weight"),
    Weight("final_norm/scale", "model.final_layernorm.weight"),
    Weight("head/weight", "lm_head.weight"),
    Weight("blocks/{i}/mixer_norm/scale", "model.layers.{i}.input_layernorm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", "model.layers.{i}.pre_ff_layernorm.weight"),
)


def renamed(
    rows: Iterable[Weight], *, ours: tuple[str, str] = ("", ""), theirs: tuple[str, str] = ("", "")
) -> tuple[Weight, ...]:
    """The rows with a part of each name replaced: (old, new)."""
    return tuple(
        replace(row, ours=row.ours.replace(*ours), theirs=row.theirs.replace(*theirs)) for row in rows
    )


def ssd_weights(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of an SSD mixer found at `ours` in the tree and at `theirs` in the checkpoint."""
    return renamed(SSD_WEIGHTS, ours=("blocks/{i}/mixer", ours), theirs=("backbone.layers.{i}.mixer", theirs))


GATED_MLP_WEIGHTS = renamed(dense.GATED_MLP_WEIGHTS, theirs=(".mlp.", ".feed_forward."))


def read_attention(reader: ConfigReader, default_partial_rotary_factor: float = 1.0) -> Attention:
    """Attention with the keys of Llama, its rotary embedding of the whole head or a part of it."""
    heads, bias = dense.read_heads(reader), reader.flag("attention_bias", False)
    rope = dense.read_partial_rope(reader, heads["head_dim"], default_factor=default_partial_rotary_factor)
    return Attention(**heads, rope=rope, qkv_bias=bias, out_bias=bias)


def write_attention(attention: Attention) -> dict[str, Any]:
    """The keys that `read_attention` reads."""
    rope = {} if attention.rope is None else rope_to_hf(attention.rope, attention.head_dim)
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.qkv_bias,
        **rope,
    }


def read_layer_types(
    reader: ConfigReader, known: Collection[str], default: list[str] | None = None, key: str = "layer_types"
) -> list[str]:
    """The kind of each layer, one of those `known`, under their present names or those of older releases.

    There are `num_hidden_layers` of them; where that key is absent, as many as the list has.
    """
    layers = reader.layers(len(reader.take_or(key, list, default or [])))
    old = [name for name, kind in OLD_LAYER_TYPES.items() if kind in known]
    types = reader.pattern(key, [*known, *old], layers, default)
    return [OLD_LAYER_TYPES.get(kind, kind) for kind in types]


def read_ssd(reader: ConfigReader, norm: RMSNorm, d_inner: int | None = None) -> SSDMixer:
    """The SSD mixer of the families whose keys begin with `mamba_`, its gated norm in groups.

    `d_inner` is the width inside, by default ``mamba_expand * hidden_size``.
    """
    d_model, num_heads = reader.positive("hidden_size"), reader.positive("mamba_n_heads")
    expanded = reader.positive_or("mamba_expand", 2) * d_model
    d_inner = expanded if d_inner is None else d_inner
    given = reader.values.get("mamba_d_head")
    reader.consume("mamba_d_head")
    head_dim = d_inner // num_heads if given in (None, "auto") else reader.positive("mamba_d_head")
    if head_dim * num_heads != d_inner:
        raise ConfigError(
            f"{reader.name}: mamba_n_heads * mamba_d_head = {num_heads} * {head_dim} must equal the inner "
            f"width, which is mamba_d_ssm or hidden_size * mamba_expand = {d_inner}"
        )
    groups = reader.positive_or("mamba_n_groups", 1)
    return SSDMixer(
        d_model=d_model,
        num_heads=num_heads,
        head_dim=head_dim,
        state_dim=reader.positive("mamba_d_state"),
        num_groups=groups,
        conv_width=reader.positive_or("mamba_d_conv", 4),
        chunk_size=reader.positive_or("mamba_chunk_size", 256),
        dt_limit=reader.limits("time_step_limit", (0.0, math.inf)),
        projection_bias=reader.flag("mamba_proj_bias", False),
        conv_bias=reader.flag("mamba_conv_bias", True),
        norm=GatedRMSNorm(dim=d_inner, eps=norm.eps, num_groups=max(groups, 1)),
    )


def write_ssd(mixer: SSDMixer) -> dict[str, Any]:
    """The keys that `read_ssd` reads, but for `mamba_expand`."""
    return {
        "mamba_n_heads": mixer.num_heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_d_state": mixer.state_dim,
        "mamba_n_groups": mixer.num_groups,
        "mamba_d_conv": mixer.conv_width,
        "mamba_chunk_size": mixer.chunk_size,
        "time_step_limit": [json_number(limit) for limit in mixer.dt_limit],
        "mamba_proj_bias": mixer.projection_bias,
        "mamba_conv_bias": mixer.conv_bias,
    }


def write_decoder(config: Decoder) -> dict[str, Any]:
    """The keys that `dense.finish_decoder` and `dense.read_norm` read, and the number of layers."""
    assert isinstance(config.final_norm, RMSNorm)
    return {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": len(config.blocks),
        "rms_norm_eps": config.final_norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        **({"max_position_embeddings": config.max_positions} if config.max_positions else {}),
    }


def first_of(config: Decoder, kind: type[T]) -> T:
    """The first mixer or feed-forward of this kind.

    Raises ConfigError where the model has none, as the family's layout has no place for such a model's sizes.
    """
    for block in config.blocks:
        for layer in (block.mixer, block.ffn):
            if isinstance(layer, kind):
                return layer
    raise ConfigError(f"the {config.family!r} layout needs at least one {kind.__name__} layer")


def other_factor(product: float, factor: float) -> float:
    """The shortest float whose product with `factor` is exactly `product`: the quotient can be a bit off."""
    quotient = product / factor
    near = (quotient, math.nextafter(quotient, math.inf), math.nextafter(quotient, -math.inf))
    exact = [x for x in near if factor * x == product]
    return min(exact or near, key=lambda x: len(repr(x)))
