"""Gemma 2 (`model_type` "gemma2"): capped logits in attention and head; every other layer slides."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, gemma


def read_config(reader: ConfigReader) -> Decoder:
    shared = dense.read_attention(reader, gemma.DEFAULT_HEAD_DIM)
    attention = Attention(**shared, **gemma.read_logits(reader, default_softcap=50.0))
    types = dense.read_layer_types(reader, dense.full_every(2, reader.positive("num_hidden_layers")))
    windows = dense.windows_of(types, dense.read_window(reader))
    layers = [replace(attention, sliding_window=window) for window in windows]
    return gemma.read_decoder(reader, layers, default_softcap=30.0)


def write_config(config: Decoder) -> dict[str, Any]:
    return gemma.write_decoder(config) | dense.write_rope(config) | {"architectures": ["Gemma2ForCausalLM"]}


FAMILY = Family(
    model_type="gemma2",
    summary="Gemma 2",
    read_config=read_config,
    write_config=write_config,
    inert=gemma.INERT,
    weights=dense.POST_NORM_TABLE,
    unused=dense.UNUSED,
)
