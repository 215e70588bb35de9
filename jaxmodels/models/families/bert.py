"""BERT as a masked language model (`model_type` "bert"): post-norm blocks, segments, a transformed head.

MaskGIT's transformer ("maskgit", https://arxiv.org/abs/2202.04200) is one without segments. Its vocabulary
holds the codes of an image, then the classes, then the mask token; a class stands in front of the codes.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.head_transform import HeadTransform
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.post_norm_block import PostNormBlock
from jaxmodels.models.readers import dense
from jaxmodels.models.readers.filling import read_filling, write_filling

# Where the vocabularies of the published models, in all languages, have [MASK]; no configuration says it.
MASK_TOKEN = 103

# Dropout, and what the pooler of classifiers reads.
INERT = (
    "attention_probs_dropout_prob", "directionality", "hidden_dropout_prob", "pooler_fc_size",
    "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
)  # fmt: skip

LAYER = "bert.encoder.layer.{i}."
HEAD = "cls.predictions."
WEIGHTS = (
    Weight("embed/weight", "bert.embeddings.word_embeddings.weight"),
    Weight("segments/weight", "bert.embeddings.token_type_embeddings.weight"),
    Weight("positions/weight", "bert.embeddings.position_embeddings.weight"),
    Weight("head/weight", HEAD + "decoder.weight"),
    *dense.layer_norm_rows("embed_norm", "bert.embeddings.LayerNorm"),
    *dense.affine_rows("head_transform/{p}", HEAD + "transform.dense"),
    *dense.layer_norm_rows("head_transform/norm", HEAD + "transform.LayerNorm"),
    *(
        row
        for name, theirs in (("q", "query"), ("k", "key"), ("v", "value"))
        for row in (
            Weight(
                f"blocks/{{i}}/mixer/w_{name}", f"{LAYER}attention.self.{theirs}.weight", "(n h) d -> n h d"
            ),
            Weight(f"blocks/{{i}}/mixer/b_{name}", f"{LAYER}attention.self.{theirs}.bias", "(n h) -> n h"),
        )
    ),
    *dense.affine_rows("blocks/{i}/mixer/{p}_o", LAYER + "attention.output.dense", "d (n h) -> d n h"),
    *dense.layer_norm_rows("blocks/{i}/mixer_norm", LAYER + "attention.output.LayerNorm"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_up", LAYER + "intermediate.dense"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_down", LAYER + "output.dense"),
    *dense.layer_norm_rows("blocks/{i}/ffn_norm", LAYER + "output.LayerNorm"),
)


def head_bias_row(config: Decoder) -> tuple[Weight, ...]:
    """The row of the head's bias, which stands beside a tied head and in one that is not."""
    return (Weight("head/bias", HEAD + ("bias" if config.tie_embeddings else "decoder.bias")),)


def read_config(reader: ConfigReader) -> Decoder:
    return replace(_read(reader, MASK_TOKEN), segments=reader.positive_or("type_vocab_size", 2))


def read_maskgit(reader: ConfigReader) -> Decoder:
    return _read(reader, reader.positive("vocab_size") - 1)


def _read(reader: ConfigReader, mask_token: int) -> Decoder:
    """The model without segments; `mask_token` is that of files which do not say it."""
    reader.expect("is_decoder", False)
    reader.expect("position_embedding_type", "absolute")
    heads = dense.read_equal_heads(reader, "hidden_size", "num_attention_heads")
    norm = LayerNorm(dim=heads["d_model"], eps=reader.epsilon("layer_norm_eps", 1e-12))
    activation = dense.read_activation(reader, default="gelu")
    block = PostNormBlock(
        mixer=Attention(**heads, qkv_bias=True, out_bias=True),
        mixer_norm=norm,
        ffn=MLP(d_model=norm.dim, d_ff=reader.positive("intermediate_size"), activation=activation),
        ffn_norm=norm,
    )
    blocks = [block] * reader.positive("num_hidden_layers")
    return replace(
        dense.finish_decoder(reader, blocks, norm, default_tie=True),
        final_norm=None,
        learned_positions=reader.positive("max_position_embeddings"),
        embed_norm=norm,
        head_transform=HeadTransform(d_model=norm.dim, norm=norm, activation=activation),
        head_bias=True,
        mask=BIDIRECTIONAL,
        filling=read_filling(reader, reader.positive("vocab_size"), mask_token),
    )


def write_config(config: Decoder) -> dict[str, Any]:
    written = _write(config) | {"type_vocab_size": config.segments}
    return written | {"architectures": ["BertForMaskedLM"], "model_type": FAMILY.model_type}


def write_maskgit(config: Decoder) -> dict[str, Any]:
    return _write(config) | {"architectures": ["MaskGIT"], "model_type": MASKGIT.model_type}


def _write(config: Decoder) -> dict[str, Any]:
    block, norm = config.blocks[0], config.embed_norm
    assert isinstance(block.mixer, Attention) and isinstance(block.ffn, MLP) and isinstance(norm, LayerNorm)
    return write_filling(config) | {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": block.ffn.d_ff,
        "num_hidden_layers": len(config.blocks),
        "num_attention_heads": block.mixer.num_heads,
        "hidden_act": block.ffn.activation,
        "max_position_embeddings": config.learned_positions,
        "layer_norm_eps": norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
    }


FAMILY = Family(
    model_type="bert",
    summary="BERT, as a masked language model",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
    # The pooler and the second head are of training; the last holds the head's bias once more.
    unused=(
        r"bert\.pooler\..+",
        r"bert\.embeddings\.(position_ids|token_type_ids)",
        r"cls\.seq_relationship\..+",
        r"cls\.predictions\.(decoder\.)?bias",
    ),
    named_weights=head_bias_row,
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)

MASKGIT = replace(
    FAMILY,
    model_type="maskgit",
    summary="MaskGIT's transformer over the codes of images",
    read_config=read_maskgit,
    write_config=write_maskgit,
)
