"""OLMo (`model_type` "olmo"): Llama's shape with norms that learn nothing, projections perhaps clipped."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    bias, heads = reader.flag("attention_bias", False), dense.read_attention(reader)
    attention = Attention(**heads, qkv_bias=bias, out_bias=bias, clip=reader.cap("clip_qkv", None))
    norm = LayerNorm(dim=attention.d_model, scale=False, bias=False)
    mixers = [attention] * reader.positive("num_hidden_layers")
    blocks = dense.pre_norm_blocks(norm, mixers, dense.read_gated_mlp(reader))
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    attention = dense.attentions(config)[0]
    return (
        dense.write_sizes(config)
        | dense.write_rope(config)
        | {
            "architectures": ["OlmoForCausalLM"],
            "attention_bias": attention.qkv_bias,
            "clip_qkv": attention.clip,
        }
    )


FAMILY = Family(
    model_type="olmo",
    summary="OLMo 1B and 7B",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
