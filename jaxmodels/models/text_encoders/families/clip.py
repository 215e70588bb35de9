"""The text encoders of CLIP (`CLIPTextModel`, `CLIPTextModelWithProjection`): causal, pooled at the end."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.masks import CAUSAL
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense
from jaxmodels.models.text_encoders.pooling import AtHighestId, AtToken
from jaxmodels.models.text_encoders.text_encoder import EncoderBlock, TextEncoder

# What configurations name as the end of texts that were written before the key was right: in their models
# it is the token with the highest id.
MISTAKEN_END, END = 2, 49407

PLAIN, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"

# Of training and of tokenizers, and of the plain model the width of a projection that it does not have.
NOTES = (
    "attention_dropout", "bos_token_id", "dropout", "initializer_factor", "initializer_range", "pad_token_id",
)  # fmt: skip


def read_plain(reader: ConfigReader) -> TextEncoder:
    return _read(reader, PLAIN, None, (*NOTES, "projection_dim"))


def read_projected(reader: ConfigReader) -> TextEncoder:
    return _read(reader, PROJECTED, reader.positive_or("projection_dim", 512), NOTES)


def _read(reader: ConfigReader, family: str, projection: int | None, notes: tuple[str, ...]) -> TextEncoder:
    reader.expect("model_type", "clip_text_model")
    heads = dense.read_equal_heads(reader, "hidden_size", "num_attention_heads")
    norm = LayerNorm(dim=heads["d_model"], eps=reader.epsilon("layer_norm_eps", 1e-5))
    activation = dense.read_activation(reader, default="quick_gelu")
    block = EncoderBlock(
        mixer_norm=norm,
        mixer=Attention(**heads, qkv_bias=True, out_bias=True),
        ffn_norm=norm,
        ffn=MLP(d_model=norm.dim, d_ff=reader.positive_or("intermediate_size", 2048), activation=activation),
    )
    end = reader.optional("eos_token_id", int)
    end = END if end is None else end
    reader.consume(*notes)
    return TextEncoder(
        vocab_size=reader.positive("vocab_size"),
        d_model=norm.dim,
        blocks=(block,) * reader.layers(12),
        final_norm=norm,
        mask=CAUSAL,
        learned_positions=reader.positive_or("max_position_embeddings", 77),
        pooling=AtHighestId() if end == MISTAKEN_END else AtToken(end),
        projection=projection,
        family=family,
        notes=tuple((key, reader.values[key]) for key in notes if key in reader.values),
    )


def write_config(config: TextEncoder) -> dict[str, Any]:
    block, norm, pooling = config.blocks[0], config.final_norm, config.pooling
    assert isinstance(block.ffn, MLP) and isinstance(norm, LayerNorm)
    projection = {} if config.projection is None else {"projection_dim": config.projection}
    return {
        **dict(config.notes),
        "_class_name": config.family,
        "architectures": [config.family],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": block.ffn.d_ff,
        "num_hidden_layers": len(config.blocks),
        "num_attention_heads": block.mixer.num_heads,
        "hidden_act": block.ffn.activation,
        "max_position_embeddings": config.learned_positions,
        "layer_norm_eps": norm.eps,
        "eos_token_id": pooling.token if isinstance(pooling, AtToken) else MISTAKEN_END,
        **projection,
    }


def _weights(prefix: str) -> tuple[Weight, ...]:
    layer, block = f"{prefix}encoder.layers.{{i}}.", "blocks/{i}/"
    inputs = (
        row
        for name in "qkv"
        for row in (
            Weight(f"{block}mixer/w_{name}", f"{layer}self_attn.{name}_proj.weight", "(n h) d -> n h d"),
            Weight(f"{block}mixer/b_{name}", f"{layer}self_attn.{name}_proj.bias", "(n h) -> n h"),
        )
    )
    return (
        Weight("embed/weight", f"{prefix}embeddings.token_embedding.weight"),
        Weight("positions/weight", f"{prefix}embeddings.position_embedding.weight"),
        *dense.layer_norm_rows(f"{block}mixer_norm", f"{layer}layer_norm1"),
        *inputs,
        *dense.affine_rows(f"{block}mixer/{{p}}_o", f"{layer}self_attn.out_proj", "d (n h) -> d n h"),
        *dense.layer_norm_rows(f"{block}ffn_norm", f"{layer}layer_norm2"),
        *dense.affine_rows(f"{block}ffn/{{p}}_up", f"{layer}mlp.fc1"),
        *dense.affine_rows(f"{block}ffn/{{p}}_down", f"{layer}mlp.fc2"),
        *dense.layer_norm_rows("final_norm", f"{prefix}final_layer_norm"),
        Weight("projection/w", "text_projection.weight"),
    )


FAMILY = Family(
    model_type=PLAIN,
    summary="CLIP's text encoder",
    read_config=read_plain,
    write_config=write_config,
    weights=_weights(""),
    unused=(r"embeddings\.position_ids",),
    # Releases before 5 of transformers wrote all names with this prefix.
    renamed=((r"^text_model\.", ""),),
)

PROJECTED_FAMILY = Family(
    model_type=PROJECTED,
    summary="CLIP's text encoder with the projection of what it pools",
    read_config=read_projected,
    write_config=write_config,
    weights=_weights("text_model."),
    unused=(r"text_model\.embeddings\.position_ids",),
)
