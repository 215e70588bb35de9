"""Dream (`model_type` "Dream"): Qwen2's shape and names; tokens see all others, logits speak of the next one.

Source: https://arxiv.org/abs/2508.15487 and the configuration and modeling files of
Dream-org/Dream-v0-Instruct-7B. DiffuCoder (https://arxiv.org/abs/2506.20639) has the same files.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, filling

# The default of the authors' configuration class.
MASK_TOKEN = 151_666


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("use_sliding_window", False)
    reader.consume("sliding_window")  # of no meaning where it is not in use
    attention = Attention(**dense.read_attention(reader), qkv_bias=True)
    config = dense.read_decoder(reader, [attention] * reader.positive("num_hidden_layers"), mlp_bias=False)
    return replace(
        config,
        mask=BIDIRECTIONAL,
        filling=filling.read_filling(reader, config.vocab_size, MASK_TOKEN, offset=1),
    )


def write_config(config: Decoder) -> dict[str, Any]:
    return dense.write_decoder(config) | filling.write_filling(config) | {"architectures": ["DreamModel"]}


FAMILY = Family(
    model_type="Dream",
    summary="Dream-v0, DiffuCoder",
    read_config=read_config,
    write_config=write_config,
    inert=("attn_implementation", "max_window_layers"),
    weights=dense.WEIGHTS,
    unused=dense.UNUSED,
)
