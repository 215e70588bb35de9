"""The encoder of T5 (`T5EncoderModel`): relative positions, RMSNorm, logits that are not scaled."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import ACTIVATIONS, MLP, FeedForward, GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.relative_bias import RelativeBias
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.text_encoders.text_encoder import EncoderBlock, TextEncoder

# What "gated-gelu" stands for, in all releases.
GATED, GATED_GELU = "gated-", "gelu_new"

# Of the decoder half, of training, and what follows from other keys.
NOTES = (
    "classifier_dropout", "dense_act_fn", "dropout_rate", "initializer_factor", "is_gated_act",
    "n_positions", "num_decoder_layers", "output_past", "pad_token_id", "scale_decoder_outputs",
    "tie_word_embeddings", "eos_token_id",
)  # fmt: skip

LAYER = "encoder.block.{i}.layer."
WEIGHTS = (
    Weight("embed/weight", "shared.weight"),
    Weight("relative/weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    Weight("blocks/{i}/mixer_norm/scale", LAYER + "0.layer_norm.weight"),
    *(
        Weight(f"blocks/{{i}}/mixer/w_{name}", f"{LAYER}0.SelfAttention.{name}.weight", "(n h) d -> n h d")
        for name in "qkv"
    ),
    Weight("blocks/{i}/mixer/w_o", LAYER + "0.SelfAttention.o.weight", "d (n h) -> d n h"),
    Weight("blocks/{i}/ffn_norm/scale", LAYER + "1.layer_norm.weight"),
    Weight("blocks/{i}/ffn/w_gate", LAYER + "1.DenseReluDense.wi_0.weight"),
    Weight("blocks/{i}/ffn/w_down", LAYER + "1.DenseReluDense.wo.weight"),
    Weight("final_norm/scale", "encoder.final_layer_norm.weight"),
)


def read_config(reader: ConfigReader) -> TextEncoder:
    reader.expect("model_type", "t5")
    d_model, heads = reader.positive("d_model"), reader.positive("num_heads")
    norm = RMSNorm(dim=d_model, eps=reader.epsilon("layer_norm_epsilon", 1e-6))
    head_dim = reader.positive_or("d_kv", 64)
    attention = Attention(d_model=d_model, num_heads=heads, num_kv_heads=heads, head_dim=head_dim, scale=1.0)
    block = EncoderBlock(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=_feed_forward(reader, d_model))
    reader.consume("is_encoder_decoder", *NOTES)
    return TextEncoder(
        vocab_size=reader.positive("vocab_size"),
        d_model=d_model,
        blocks=(block,) * reader.positive_or("num_layers", 6),
        final_norm=norm,
        relative=RelativeBias(
            num_heads=heads,
            num_buckets=reader.positive_or("relative_attention_num_buckets", 32),
            max_distance=reader.positive_or("relative_attention_max_distance", 128),
        ),
        family=FAMILY.model_type,
        notes=tuple((key, reader.values[key]) for key in NOTES if key in reader.values),
    )


def _feed_forward(reader: ConfigReader, d_model: int) -> FeedForward:
    """By the key `feed_forward_proj`: the name of an activation, behind "gated-" of a gated one."""
    name, d_ff = reader.take_or("feed_forward_proj", str, "relu"), reader.positive("d_ff")
    activation = name.removeprefix(GATED)
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"{reader.name}: key 'feed_forward_proj' must be 'gated-' and an activation, or an activation "
            f"alone, one of {', '.join(sorted(ACTIVATIONS))}, got {name!r}"
        )
    if not name.startswith(GATED):
        return MLP(d_model=d_model, d_ff=d_ff, activation=activation, bias=False)
    activation = GATED_GELU if activation == "gelu" else activation
    return GatedMLP(d_model=d_model, d_ff=d_ff, activation=activation)


def write_config(config: TextEncoder) -> dict[str, Any]:
    block, norm, relative = config.blocks[0], config.final_norm, config.relative
    ffn = block.ffn
    assert isinstance(ffn, MLP | GatedMLP) and isinstance(norm, RMSNorm) and relative is not None
    name = ffn.activation
    if isinstance(ffn, GatedMLP):
        name = GATED + ("gelu" if name == GATED_GELU else name)
    return {
        **dict(config.notes),
        "_class_name": FAMILY.model_type,
        "architectures": [FAMILY.model_type],
        "model_type": "t5",
        "is_encoder_decoder": False,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": block.mixer.head_dim,
        "d_ff": ffn.d_ff,
        "num_layers": len(config.blocks),
        "num_heads": block.mixer.num_heads,
        "feed_forward_proj": name,
        "layer_norm_epsilon": norm.eps,
        "relative_attention_num_buckets": relative.num_buckets,
        "relative_attention_max_distance": relative.max_distance,
    }


def named_weights(config: TextEncoder) -> tuple[Weight, ...]:
    """The rows of the first projection of each feed-forward, whose name says whether it is gated."""
    gated = isinstance(config.blocks[0].ffn, GatedMLP)
    name = "wi_1" if gated else "wi"
    return tuple(
        Weight("blocks/{i}/ffn/w_up", f"{LAYER}1.DenseReluDense.{name}.weight").at(i)
        for i in range(len(config.blocks))
    )


FAMILY = Family(
    model_type="T5EncoderModel",
    summary="T5's encoder",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    # Files of the whole model hold its other half.
    unused=(r"decoder\..+", r"lm_head\.weight"),
    renamed=((r"^encoder\.embed_tokens\.", "shared."),),
    named_weights=named_weights,
)
