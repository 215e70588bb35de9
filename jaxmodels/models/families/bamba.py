"""Bamba (`model_type` "bamba"): Mamba-2 and attention layers, each with a gated feed-forward."""

from typing import Any

from jaxmodels.checks import shown
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, hybrid

WEIGHTS = (
    *hybrid.FRAME_WEIGHTS,
    *hybrid.GATED_MLP_WEIGHTS,
    *dense.ATTENTION_WEIGHTS,
    *hybrid.ssd_weights("blocks/{i}/mixer", "model.layers.{i}.mamba"),
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("hidden_act", "silu", "swish")  # it is also the convolution's
    norm, layers = dense.read_norm(reader, default_eps=1e-5), reader.positive("num_hidden_layers")
    # transformers' code turns half of each head, whatever older configurations say.
    attention = hybrid.read_attention(reader, default_partial_rotary_factor=0.5)
    reader.expect("attn_rotary_emb", attention.rope and attention.rope.rotary_dim)
    ssd, ffn = hybrid.read_ssd(reader, norm), dense.read_gated_mlp(reader, reader.flag("mlp_bias", False))
    attended = set(reader.indices("attn_layer_indices", layers, []))
    if not 0 < len(attended) < layers:
        raise ConfigError(
            f"{reader.name}: key 'attn_layer_indices' must name some, not all, of the layers 0 to "
            f"{layers - 1}, got {shown(sorted(attended))}"
        )
    blocks = [
        Block(mixer_norm=norm, mixer=attention if i in attended else ssd, ffn_norm=norm, ffn=ffn)
        for i in range(layers)
    ]
    return dense.finish_decoder(reader, blocks, norm)


def write_config(config: Decoder) -> dict[str, Any]:
    ssd, ffn = hybrid.first_of(config, SSDMixer), hybrid.first_of(config, GatedMLP)
    attended = [i for i, block in enumerate(config.blocks) if isinstance(block.mixer, Attention)]
    return (
        hybrid.write_decoder(config)
        | hybrid.write_attention(hybrid.first_of(config, Attention))
        | hybrid.write_ssd(ssd)
        | {
            "architectures": ["BambaForCausalLM"],
            "attn_layer_indices": attended,
            "intermediate_size": ffn.d_ff,
            "hidden_act": ffn.activation,
            "mlp_bias": ffn.bias,
            "mamba_expand": ssd.d_inner // ssd.d_model,
        }
    )


FAMILY = Family(
    model_type="bamba",
    summary="Bamba: Mamba-2 with a few attention layers",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
)
