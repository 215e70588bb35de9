"""GPT-2 (`model_type` "gpt2"): learned positions; weights that are stored input-major."""

from dataclasses import replace
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense

# Dropout, what only classifiers read, and a precision that does not change the arithmetic in float32.
INERT = (
    "n_ctx", "n_special", "predict_special_tokens", "reorder_and_upcast_attn", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
)  # fmt: skip

LAYER = "transformer.h.{i}."
WEIGHTS = (
    Weight("embed/weight", "transformer.wte.weight"),
    Weight("positions/weight", "transformer.wpe.weight"),
    Weight("head/weight", "lm_head.weight"),
    *dense.layer_norm_rows("final_norm", "transformer.ln_f"),
    *dense.layer_norm_rows("blocks/{i}/mixer_norm", LAYER + "ln_1"),
    *dense.layer_norm_rows("blocks/{i}/ffn_norm", LAYER + "ln_2"),
    *dense.fused_rows(LAYER + "attn.c_attn", "d (n h) -> n h d", along=1),
    *dense.affine_rows("blocks/{i}/mixer/{p}_o", LAYER + "attn.c_proj", "(n h) d -> d n h"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_up", LAYER + "mlp.c_fc", "d f -> f d"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_down", LAYER + "mlp.c_proj", "f d -> d f"),
)


def read_config(reader: ConfigReader) -> Decoder:
    reader.expect("add_cross_attention", False)
    attention = Attention(**dense.read_equal_heads(reader, "n_embd", "n_head"), qkv_bias=True, out_bias=True)
    scale = attention.head_dim**-0.5 if reader.flag("scale_attn_weights", True) else 1.0
    falls = reader.flag("scale_attn_by_inverse_layer_idx", False)
    layers = range(1, reader.positive("n_layer") + 1)
    mixers = [replace(attention, scale=scale / i if falls else scale) for i in layers]
    norm = LayerNorm(dim=attention.d_model, eps=reader.epsilon("layer_norm_epsilon", 1e-5))
    d_ff = reader.positive_or("n_inner", 4 * norm.dim)
    activation = dense.read_activation(reader, "activation_function", "gelu_new")
    blocks = dense.pre_norm_blocks(norm, mixers, MLP(d_model=norm.dim, d_ff=d_ff, activation=activation))
    reader.positive("n_positions")
    config = dense.finish_decoder(reader, blocks, norm, default_tie=True, positions="n_positions")
    return replace(config, learned_positions=config.max_positions)


def write_config(config: Decoder) -> dict[str, Any]:
    layers, ffn, norm = dense.attentions(config), config.blocks[0].ffn, config.final_norm
    assert isinstance(ffn, MLP) and isinstance(norm, LayerNorm)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_head": layers[0].num_heads,
        "n_layer": len(layers),
        "n_inner": None if ffn.d_ff == 4 * config.d_model else ffn.d_ff,
        "n_positions": config.learned_positions,
        "activation_function": ffn.activation,
        "layer_norm_epsilon": norm.eps,
        "scale_attn_weights": layers[0].scale == layers[0].head_dim ** -0.5,
        "scale_attn_by_inverse_layer_idx": layers[-1].scale != layers[0].scale,
        "tie_word_embeddings": config.tie_embeddings,
    }


FAMILY = Family(
    model_type="gpt2",
    summary="GPT-2",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
    unused=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
)
