"""Ministral 3 (`model_type` "ministral3"): Mistral's shape, queries scaled by position beside YaRN."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.query_scale import LogScale
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense

# The keys of the query scale among the rotary parameters.
STRENGTH, INTERVAL = "llama_4_scaling_beta", "original_max_position_embeddings"


def read_config(reader: ConfigReader) -> Decoder:
    heads = dense.read_attention(reader, 128, default_theta=1e6)
    window, scale = dense.read_window(reader, None), _read_query_scale(reader)
    attention = Attention(**heads, sliding_window=window, query_scale=scale)
    norm, ffn = dense.read_norm(reader, default_eps=1e-5), dense.read_gated_mlp(reader)
    mixers = [attention] * reader.positive("num_hidden_layers")
    return dense.finish_decoder(reader, dense.pre_norm_blocks(norm, mixers, ffn), norm)


def _read_query_scale(reader: ConfigReader) -> LogScale:
    for key in ("rope_parameters", "rope_scaling"):
        given = reader.values.get(key)
        if isinstance(given, Mapping):
            inner = ConfigReader(given, f"{reader.name}: {key}")
            reader.consume(f"{key}/{STRENGTH}")
            inner.take(STRENGTH, float)
            return LogScale(strength=inner.factor(STRENGTH, 0.1), interval=inner.positive(INTERVAL))
    raise ConfigError(
        f"{reader.name}: key 'rope_parameters' is missing; expected a mapping with {STRENGTH!r}"
    )


def write_config(config: Decoder) -> dict[str, Any]:
    attention, written = dense.attentions(config)[0], dense.write_decoder(config)
    if attention.query_scale is None or attention.rope is None:
        raise ConfigError("the 'ministral3' layout scales queries by position and turns them")
    written["rope_parameters"] |= {
        STRENGTH: attention.query_scale.strength,
        INTERVAL: attention.query_scale.interval,
    }
    return written | {"architectures": ["Ministral3ForCausalLM"], "sliding_window": attention.sliding_window}


FAMILY = Family(
    model_type="ministral3",
    summary="Ministral 3",
    read_config=read_config,
    write_config=write_config,
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
