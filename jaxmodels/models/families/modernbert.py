"""ModernBERT as a masked language model (`model_type` "modernbert"): windows on both sides of a token."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.head_transform import HeadTransform
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense
from jaxmodels.models.readers.filling import read_filling, write_filling

# Where the vocabulary of the published models has [MASK]; no configuration says it.
MASK_TOKEN = 50284

# The base of each layer type's rotary embedding: the older key and the default.
THETAS = {dense.FULL: ("global_rope_theta", 160_000.0), dense.SLIDING: ("local_rope_theta", 10_000.0)}

# Of training, of classifiers, of how kernels are called; `layer_norm_eps` and `position_embedding_type` are
# in published configurations, but the code reads `norm_eps` and has rotary embeddings alone.
INERT = (
    "classifier_pooling", "cls_token_id", "deterministic_flash_attn", "initializer_cutoff_factor",
    "layer_norm_eps", "mlp_dropout", "position_embedding_type", "reference_compile",
    "repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction",
)  # fmt: skip

LAYER = "model.layers.{i}."
WEIGHTS = (
    Weight("embed/weight", "model.embeddings.tok_embeddings.weight"),
    *dense.layer_norm_rows("embed_norm", "model.embeddings.norm"),
    *dense.layer_norm_rows("final_norm", "model.final_norm"),
    *dense.affine_rows("head_transform/{p}", "head.dense"),
    *dense.layer_norm_rows("head_transform/norm", "head.norm"),
    Weight("head/weight", "decoder.weight"),
    Weight("head/bias", "decoder.bias"),
    *dense.layer_norm_rows("blocks/{i}/mixer_norm", LAYER + "attn_norm"),
    *dense.layer_norm_rows("blocks/{i}/ffn_norm", LAYER + "mlp_norm"),
    *dense.fused_rows(LAYER + "attn.Wqkv", "(n h) d -> n h d", along=0),
    *dense.affine_rows("blocks/{i}/mixer/{p}_o", LAYER + "attn.Wo", "d (n h) -> d n h"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_gate", LAYER + "mlp.Wi"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_up", LAYER + "mlp.Wi"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_down", LAYER + "mlp.Wo"),
)


def read_config(reader: ConfigReader) -> Decoder:
    heads = dense.read_equal_heads(reader, "hidden_size", "num_attention_heads")
    bias = reader.flag("attention_bias", False)
    attention = Attention(**heads, qkv_bias=bias, out_bias=bias)
    norm = LayerNorm(
        dim=attention.d_model, eps=reader.epsilon("norm_eps", 1e-5), bias=reader.flag("norm_bias", False)
    )
    ffn = GatedMLP(
        d_model=norm.dim,
        d_ff=reader.positive("intermediate_size"),
        activation=dense.read_activation(reader, "hidden_activation", "gelu"),
        bias=reader.flag("mlp_bias", False),
    )
    ropes = dense.read_ropes(reader, attention.head_dim, THETAS)
    # A local layer sees half of `local_attention` on each side, and a token itself.
    window = reader.positive_or("local_attention", 128) // 2 + 1
    mixers = [
        replace(attention, rope=ropes[kind], sliding_window=window if kind == dense.SLIDING else None)
        for kind in _layer_types(reader)
    ]
    first, *others = dense.pre_norm_blocks(norm, mixers, ffn)
    transform = HeadTransform(
        d_model=norm.dim,
        norm=norm,
        activation=dense.read_activation(reader, "classifier_activation", "gelu"),
        bias=reader.flag("classifier_bias", False),
    )
    return replace(
        dense.finish_decoder(reader, [replace(first, mixer_norm=None), *others], norm, default_tie=True),
        embed_norm=norm,
        head_transform=transform,
        head_bias=reader.flag("decoder_bias", True),
        mask=BIDIRECTIONAL,
        filling=read_filling(reader, reader.positive("vocab_size"), MASK_TOKEN),
    )


def _layer_types(reader: ConfigReader) -> list[str]:
    """The `layer_types` key, or what the older `global_attn_every_n_layers` says: the first is global."""
    layers, period = reader.positive("num_hidden_layers"), reader.positive_or("global_attn_every_n_layers", 3)
    return dense.read_layer_types(
        reader, [dense.SLIDING if i % period else dense.FULL for i in range(layers)]
    )


def write_config(config: Decoder) -> dict[str, Any]:
    layers, block, transform = dense.attentions(config), config.blocks[0], config.head_transform
    assert isinstance(block, Block) and isinstance(block.ffn, GatedMLP) and transform is not None
    norm = block.ffn_norm
    assert isinstance(norm, LayerNorm)
    windows = [a.sliding_window for a in layers if a.sliding_window is not None]
    if config.max_positions is None:
        raise ConfigError("the 'modernbert' layout needs max_positions, the longest trained length")
    return (
        write_filling(config)
        | dense.write_ropes(config)
        | {
            "architectures": ["ModernBertForMaskedLM"],
            "model_type": "modernbert",
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "intermediate_size": block.ffn.d_ff,
            "num_hidden_layers": len(layers),
            "num_attention_heads": layers[0].num_heads,
            "hidden_activation": block.ffn.activation,
            "max_position_embeddings": config.max_positions,
            "norm_eps": norm.eps,
            "norm_bias": norm.bias,
            "attention_bias": layers[0].qkv_bias,
            "mlp_bias": block.ffn.bias,
            "layer_types": [dense.layer_type(a) for a in layers],
            **({"local_attention": 2 * (windows[0] - 1)} if windows else {}),
            "classifier_activation": transform.activation,
            "classifier_bias": transform.bias,
            "decoder_bias": config.head_bias,
            "tie_word_embeddings": config.tie_embeddings,
        }
    )


FAMILY = Family(
    model_type="modernbert",
    summary="ModernBERT, as a masked language model",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
)
