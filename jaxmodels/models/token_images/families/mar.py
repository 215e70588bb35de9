"""MAR in the names of its authors' code (class ``MAR``), which has no configuration file.

The keys are the arguments of that class. Its weights are saved as ``model_ema`` of a pickle.
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
from jaxmodels.models.token_images.diffusion_head import DiffusionHead
from jaxmodels.models.token_images.mar import MAR
from jaxmodels.models.token_images.vit import EPS, FACTOR, vit_blocks

# Training, and sampling, which is for the caller to choose.
INERT = (
    "attn_dropout", "diffusion_batch_mul", "grad_checkpointing", "label_drop_prob", "mask_ratio_min",
    "num_sampling_steps", "proj_dropout",
)  # fmt: skip


def read_config(reader: ConfigReader) -> MAR:
    reader.expect("mlp_ratio", FACTOR)
    size, stride = reader.positive_or("img_size", 256), reader.positive_or("vae_stride", 16)
    patch, channels = reader.positive_or("patch_size", 1), reader.positive_or("vae_embed_dim", 16)
    reader.check_divides("vae_stride * patch_size", stride * patch, "img_size", size)
    wide, width = reader.positive_or("encoder_embed_dim", 1024), reader.positive_or("decoder_embed_dim", 1024)
    return MAR(
        side=size // stride // patch,
        patch=patch,
        buffer=reader.positive_or("buffer_size", 64),
        num_classes=reader.positive_or("class_num", 1000),
        encoder=vit_blocks(reader, wide, ("encoder_num_heads", 16), ("encoder_depth", 16)),
        decoder=vit_blocks(reader, width, ("decoder_num_heads", 16), ("decoder_depth", 16)),
        input_norm=LayerNorm(dim=wide, eps=EPS),
        encoder_norm=LayerNorm(dim=wide, eps=EPS),
        decoder_norm=LayerNorm(dim=width, eps=EPS),
        head=DiffusionHead(
            channels=channels * patch**2,
            width=reader.positive_or("diffloss_w", 1024),
            depth=reader.positive_or("diffloss_d", 3),
            d_condition=width,
        ),
        family=FAMILY.model_type,
    )


def write_config(config: MAR) -> dict[str, Any]:
    encoder, decoder, stride = config.encoder[0].mixer, config.decoder[0].mixer, 16
    assert isinstance(encoder, Attention) and isinstance(decoder, Attention)
    return {
        "_class_name": FAMILY.model_type,
        "buffer_size": config.buffer,
        "class_num": config.num_classes,
        "decoder_depth": len(config.decoder),
        "decoder_embed_dim": decoder.d_model,
        "decoder_num_heads": decoder.num_heads,
        "diffloss_d": config.head.depth,
        "diffloss_w": config.head.width,
        "encoder_depth": len(config.encoder),
        "encoder_embed_dim": encoder.d_model,
        "encoder_num_heads": encoder.num_heads,
        "img_size": config.side * config.patch * stride,
        "mlp_ratio": FACTOR,
        "patch_size": config.patch,
        "vae_embed_dim": config.head.channels // config.patch**2,
        "vae_stride": stride,
    }


def named_weights(config: MAR) -> tuple[Weight, ...]:
    """All rows: the two halves number their blocks alike."""
    return (
        Weight("classes/weight", "class_emb.weight"),
        Weight("no_class/weight", "fake_latent"),
        *affine("in/{p}", "z_proj"),
        Weight("positions/weight", "encoder_pos_embed_learned", "1 s d -> s d"),
        *dense.layer_norm_rows("input_norm", "z_proj_ln"),
        *_blocks("encoder", "encoder_blocks", len(config.encoder)),
        *dense.layer_norm_rows("encoder_norm", "encoder_norm"),
        *affine("decoder_in/{p}", "decoder_embed"),
        Weight("unknown/weight", "mask_token", "1 s d -> s d"),
        Weight("decoder_positions/weight", "decoder_pos_embed_learned", "1 s d -> s d"),
        *_blocks("decoder", "decoder_blocks", len(config.decoder)),
        *dense.layer_norm_rows("decoder_norm", "decoder_norm"),
        Weight("head_positions/weight", "diffusion_pos_embed_learned", "1 s d -> s d"),
        *_head("head", "diffloss.net.", config.head.depth),
    )


def _blocks(ours: str, theirs: str, count: int) -> Iterator[Weight]:
    for i in range(count):
        yield from weight_rows.vit_block(f"{ours}/{i}", f"{theirs}.{i}.")


def _head(ours: str, theirs: str, depth: int) -> Iterator[Weight]:
    yield from affine(f"{ours}/in/{{p}}", f"{theirs}input_proj")
    yield from affine(f"{ours}/condition/{{p}}", f"{theirs}cond_embed")
    yield from affine(f"{ours}/time/{{p}}_in", f"{theirs}time_embed.mlp.0")
    yield from affine(f"{ours}/time/{{p}}_out", f"{theirs}time_embed.mlp.2")
    for i in range(depth):
        layer, name = f"{ours}/layers/{i}", f"{theirs}res_blocks.{i}."
        yield from dense.layer_norm_rows(f"{layer}/norm", f"{name}in_ln")
        yield from weight_rows.modulation(f"{layer}/modulation", f"{name}adaLN_modulation.1")
        yield from affine(f"{layer}/in/{{p}}", f"{name}mlp.0")
        yield from affine(f"{layer}/out/{{p}}", f"{name}mlp.2")
    yield from weight_rows.modulation(
        f"{ours}/final_norm/modulation", f"{theirs}final_layer.adaLN_modulation.1"
    )
    yield from affine(f"{ours}/out/{{p}}", f"{theirs}final_layer.linear")


FAMILY = Family(
    model_type="MAR",
    summary="MAR",
    read_config=read_config,
    write_config=write_config,
    weights=(),
    named_weights=named_weights,
    inert=INERT,
)
