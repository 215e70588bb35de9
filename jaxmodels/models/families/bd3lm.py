"""BD3-LM (`model_type` "bd3lm"): text by block diffusion, with adaptive norms at one and the same time.

Source: https://arxiv.org/abs/2503.09573 and the configuration and modeling files of
kuleshov-group/bd3lm-owt-block_size4. The norms go by an embedding of the noise level, but the published
models were trained with level 0 throughout. The mask token is the last of the vocabulary, and texts begin
with GPT-2's end-of-text token. The logits at a mask speak of its own place.
"""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import NORM_PARTS, AdaptiveNorm, ProjectedModulation
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense, filling

# Dropout, kernels, and the noise that training draws.
INERT = ("attn_backend", "dropout", "sampling_eps_max", "sampling_eps_min", "var_min")


def modulation_rows(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The rows of a `ProjectedModulation`."""
    return (
        Weight(f"{ours}/w", f"{theirs}.weight", "(m d) c -> m d c"),
        Weight(f"{ours}/b", f"{theirs}.bias", "(m d) -> m d"),
    )


LAYER, LAST = "backbone.blocks.{i}.", "backbone.output_layer."
WEIGHTS = (
    Weight("embed/weight", "backbone.vocab_embed.embedding"),
    *dense.affine_rows("time/{p}_in", "backbone.sigma_map.mlp.0"),
    *dense.affine_rows("time/{p}_out", "backbone.sigma_map.mlp.2"),
    Weight("final_norm/norm/scale", LAST + "norm_final.weight"),
    *modulation_rows("final_norm/modulation", LAST + "adaLN_modulation"),
    Weight("head/weight", LAST + "linear.weight"),
    Weight("head/bias", LAST + "linear.bias"),
    Weight("blocks/{i}/mixer_norm/scale", LAYER + "norm1.weight"),
    Weight("blocks/{i}/ffn_norm/scale", LAYER + "norm2.weight"),
    *dense.fused_rows(LAYER + "attn_qkv", "(n h) d -> n h d", along=0),
    Weight("blocks/{i}/mixer/w_o", LAYER + "attn_out.weight", "d (n h) -> d n h"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_up", LAYER + "mlp.0"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_down", LAYER + "mlp.2"),
    *modulation_rows("blocks/{i}/modulation", LAYER + "adaLN_modulation"),
)


def read_config(reader: ConfigReader) -> Decoder:
    for key, published in (("adaln", True), ("causal", False), ("cross_attn", True)):
        reader.expect(key, published)
    reader.expect("time_conditioning", False)
    heads = dense.read_equal_heads(reader, "hidden_dim", "n_heads")
    d_model, width = heads["d_model"], reader.positive("cond_dim")
    norm = LayerNorm(dim=d_model, bias=False)
    block = AdaptiveBlock(
        mixer_norm=norm,
        mixer=Attention(**heads, rope=Rope(rotary_dim=heads["head_dim"], theta=10_000.0)),
        ffn_norm=norm,
        ffn=MLP(d_model=d_model, d_ff=4 * d_model, activation="gelu_pytorch_tanh"),
        modulation=ProjectedModulation(d_model=d_model, d_condition=width),
    )
    last = ProjectedModulation(d_model=d_model, d_condition=width, parts=NORM_PARTS)
    vocab_size = reader.positive("vocab_size")
    return Decoder(
        vocab_size=vocab_size,
        d_model=d_model,
        blocks=(block,) * reader.positive("n_blocks"),
        final_norm=AdaptiveNorm(norm=norm, modulation=last),
        head_bias=True,
        time=TimestepEmbedding(d_model=width),
        max_positions=reader.count("model_length"),
        mask=filling.read_block_causal(reader, 1),
        filling=filling.read_filling(reader, vocab_size, vocab_size - 1),
        family="bd3lm",
    )


def write_config(config: Decoder) -> dict[str, Any]:
    attention, time = dense.attentions(config)[0], config.time
    assert time is not None
    return (
        filling.write_filling(config)
        | filling.write_block_causal(config)
        | {
            "architectures": ["BD3LM"],
            "model_type": "bd3lm",
            "vocab_size": config.vocab_size,
            "hidden_dim": config.d_model,
            "n_blocks": len(config.blocks),
            "n_heads": attention.num_heads,
            "cond_dim": time.d_model,
            **({"model_length": config.max_positions} if config.max_positions else {}),
            "adaln": True,
            "causal": False,
            "cross_attn": True,
            "time_conditioning": False,
        }
    )


FAMILY = Family(
    model_type="bd3lm",
    summary="BD3-LM, block diffusion on OpenWebText",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
    # What training has learned of the noise to draw.
    unused=(r"sampling_eps_(min|max)",),
)
