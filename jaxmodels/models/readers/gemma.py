"""What the Gemma families have in common: norms around each layer, embeddings scaled by the width."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense

# Gemma's code reads `hidden_activation`; its first checkpoints carry `hidden_act` as well.
INERT = ("hidden_act", "sliding_window_size")
DEFAULT_HEAD_DIM = 256


def read_logits(reader: ConfigReader, default_softcap: float | None) -> dict[str, Any]:
    """How attention makes its logits, and its biases, as `Attention` arguments."""
    bias = reader.flag("attention_bias", False)
    scalar = reader.positive("query_pre_attn_scalar")
    softcap = reader.cap("attn_logit_softcapping", default_softcap)
    return {"qkv_bias": bias, "out_bias": bias, "scale": scalar**-0.5, "softcap": softcap}


def read_decoder(reader: ConfigReader, mixers: Iterable[Attention], default_softcap: float | None) -> Decoder:
    """The decoder around the attention layers."""
    norm = dense.read_norm(reader, offset=1.0)
    activation = dense.read_activation(reader, "hidden_activation", "gelu_pytorch_tanh")
    ffn = GatedMLP(d_model=norm.dim, d_ff=reader.positive("intermediate_size"), activation=activation)
    around = Block(ffn=ffn, ffn_norm=norm, ffn_post_norm=norm)
    blocks = [replace(around, mixer_norm=norm, mixer=mixer, mixer_post_norm=norm) for mixer in mixers]
    reader.expect("use_bidirectional_attention", False, None)
    softcap = reader.cap("final_logit_softcapping", default_softcap)
    config = dense.finish_decoder(reader, blocks, norm, default_tie=True)
    return replace(config, embed_scale=norm.dim**0.5, logit_softcap=softcap)


def write_decoder(config: Decoder) -> dict[str, Any]:
    """The keys of every Gemma family, rotary embeddings aside."""
    attention, norm = dense.attentions(config)[0], config.final_norm
    assert isinstance(norm, RMSNorm) and attention.scale is not None
    sizes = dense.write_sizes(config) | dense.write_layer_types(config)
    activation = sizes.pop("hidden_act")
    return {
        **sizes,
        "hidden_activation": activation,
        "rms_norm_eps": norm.eps,
        "attention_bias": attention.qkv_bias,
        "query_pre_attn_scalar": round(attention.scale**-2),
        "attn_logit_softcapping": attention.softcap,
        "final_logit_softcapping": config.logit_softcap,
    }
