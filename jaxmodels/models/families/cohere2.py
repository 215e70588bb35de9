"""Command R7B and Command A (`model_type` "cohere2"): parallel blocks; full layers without positions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.block import ParallelBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense

# What the published configurations say of the architecture, though no code reads it.
FIXED: Mapping[str, Any] = {
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_qk_norm": False,
}
INERT = ("layer_switch", "use_embedding_sharing", "use_parallel_embedding")


def read_config(reader: ConfigReader) -> Decoder:
    for key, value in FIXED.items():
        reader.expect(key, value)
    bias = reader.flag("attention_bias", False)
    heads = dense.read_heads(reader)
    rope = dense.read_rope(reader, heads["head_dim"], style="interleaved")
    attention = Attention(**heads, qkv_bias=bias, out_bias=bias)
    period = reader.positive_or("sliding_window_pattern", 4)
    types = dense.read_layer_types(reader, dense.full_every(period, reader.positive("num_hidden_layers")))
    windows = dense.windows_of(types, dense.read_window(reader))
    eps = reader.epsilon("layer_norm_eps", 1e-5)
    norm, ffn = LayerNorm(dim=attention.d_model, eps=eps, bias=False), dense.read_gated_mlp(reader)
    mixers = [replace(attention, sliding_window=w, rope=None if w is None else rope) for w in windows]
    blocks = [ParallelBlock(mixer_norm=norm, mixer=mixer, ffn=ffn) for mixer in mixers]
    scale = reader.factor("logit_scale", 0.0625)
    return replace(dense.finish_decoder(reader, blocks, norm, default_tie=True), logit_scale=scale)


def write_config(config: Decoder) -> dict[str, Any]:
    attention, norm = dense.attentions(config)[0], config.final_norm
    assert isinstance(norm, LayerNorm)
    written = dense.write_sizes(config) | dense.write_rope(config) | dense.write_layer_types(config)
    return written | {
        "architectures": ["Cohere2ForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "layer_norm_eps": norm.eps,
        "logit_scale": config.logit_scale,
    }


FAMILY = Family(
    model_type="cohere2",
    summary="Command R7B, Command A",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
