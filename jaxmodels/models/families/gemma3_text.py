"""Gemma 3, text (`model_type` "gemma3_text"): norms on queries and keys, two rotary bases."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, gemma

THETAS = {dense.FULL: ("rope_theta", 1e6), dense.SLIDING: ("rope_local_base_freq", 1e4)}


def read_config(reader: ConfigReader) -> Decoder:
    heads = dense.read_heads(reader, gemma.DEFAULT_HEAD_DIM)
    norm = replace(dense.read_norm(reader, offset=1.0), dim=heads["head_dim"], axis=None)
    # transformers' code for this family does not cap the logits of attention whatever the key says.
    reader.expect("attn_logit_softcapping", None)
    logits = gemma.read_logits(reader, default_softcap=None)
    attention = Attention(**heads, **logits, query_norm=norm, key_norm=norm)
    period = reader.positive_or("sliding_window_pattern", 6)
    types = dense.read_layer_types(reader, dense.full_every(period, reader.positive("num_hidden_layers")))
    ropes = dense.read_ropes(reader, attention.head_dim, THETAS)
    windows = dense.windows_of(types, dense.read_window(reader))
    layers = [
        replace(attention, sliding_window=w, rope=ropes[kind]) for kind, w in zip(types, windows, strict=True)
    ]
    return gemma.read_decoder(reader, layers, default_softcap=None)


def write_config(config: Decoder) -> dict[str, Any]:
    return gemma.write_decoder(config) | dense.write_ropes(config) | {"architectures": ["Gemma3ForCausalLM"]}


FAMILY = Family(
    model_type="gemma3_text",
    summary="Gemma 3, text",
    read_config=read_config,
    write_config=write_config,
    inert=(*gemma.INERT, "_sliding_window_pattern"),
    weights=dense.POST_NORM_TABLE,
    unused=dense.UNUSED,
)
