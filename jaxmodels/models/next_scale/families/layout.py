"""What the layouts of VAR and M-VAR have in common: config keys, weight names.

The keys are the arguments of their classes, with two of the autoencoder's, ``Cvae`` and ``V``, which those
take from there.
"""

from itertools import chain
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.policy import CachePolicy
from jaxmodels.layers.condition import ProjectedModulation
from jaxmodels.layers.masks import Mask
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import HeadScaledUnitNorm, LayerNorm, UnitNorm
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.denoisers.parts import LAST_PARTS, bare_norm, final_norm
from jaxmodels.models.denoisers.weight_rows import HEAD_BIAS, HEADS, affine
from jaxmodels.models.family import Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.next_scale.decoupled_block import DecoupledBlock
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.models.trunk import Trunk

# Training, and kernels.
INERT = (
    "attn_drop_rate", "cond_drop_rate", "drop_path_rate", "drop_rate", "flash_if_available",
    "fused_if_available",
)  # fmt: skip
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def read_sides(reader: ConfigReader) -> tuple[int, ...]:
    """Codes in each row of each scale, which rise from scale to scale."""
    return reader.counts("patch_nums", tuple(reader.take_or("patch_nums", list, list(SIDES))))


def read_width(reader: ConfigReader) -> int:
    """Width of the stream."""
    return reader.positive_or("embed_dim", 1024)


def read_norm(reader: ConfigReader, width: int) -> LayerNorm:
    """That in front of each layer of a block."""
    return bare_norm(width, reader.epsilon("norm_eps", 1e-6))


def read_attention(reader: ConfigReader, width: int, cache: CachePolicy = FULL_CACHE) -> Attention:
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
        cache=cache,
    )


def read_feed_forward(reader: ConfigReader, width: int) -> MLP:
    """That of a block."""
    hidden = round(width * reader.factor("mlp_ratio", 4.0))
    return MLP(d_model=width, d_ff=hidden, activation="gelu_pytorch_tanh")


def read_model(
    reader: ConfigReader,
    family: str,
    block: AdaptiveBlock | DecoupledBlock,
    *,
    sides: tuple[int, ...],
    mask: Mask,
    shared_modulation: ProjectedModulation | None = None,
) -> VAR:
    """The model whose blocks are all `block`."""
    width = read_width(reader)
    return VAR(
        sides=sides,
        num_codes=reader.positive_or("V", 4096),
        code_width=reader.positive_or("Cvae", 32),
        num_classes=reader.positive_or("num_classes", 1000),
        trunk=Trunk(d_model=width, blocks=(block,) * reader.positive_or("depth", 16), mask=mask),
        shared_modulation=shared_modulation,
        head_norm=final_norm(width, LAST_PARTS),
        family=family,
    )


def write_config(config: VAR) -> dict[str, Any]:
    """The inverse of both layouts' `read_config`."""
    block = config.blocks[0]
    assert isinstance(block, AdaptiveBlock | DecoupledBlock) and isinstance(block.ffn, MLP)
    assert isinstance(block.mixer, Attention) and isinstance(block.mixer_norm, LayerNorm)
    return {
        "_class_name": config.family,
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
    *weight_rows.modulation("head_norm/modulation", "head_nm.ada_lin.1"),
    Weight("head/weight", "head.weight"),
    Weight("head/bias", "head.bias"),
)
# Of both layouts.
WEIGHTS = (
    *END_WEIGHTS,
    *weight_rows.modulation("blocks/{i}/modulation", BLOCK + "ada_lin.1"),
    *ATTENTION_WEIGHTS,
    *FFN_WEIGHTS,
)
# Tables that the class computes when it is made.
UNUSED = ("lvl_1L", "attn_bias_for_masking")
