"""MAGE in the names of its authors' code (`MaskedGenerativeEncoderViT`), which has no configuration file.

The keys are the arguments of that class; ``img_size`` and ``patch_size`` say how many codes an image has. The
autoencoder's tensors, which the code saves beside, are those of a model by itself.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.models.denoisers import weight_rows
from jaxmodels.models.denoisers.weight_rows import affine
from jaxmodels.models.family import Family, Weight
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.readers import dense
from jaxmodels.models.token_images.mage import MAGE
from jaxmodels.models.token_images.vit import EPS, FACTOR, vit_blocks

_HEAD_EPS = 1e-5

# Learning to see, the ratios of masks in training, and what the code makes but never reads.
INERT = (
    "in_chans", "mask_ratio_max", "mask_ratio_min", "mask_ratio_mu", "mask_ratio_std", "norm_pix_loss",
    "vqgan_ckpt_path",
)  # fmt: skip


def read_config(reader: ConfigReader) -> MAGE:
    reader.expect("mlp_ratio", FACTOR)
    size, patch = reader.positive_or("img_size", 256), reader.positive_or("patch_size", 16)
    reader.check_divides("patch_size", patch, "img_size", size)
    wide, narrow = reader.positive_or("embed_dim", 1024), reader.positive_or("decoder_embed_dim", 512)
    return MAGE(
        num_codes=reader.positive_or("codebook_size", 1024),
        places=(size // patch) ** 2,
        encoder=vit_blocks(reader, wide, ("num_heads", 16), ("depth", 24)),
        decoder=vit_blocks(reader, narrow, ("decoder_num_heads", 16), ("decoder_depth", 8)),
        embed_norm=LayerNorm(dim=wide, eps=EPS),
        encoder_norm=LayerNorm(dim=wide, eps=EPS),
        decoder_norm=LayerNorm(dim=narrow, eps=EPS),
        head_norm=LayerNorm(dim=wide, eps=_HEAD_EPS),
        family=FAMILY.model_type,
    )


def write_config(config: MAGE) -> dict[str, Any]:
    encoder, decoder = config.encoder[0].mixer, config.decoder[0].mixer
    assert isinstance(encoder, Attention) and isinstance(decoder, Attention)
    patch, side = 16, int(config.places**0.5)
    return {
        "_class_name": FAMILY.model_type,
        "codebook_size": config.num_codes,
        "decoder_depth": len(config.decoder),
        "decoder_embed_dim": decoder.d_model,
        "decoder_num_heads": decoder.num_heads,
        "depth": len(config.encoder),
        "embed_dim": encoder.d_model,
        "img_size": patch * side,
        "mlp_ratio": FACTOR,
        "num_heads": encoder.num_heads,
        "patch_size": patch,
    }


def named_weights(config: MAGE) -> tuple[Weight, ...]:
    """All rows: the two halves number their blocks alike."""
    return (
        Weight("embed/weight", "token_emb.word_embeddings.weight"),
        Weight("positions/weight", "token_emb.position_embeddings.weight"),
        *dense.layer_norm_rows("embed_norm", "token_emb.LayerNorm"),
        *_blocks("encoder", "blocks", len(config.encoder)),
        *dense.layer_norm_rows("encoder_norm", "norm"),
        *affine("narrow/{p}", "decoder_embed"),
        Weight("decoder_positions/weight", "decoder_pos_embed_learned", "1 s d -> s d"),
        *_blocks("decoder", "decoder_blocks", len(config.decoder)),
        *dense.layer_norm_rows("decoder_norm", "decoder_norm"),
        *affine("head/{p}", "mlm_layer.fc"),
        *dense.layer_norm_rows("head/norm", "mlm_layer.ln"),
        Weight("head/bias", "mlm_layer.bias", "1 1 v -> v"),
    )


def _blocks(ours: str, theirs: str, count: int) -> Iterator[Weight]:
    for i in range(count):
        yield from weight_rows.vit_block(f"{ours}/{i}", f"{theirs}.{i}.")


FAMILY = Family(
    model_type="MaskedGenerativeEncoderViT",
    summary="MAGE",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    unused=(
        r"vqgan\..+",
        r"patch_embed\..+",
        r"decoder_pred\..+",
        r"cls_token|mask_token|pos_embed|decoder_pos_embed",
        r"token_emb\.position_ids",
    ),
    named_weights=named_weights,
    inert=INERT,
)
