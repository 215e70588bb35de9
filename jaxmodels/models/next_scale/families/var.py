"""VAR in the names of its authors' code (https://github.com/FoundationVision/VAR, class ``VAR``).

The keys are the arguments of that class, with two of its autoencoder's, ``Cvae`` and ``V``, which it takes
from there.
"""

from itertools import chain
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import ProjectedModulation, TableModulation
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import HeadScaledUnitNorm, LayerNorm, UnitNorm
from jaxmodels.layers.stages import StageCausal
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.denoisers.parts import LAST_PARTS, bare_norm, final_norm
from jaxmodels.models.denoisers.weight_rows import HEAD_BIAS, HEADS, affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.models.trunk import Trunk

# In the order in which a block's projection holds them.
PARTS = ("mixer_gate", "ffn_gate", "mixer_scale", "ffn_scale", "mixer_shift", "ffn_shift")
# Training, and kernels.
INERT = (
    "attn_drop_rate", "cond_drop_rate", "drop_path_rate", "drop_rate", "flash_if_available",
    "fused_if_available",
)  # fmt: skip
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def read_sides(reader: ConfigReader, key: str) -> tuple[int, ...]:
    """Codes in each row of each scale, which rise from scale to scale."""
    return reader.counts(key, tuple(reader.take_or(key, list, list(SIDES))))


def attention(reader: ConfigReader, width: int) -> Attention:
    """That of a block, with cosines as logits or without."""
    heads = reader.positive_or("num_heads", 16)
    reader.check_divides("num_heads", heads, "embed_dim", width)
    cosine = reader.flag("attn_l2_norm", False)
    return Attention(
        d_model=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        query_norm=HeadScaledUnitNorm(num_heads=heads) if cosine else None,
        key_norm=UnitNorm() if cosine else None,
        scale=1.0 if cosine else 0.25 * (width // heads) ** -0.5,
        qkv_bias=True,
        out_bias=True,
    )


def read_config(reader: ConfigReader) -> VAR:
    width, shared = reader.positive_or("embed_dim", 1024), reader.flag("shared_aln", False)
    norm = bare_norm(width, reader.epsilon("norm_eps", 1e-6))
    sides = read_sides(reader, "patch_nums")
    own = ProjectedModulation(d_model=width, d_condition=width, parts=PARTS)
    table = TableModulation(d_model=width, d_condition=len(PARTS) * width, parts=PARTS)
    block = AdaptiveBlock(
        mixer_norm=norm,
        mixer=attention(reader, width),
        ffn_norm=norm,
        ffn=MLP(
            d_model=width, d_ff=round(width * reader.factor("mlp_ratio", 4.0)), activation="gelu_pytorch_tanh"
        ),
        modulation=table if shared else own,
    )
    return VAR(
        sides=sides,
        num_codes=reader.positive_or("V", 4096),
        code_width=reader.positive_or("Cvae", 32),
        num_classes=reader.positive_or("num_classes", 1000),
        trunk=Trunk(
            d_model=width,
            blocks=(block,) * reader.positive_or("depth", 16),
            mask=StageCausal(tuple(side**2 for side in sides)),
        ),
        shared_modulation=own if shared else None,
        head_norm=final_norm(width, LAST_PARTS),
        family=FAMILY.model_type,
    )


def write_config(config: VAR) -> dict[str, Any]:
    block = config.blocks[0]
    assert isinstance(block, AdaptiveBlock) and isinstance(block.ffn, MLP)
    assert isinstance(block.mixer, Attention) and isinstance(block.mixer_norm, LayerNorm)
    return {
        "_class_name": FAMILY.model_type,
        "Cvae": config.code_width,
        "V": config.num_codes,
        "attn_l2_norm": block.mixer.query_norm is not None,
        "depth": len(config.blocks),
        "embed_dim": config.d_model,
        "mlp_ratio": block.ffn.d_ff / config.d_model,
        "norm_eps": block.mixer_norm.eps,
        "num_classes": config.num_classes,
        "num_heads": block.mixer.num_heads,
        "patch_nums": list(config.sides),
        "shared_aln": config.shared_modulation is not None,
    }


BLOCK = "blocks.{i}."
ATTENTION_WEIGHTS = (
    *(Weight(f"blocks/{{i}}/mixer/w_{part}", f"{BLOCK}attn.mat_qkv.weight", HEADS) for part in "qkv"),
    Weight("blocks/{i}/mixer/b_q", BLOCK + "attn.q_bias", HEAD_BIAS),
    Weight("blocks/{i}/mixer/b_k", BLOCK + "attn.zero_k_bias", HEAD_BIAS),
    Weight("blocks/{i}/mixer/b_v", BLOCK + "attn.v_bias", HEAD_BIAS),
    Weight("blocks/{i}/mixer/query_norm/log_scale", BLOCK + "attn.scale_mul_1H11", "1 n h 1 -> n h"),
    *affine("blocks/{i}/mixer/{p}_o", BLOCK + "attn.proj", "d (n h) -> d n h"),
)
FFN_WEIGHTS = tuple(
    chain(
        affine("blocks/{i}/ffn/{p}_up", BLOCK + "ffn.fc1"),
        affine("blocks/{i}/ffn/{p}_down", BLOCK + "ffn.fc2"),
    )
)
END_WEIGHTS = (
    *affine("in/{p}", "word_embed"),
    Weight("classes/weight", "class_emb.weight"),
    Weight("start/weight", "pos_start", "1 s d -> s d"),
    Weight("positions/weight", "pos_1LC", "1 s d -> s d"),
    Weight("levels/weight", "lvl_embed.weight"),
    *weight_rows.modulation("shared_modulation", "shared_ada_lin.1"),
    *weight_rows.modulation("head_norm/modulation", "head_nm.ada_lin.1"),
    Weight("head/weight", "head.weight"),
    Weight("head/bias", "head.bias"),
)
# Tables that the class computes when it is made.
UNUSED = ("lvl_1L", "attn_bias_for_masking")

FAMILY = Family(
    model_type="VAR",
    summary="VAR",
    read_config=read_config,
    write_config=write_config,
    weights=(
        *END_WEIGHTS,
        *weight_rows.modulation("blocks/{i}/modulation", BLOCK + "ada_lin.1"),
        Weight("blocks/{i}/modulation/table", BLOCK + "ada_gss", "1 1 m d -> m d"),
        *ATTENTION_WEIGHTS,
        *FFN_WEIGHTS,
    ),
    unused=UNUSED,
    inert=INERT,
)
