"""GPT-NeoX and Pythia (`model_type` "gpt_neox"): parallel blocks with two norms, heads fused one by one."""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.block import Block, ParallelBlock
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense

LAYER = "gpt_neox.layers.{i}."
WEIGHTS = (
    Weight("embed/weight", "gpt_neox.embed_in.weight"),
    Weight("head/weight", "embed_out.weight"),
    *dense.layer_norm_rows("final_norm", "gpt_neox.final_layer_norm"),
    *dense.layer_norm_rows("blocks/{i}/mixer_norm", LAYER + "input_layernorm"),
    *dense.layer_norm_rows("blocks/{i}/ffn_norm", LAYER + "post_attention_layernorm"),
    *dense.fused_rows(LAYER + "attention.query_key_value", "(n h) d -> n h d", along=0, per="n"),
    *dense.affine_rows("blocks/{i}/mixer/{p}_o", LAYER + "attention.dense", "d (n h) -> d n h"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_up", LAYER + "mlp.dense_h_to_4h"),
    *dense.affine_rows("blocks/{i}/ffn/{p}_down", LAYER + "mlp.dense_4h_to_h"),
)


def read_config(reader: ConfigReader) -> Decoder:
    heads = dense.read_equal_heads(reader, "hidden_size", "num_attention_heads")
    rope = dense.read_partial_rope(
        reader,
        heads["head_dim"],
        default_theta=reader.base("rotary_emb_base", dense.DEFAULT_THETA),
        default_factor=reader.take_or("rotary_pct", float, 0.25),
    )
    bias = reader.flag("attention_bias", True)
    attention = Attention(**heads, rope=rope, qkv_bias=bias, out_bias=bias)
    d_ff, activation = reader.positive("intermediate_size"), dense.read_activation(reader, default="gelu")
    ffn = MLP(d_model=attention.d_model, d_ff=d_ff, activation=activation)
    norm = LayerNorm(dim=attention.d_model, eps=reader.epsilon("layer_norm_eps", 1e-5))
    kind = ParallelBlock if reader.flag("use_parallel_residual", True) else Block
    block = kind(mixer_norm=norm, mixer=attention, ffn_norm=norm, ffn=ffn)
    return dense.finish_decoder(reader, [block] * reader.positive("num_hidden_layers"), norm)


def write_config(config: Decoder) -> dict[str, Any]:
    norm, written = config.final_norm, dense.write_sizes(config) | dense.write_rope(config)
    assert isinstance(norm, LayerNorm)
    written["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
    for key in ("head_dim", "num_key_value_heads"):
        del written[key]
    return written | {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": dense.attentions(config)[0].qkv_bias,
        "layer_norm_eps": norm.eps,
        "use_parallel_residual": isinstance(config.blocks[0], ParallelBlock),
    }


FAMILY = Family(
    model_type="gpt_neox",
    summary="GPT-NeoX and Pythia",
    read_config=read_config,
    write_config=write_config,
    weights=WEIGHTS,
    unused=(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
)
