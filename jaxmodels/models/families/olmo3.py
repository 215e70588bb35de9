"""OLMo 3 (`model_type` "olmo3"): OLMo 2, sliding but for every fourth layer."""

from dataclasses import replace
from typing import Any

from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, olmo

THETAS = {dense.FULL: ("rope_theta", 5e5), dense.SLIDING: ("rope_theta", 5e5)}


def read_config(reader: ConfigReader) -> Decoder:
    attention = olmo.read_olmo_attention(reader)
    types = dense.read_layer_types(reader, dense.full_every(4, reader.positive("num_hidden_layers")))
    windows = dense.windows_of(types, dense.read_window(reader))
    ropes = dense.read_ropes(reader, attention.head_dim, THETAS)
    layers = [
        replace(attention, sliding_window=w, rope=ropes[kind]) for kind, w in zip(types, windows, strict=True)
    ]
    return olmo.read_olmo(reader, layers)


def write_config(config: Decoder) -> dict[str, Any]:
    written = dense.write_decoder(config) | dense.write_ropes(config) | dense.write_layer_types(config)
    bias = dense.attentions(config)[0].qkv_bias
    return written | {"architectures": ["Olmo3ForCausalLM"], "attention_bias": bias}


FAMILY = Family(
    model_type="olmo3",
    summary="OLMo 3",
    read_config=read_config,
    write_config=write_config,
    weights=dense.POST_NORM_TABLE,
    unused=dense.UNUSED,
)
