"""What the OLMo families from the second on have in common: norms across all heads of queries and keys."""

from collections.abc import Iterable
from dataclasses import replace

from jaxmodels.layers.attention import Attention
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense

EPS = 1e-5


def read_olmo_attention(reader: ConfigReader) -> Attention:
    """The attention of OLMo 2 and 3, without its positions."""
    heads = dense.read_heads(reader)
    norm = replace(dense.read_norm(reader, default_eps=EPS), axis=None)
    bias = reader.flag("attention_bias", False)
    return Attention(
        **heads,
        query_norm=replace(norm, dim=heads["num_heads"] * heads["head_dim"]),
        key_norm=replace(norm, dim=heads["num_kv_heads"] * heads["head_dim"]),
        norm_across_heads=True,
        qkv_bias=bias,
        out_bias=bias,
    )


def read_olmo(reader: ConfigReader, mixers: Iterable[Attention]) -> Decoder:
    """The decoder around the attention layers of OLMo 2 and 3."""
    norm, ffn = dense.read_norm(reader, default_eps=EPS), dense.read_gated_mlp(reader)
    blocks = [Block(mixer=mixer, mixer_post_norm=norm, ffn=ffn, ffn_post_norm=norm) for mixer in mixers]
    return dense.finish_decoder(reader, blocks, norm)
