"""LLaDA (`model_type` "llada"): Llama's shape under OLMo's names; each token sees all others.

Source: https://arxiv.org/abs/2502.09992 and the configuration and modeling files of GSAI-ML/LLaDA-8B-Base.
Their configuration class knows many switches of OLMo; those that no published file turns on are refused here.
"""

from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigError, ConfigReader
from jaxmodels.models.readers import dense, filling

# What stands for an unknown token in the authors' generate.py.
MASK_TOKEN = 126_336

# The class's own values for these are those of another model, so that they have to stand in the file.
REQUIRED = {"block_type": "llama", "layer_norm_type": "rms", "rope": True}
OFF = ("alibi", "attention_layer_norm", "include_bias", "input_emb_norm", "scale_logits")
INERT = (
    "alibi_bias_max", "attention_layer_norm_with_affine", "flash_attention", "init_cutoff_factor",
    "init_device", "init_fn", "precision", "residual_dropout", "rope_full_precision",
)  # fmt: skip

BLOCK = "model.transformer.blocks.{i}"
WEIGHTS = (
    Weight("embed/weight", "model.transformer.wte.weight"),
    Weight("final_norm/scale", "model.transformer.ln_f.weight"),
    Weight("head/weight", "model.transformer.ff_out.weight"),
    Weight("blocks/{i}/mixer_norm/scale", f"{BLOCK}.attn_norm.weight"),
    Weight("blocks/{i}/ffn_norm/scale", f"{BLOCK}.ff_norm.weight"),
    Weight("blocks/{i}/mixer/w_q", f"{BLOCK}.q_proj.weight", "(n h) d -> n h d"),
    Weight("blocks/{i}/mixer/w_k", f"{BLOCK}.k_proj.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_v", f"{BLOCK}.v_proj.weight", "(k h) d -> k h d"),
    Weight("blocks/{i}/mixer/w_o", f"{BLOCK}.attn_out.weight", "d (n h) -> d n h"),
    Weight("blocks/{i}/mixer/b_q", f"{BLOCK}.q_proj.bias", "(n h) -> n h"),
    Weight("blocks/{i}/mixer/b_k", f"{BLOCK}.k_proj.bias", "(k h) -> k h"),
    Weight("blocks/{i}/mixer/b_v", f"{BLOCK}.v_proj.bias", "(k h) -> k h"),
    Weight("blocks/{i}/ffn/w_gate", f"{BLOCK}.ff_proj.weight"),
    Weight("blocks/{i}/ffn/w_up", f"{BLOCK}.up_proj.weight"),
    Weight("blocks/{i}/ffn/w_down", f"{BLOCK}.ff_out.weight"),
)


def read_config(reader: ConfigReader) -> Decoder:
    _check_switches(reader)
    attention, ffn = _read_attention(reader), _read_feed_forward(reader)
    norm = RMSNorm(dim=attention.d_model, eps=reader.epsilon("rms_norm_eps", 1e-5))
    vocab_size = _read_vocabulary(reader)
    return Decoder(
        vocab_size=vocab_size,
        d_model=norm.dim,
        blocks=tuple(dense.pre_norm_blocks(norm, [attention] * reader.positive("n_layers"), ffn)),
        final_norm=norm,
        tie_embeddings=reader.flag("weight_tying", True),
        max_positions=reader.count("max_sequence_length"),
        family="llada",
        mask=BIDIRECTIONAL,
        filling=filling.read_filling(reader, vocab_size, MASK_TOKEN),
    )


def _check_switches(reader: ConfigReader) -> None:
    for key, value in REQUIRED.items():
        reader.take(key, type(value))
        reader.expect(key, value)
    for key in OFF:
        reader.expect(key, False)
    reader.expect("bias_for_layer_norm", False, None)
    reader.expect("layer_norm_with_affine", True)
    reader.expect("multi_query_attention", None)
    reader.expect("block_group_size", 1)


def _read_attention(reader: ConfigReader) -> Attention:
    heads = dense.read_equal_heads(reader, "d_model", "n_heads")
    num_kv_heads = reader.positive_or("n_kv_heads", heads["num_heads"])
    reader.check_divides("n_kv_heads", num_kv_heads, "n_heads", heads["num_heads"])
    if heads["head_dim"] % 2:
        raise ConfigError(
            f"{reader.name}: d_model / n_heads = {heads['d_model']} / {heads['num_heads']} must be even, as "
            "the features of a head are turned in pairs"
        )
    return Attention(
        **heads | {"num_kv_heads": num_kv_heads},
        rope=Rope(rotary_dim=heads["head_dim"], theta=reader.base("rope_theta", dense.DEFAULT_THETA)),
        qkv_bias=reader.flag("include_qkv_bias", False),
    )


def _read_feed_forward(reader: ConfigReader) -> GatedMLP:
    d_model, ratio = reader.positive("d_model"), reader.positive_or("mlp_ratio", 4)
    reader.expect("activation_type", "silu", "gelu", "relu")
    return GatedMLP(
        d_model=d_model,
        d_ff=reader.positive_or("mlp_hidden_size", ratio * d_model),
        activation=reader.take("activation_type", str),
    )


def _read_vocabulary(reader: ConfigReader) -> int:
    """The rows of the embedding, of which the last may stand for no token."""
    tokens = reader.positive("vocab_size")
    rows = reader.positive_or("embedding_size", tokens)
    if rows < tokens:
        raise ConfigError(
            f"{reader.name}: key 'embedding_size' must be at least 'vocab_size' = {tokens}, got {rows}"
        )
    return rows


def write_config(config: Decoder) -> dict[str, Any]:
    attention, ffn, norm = dense.attentions(config)[0], config.blocks[0].ffn, config.final_norm
    assert isinstance(ffn, GatedMLP) and isinstance(norm, RMSNorm) and isinstance(attention.rope, Rope)
    return {
        **REQUIRED,
        **filling.write_filling(config),
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "d_model": config.d_model,
        "n_layers": len(config.blocks),
        "n_heads": attention.num_heads,
        "n_kv_heads": attention.num_kv_heads,
        "mlp_hidden_size": ffn.d_ff,
        "activation_type": ffn.activation,
        "include_bias": False,
        "include_qkv_bias": attention.qkv_bias,
        "rms_norm_eps": norm.eps,
        "rope_theta": attention.rope.theta,
        "weight_tying": config.tie_embeddings,
        **({"max_sequence_length": config.max_positions} if config.max_positions else {}),
    }


FAMILY = Family(
    model_type="llada",
    summary="LLaDA-8B, LLaDA-1.5",
    read_config=read_config,
    write_config=write_config,
    inert=INERT,
    weights=WEIGHTS,
)
