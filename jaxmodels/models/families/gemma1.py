"""Gemma (`model_type` "gemma"): Llama's blocks with wide heads, scaled embeddings and norms that add 1."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense
from jaxmodels.models.readers.gemma import DEFAULT_HEAD_DIM


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", False)
    shared = dense.read_attention(reader, DEFAULT_HEAD_DIM)
    attention = Attention(**shared, qkv_bias=bias, out_bias=bias)
    norm = dense.read_norm(reader, offset=1.0)
    ffn = GatedMLP(
        d_model=norm.dim, d_ff=reader.positive("intermediate_size"), activation=_activation(reader)
    )
    reader.expect("use_bidirectional_attention", False, None)
    mixers = [attention] * reader.positive("num_hidden_layers")
    config = dense.finish_decoder(reader, dense.pre_norm_blocks(norm, mixers, ffn), norm, default_tie=True)
    return replace(config, embed_scale=norm.dim**0.5)


def _activation(reader: ConfigReader) -> str:
    """The activation under either of two keys.

    The official files say "gelu" in `hidden_act`, but the models were trained with its approximation.
    """
    first = dense.read_activation(reader, "hidden_act", "gelu_pytorch_tanh")
    name = dense.read_activation(reader, "hidden_activation", first)
    return "gelu_pytorch_tanh" if name == "gelu" else name


def write_config(config: Decoder) -> dict[str, Any]:
    return dense.write_decoder(config) | {
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": dense.attentions(config)[0].qkv_bias,
    }


FAMILY = Family(
    model_type="gemma",
    summary="Gemma 1",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
