"""Phi-3, Phi-3.5 and Phi-4 (`model_type` "phi3"): fused projections; positions in a part of each head."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.rope_scaling import LongRopeScaling
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense

INERT = ("full_attn_mod", "interpolate_factor")
ORIGINAL = "original_max_position_embeddings"

QKV, GATE_UP = "model.layers.{i}.self_attn.qkv_proj.weight", "model.layers.{i}.mlp.gate_up_proj.weight"
FUSED = (
    Weight("blocks/{i}/mixer/w_q", QKV, "(n h) d -> n h d"),
    Weight("blocks/{i}/mixer/w_k", QKV, "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_v", QKV, "(k h) d -> k h d"),
    Weight("blocks/{i}/ffn/w_gate", GATE_UP),
    Weight("blocks/{i}/ffn/w_up", GATE_UP),
)


def read_config(reader: ConfigReader) -> Decoder:
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        reader.expect(key, False)
    heads = dense.read_heads(reader)
    rope = dense.read_partial_rope(reader, heads["head_dim"], default_original=4096)
    attention = Attention(**heads, rope=rope, sliding_window=dense.read_window(reader, None))
    norm, ffn = dense.read_norm(reader, default_eps=1e-5), dense.read_gated_mlp(reader)
    mixers = [attention] * reader.positive("num_hidden_layers")
    config = dense.finish_decoder(reader, dense.pre_norm_blocks(norm, mixers, ffn), norm)
    scaling = rope.scaling
    if not isinstance(scaling, LongRopeScaling):
        return config
    # As in transformers, where this family drops its cache at the length, and others with LongRoPE do not.
    return replace(config, recode_beyond=scaling.original_max_position_embeddings)


def write_config(config: Decoder) -> dict[str, Any]:
    written = dense.write_decoder(config)
    if ORIGINAL in written["rope_parameters"]:
        written[ORIGINAL] = written["rope_parameters"][ORIGINAL]
    window = dense.attentions(config)[0].sliding_window
    return written | {"architectures": ["Phi3ForCausalLM"], "sliding_window": window}


FAMILY = Family(
    model_type="phi3",
    summary="Phi-3, Phi-3.5 mini, Phi-4 and Phi-4 mini",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=dense.replace_rows(dense.WEIGHTS, FUSED),
    unused=dense.UNUSED,
)
