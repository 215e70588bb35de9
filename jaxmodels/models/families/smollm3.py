"""SmolLM3 (`model_type` "smollm3"): Llama's shape, every fourth layer without positions."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense


def read_config(reader: ConfigReader) -> Decoder:
    bias = reader.flag("attention_bias", False)
    heads = dense.read_attention(reader, default_theta=2e6)
    attention = Attention(**heads, qkv_bias=bias, out_bias=bias)
    layers = reader.positive("num_hidden_layers")
    period = reader.positive_or("no_rope_layer_interval", 4)
    usual = [int(kind != dense.FULL) for kind in dense.full_every(period, layers)]
    turned = reader.pattern("no_rope_layers", (0, 1), layers, usual)
    window = dense.read_window(reader, None) if reader.flag("use_sliding_window", False) else None
    default = [dense.SLIDING if window and not turns else dense.FULL for turns in turned]
    windows = dense.windows_of(dense.read_layer_types(reader, default), window)
    mixers = [
        replace(attention, sliding_window=w, rope=attention.rope if turns else None)
        for w, turns in zip(windows, turned, strict=True)
    ]
    reader.consume("sliding_window")
    return dense.read_decoder(reader, mixers, reader.flag("mlp_bias", False), default_tie=True)


def write_config(config: Decoder) -> dict[str, Any]:
    layers, ffn = dense.attentions(config), config.blocks[0].ffn
    assert isinstance(ffn, GatedMLP)
    return (
        dense.write_decoder(config)
        | dense.write_windows(config)
        | {
            "architectures": ["SmolLM3ForCausalLM"],
            "no_rope_layers": [int(attention.rope is not None) for attention in layers],
            "attention_bias": layers[0].qkv_bias,
            "mlp_bias": ffn.bias,
        }
    )


FAMILY = Family(
    model_type="smollm3",
    summary="SmolLM3",
    read_config=read_config,
    write_config=write_config,
    inert=("max_window_layers",),
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
