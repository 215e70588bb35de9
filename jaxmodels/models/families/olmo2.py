"""OLMo 2 (`model_type` "olmo2"): norms behind each layer, and across all heads of queries and keys."""

from dataclasses import replace
from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, olmo


def read_config(reader: ConfigReader) -> Decoder:
    attention = olmo.read_olmo_attention(reader)
    attention = replace(attention, rope=dense.read_rope(reader, attention.head_dim))
    return olmo.read_olmo(reader, [attention] * reader.positive("num_hidden_layers"))


def write_config(config: Decoder) -> dict[str, Any]:
    bias = dense.attentions(config)[0].qkv_bias
    return dense.write_decoder(config) | {"architectures": ["Olmo2ForCausalLM"], "attention_bias": bias}


FAMILY = Family(
    model_type="olmo2",
    summary="OLMo 2",
    read_config=read_config,
    write_config=write_config,
    weights=dense.POST_NORM_TABLE,
    unused=dense.UNUSED,
)
